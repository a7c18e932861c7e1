//! What tests do to peers, at run time: links detached, partitions moved, tokens ended, connections broken.

use std::sync::Arc;
use std::time::Duration;

use super::AmqpHub;
use super::cbs::Grant;
use super::line;
use super::receiver::Ending;

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// The peer is reset.
    Reset,
    /// For so long nothing is read or written, and the peer is not told; then it goes on, if the peer is still there.
    BlackHole(Duration),
}

impl AmqpHub {
    /// Detaches the receivers of a partition, or all, as the service does it now and then (`amqp:link:detach-forced`).
    /// Returns how many.
    pub fn detach_receivers(&self, partition: Option<u32>) -> usize {
        self.evict(partition, || Ending::Detached)
    }

    /// Closes the connections that receive from a partition, as if it had moved to another node of the service
    /// (`amqp:connection:forced`). Returns how many receivers there were.
    pub fn move_partition(&self, partition: u32) -> usize {
        self.evict(Some(partition), || Ending::Moved)
    }

    /// Ends all tokens now: links are closed, and opened again only under new ones. Returns how many connections had any.
    pub fn expire_tokens(&self) -> usize {
        let ended: Vec<Vec<Grant>> = self.peers().peers.iter().map(|peer| peer.tokens.end()).collect();
        let now_s = self.clock().now().millis().div_euclid(1000);
        // A key, shown over SASL, has no end and can be shown again.
        self.ended().extend(ended.iter().flatten().filter_map(|grant| Some((grant.mark?, now_s))));
        ended.iter().filter(|grants| !grants.is_empty()).count()
    }

    /// Breaks all connections. Returns how many.
    ///
    /// # Panics
    /// Outside a tokio runtime, for a black hole.
    pub fn break_connections(&self, how: Break) -> usize {
        let lines: Vec<_> = self.peers().peers.iter().map(|peer| Arc::clone(&peer.line)).collect();
        match how {
            Break::Reset => lines.iter().for_each(|line| line.cut()),
            Break::BlackHole(duration) => {
                lines.iter().for_each(|line| line.darken());
                let lines: Vec<_> = lines.iter().map(Arc::downgrade).collect();
                tokio::spawn(async move {
                    tokio::time::sleep(duration).await;
                    line::lighten(&lines);
                });
            }
        }
        lines.len()
    }

    fn evict(&self, partition: Option<u32>, why: impl Fn() -> Ending) -> usize {
        let evicted = self.owners().evict(|(_, number)| partition.is_none_or(|partition| partition == *number));
        let count = evicted.len();
        for receiver in evicted {
            // Who has just gone by itself need not be told.
            let _ = receiver.send(why());
        }
        count
    }
}
