//! What happens at a moment, done to the parts of the hub it befalls.

use shared::clock::Skew;
use tokio_util::sync::CancellationToken;

use super::Faults;
use super::rule::{Fault, Rule};
use crate::hub::amqp::{AmqpHub, Break};
use crate::hub::log::Log;

/// The parts of the hub that faults reach into.
#[derive(Clone)]
pub(in crate::hub) struct Hands {
    pub(in crate::hub) log: Log,
    pub(in crate::hub) amqp: AmqpHub,
    pub(in crate::hub) skew: Skew,
}

/// Does what is due until `stop`.
pub(in crate::hub) async fn run(faults: Faults, hands: Hands, stop: CancellationToken) {
    loop {
        let (rules, next) = faults.script().moments(faults.inner.started.elapsed());
        for rule in rules {
            hands.strike(&rule).await;
        }
        let wake = async {
            match next {
                Some(next) => tokio::time::sleep(next.saturating_sub(faults.inner.started.elapsed())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A hub that stops is not to wait for its own misfortune.
            () = stop.cancelled() => return faults.clear(),
            () = faults.inner.changed.notified() => {}
            () = wake => {}
        }
    }
}

impl Hands {
    async fn strike(&self, rule: &Rule) {
        let partitions = || (0..self.log.partition_count()).filter(|at| rule.partition.is_none_or(|only| only == *at));
        let befell = match rule.fault {
            Fault::TrimLog => {
                for partition in partitions() {
                    self.log.trim(partition).await;
                }
                partitions().count()
            }
            Fault::ShiftClock => {
                self.skew.set(rule.shift_micros().unwrap_or(0));
                1
            }
            Fault::DetachReceivers => self.amqp.detach_receivers(rule.partition),
            Fault::MovePartition => partitions().map(|partition| self.amqp.move_partition(partition)).sum(),
            Fault::ExpireServiceTokens => self.amqp.expire_tokens(),
            Fault::ResetServices => self.amqp.break_connections(Break::Reset),
            Fault::BlackHoleServices => self.amqp.break_connections(Break::BlackHole(rule.lasts())),
            // These wait for their message, connection or fsync.
            Fault::Drop
            | Fault::Delay
            | Fault::Duplicate
            | Fault::BlackHole
            | Fault::Disconnect
            | Fault::LosePuback
            | Fault::ExpireToken
            | Fault::Throttle
            | Fault::Refuse
            | Fault::DropCommand
            | Fault::DelayCommand
            | Fault::LoseMethodAnswer
            | Fault::SlowFsync => return,
        };
        tracing::warn!(fault = ?rule.fault, partition = rule.partition, befell, "struck");
    }
}
