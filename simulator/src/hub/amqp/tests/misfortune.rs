//! What tests may have done to a hub's peers.

use std::time::Duration;

use fe2o3_amqp::Receiver;
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;
use tempfile::tempdir;

use super::super::Break;
use super::kit::{KEY, TestHub, within};
use super::raw::{PARTITION, Peer, connect, plain};

const OTHER_PARTITION: &str = "myhub/ConsumerGroups/$Default/Partitions/1";

struct Reader {
    peer: Peer,
    receiver: Receiver,
}

impl Reader {
    async fn of(hub: &TestHub, address: &str) -> Self {
        let mut peer = connect(hub, plain(KEY)).await.expect("the key is right");
        let receiver = within(Receiver::attach(&mut peer.1, "r", address)).await.expect("attached");
        Self { peer, receiver }
    }

    async fn read(&mut self, count: usize) {
        for _ in 0..count {
            within(self.receiver.recv::<Body<Value>>()).await.expect("delivered");
        }
    }

    /// Whether an event comes within a moment.
    async fn hears(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.receiver.recv::<Body<Value>>()).await.is_ok()
    }

    /// What the receiver ends with.
    async fn end(&mut self) -> String {
        format!("{:?}", within(self.receiver.recv::<Body<Value>>()).await.map(|_| ()).expect_err("ended"))
    }
}

/// A hub with three events in each of two partitions.
async fn filled(directory: &std::path::Path) -> TestHub {
    let hub = TestHub::start(directory).await;
    for partition in [0, 1] {
        hub.fill(&hub.device_of(partition), 3).await;
    }
    hub
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_are_detached_and_may_come_back() {
    let directory = tempdir().expect("a directory");
    let hub = filled(directory.path()).await;
    let (mut one, mut other) = (Reader::of(&hub, PARTITION).await, Reader::of(&hub, OTHER_PARTITION).await);
    one.read(3).await;
    other.read(3).await;
    assert_eq!(hub.hub.detach_receivers(Some(0)), 1);
    let error = one.end().await;
    assert!(error.contains("DetachForced"), "{error}");
    hub.fill(&hub.device_of(1), 1).await;
    other.read(1).await;
    let mut again = within(Receiver::attach(&mut one.peer.1, "again", PARTITION)).await.expect("attached");
    within(again.recv::<Body<Value>>()).await.expect("delivered");
    assert_eq!(hub.hub.detach_receivers(None), 2);
    assert_eq!(hub.hub.detach_receivers(None), 0);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_partition_closes_the_connections_that_read_it() {
    let directory = tempdir().expect("a directory");
    let hub = filled(directory.path()).await;
    let (mut one, mut other) = (Reader::of(&hub, PARTITION).await, Reader::of(&hub, OTHER_PARTITION).await);
    one.read(3).await;
    other.read(3).await;
    assert_eq!(hub.hub.move_partition(0), 1);
    let closed = format!("{:?}", within(one.peer.0.on_close()).await);
    assert!(closed.contains("ConnectionForced") && closed.contains("has moved"), "{closed}");
    within(hub.until(|status| status.connections == 1)).await;
    hub.fill(&hub.device_of(1), 1).await;
    other.read(1).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_tokens_are_ended_links_end() {
    let directory = tempdir().expect("a directory");
    let hub = filled(directory.path()).await;
    let mut reader = Reader::of(&hub, PARTITION).await;
    reader.read(3).await;
    assert_eq!(hub.hub.expire_tokens(), 1);
    let error = reader.end().await;
    assert!(error.contains("UnauthorizedAccess"), "{error}");
    assert_eq!(hub.hub.expire_tokens(), 0, "there is none left");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_ends_every_connection_at_once() {
    let directory = tempdir().expect("a directory");
    let hub = filled(directory.path()).await;
    let mut readers = [Reader::of(&hub, PARTITION).await, Reader::of(&hub, OTHER_PARTITION).await];
    for reader in &mut readers {
        reader.read(3).await;
    }
    assert_eq!(hub.hub.break_connections(Break::Reset), 2);
    for reader in &mut readers {
        reader.end().await;
    }
    within(hub.until(|status| (status.connections, status.receivers) == (0, 0))).await;
    Reader::of(&hub, PARTITION).await.read(3).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_silent_and_passes() {
    let directory = tempdir().expect("a directory");
    let hub = filled(directory.path()).await;
    let mut reader = Reader::of(&hub, PARTITION).await;
    reader.read(3).await;
    assert_eq!(hub.hub.break_connections(Break::BlackHole(Duration::from_secs(1))), 1);
    hub.fill(&hub.device_of(0), 1).await;
    assert!(!reader.hears().await, "nothing passes");
    let mut newcomer = Reader::of(&hub, PARTITION).await;
    newcomer.read(4).await;
    reader.read(1).await;
    hub.stop().await;
}
