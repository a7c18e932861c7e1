//! Work that costs a processor much, of many that ask for it: TLS handshakes. Each of their steps is done in a turn, and
//! there are few turns at a time, so that whoever opens connections by the thousand leaves processors to the devices that
//! are in. Nobody holds a turn while it waits for its peer.
//!
//! What has begun goes before what has not: after a power cut all devices come at once, and where each waited for its
//! second turn behind the first ones of all others, none would be done in time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::Semaphore;

/// As many turns as are taken at a time.
#[derive(Debug)]
pub(super) struct Turns {
    any: Semaphore,
    /// Who wants its first turn waits here, and not among those who have had one.
    first: Semaphore,
}

impl Turns {
    pub(super) fn new(at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self { any: Semaphore::new(at_once), first: Semaphore::new(at_once) }
    }

    /// Half of the processors.
    pub(super) fn of_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from) / 2)
    }

    /// Does `work`, step by step. Cancel-safe where `work` is.
    pub(super) async fn take<W: Future + Unpin>(&self, mut work: W) -> W::Output {
        let mut first = Some(self.first.acquire().await.expect("it is never closed"));
        loop {
            let turn = self.any.acquire().await.expect("it is never closed");
            let step = poll_fn(|context| Poll::Ready(Pin::new(&mut work).poll(context))).await;
            drop((turn, first.take()));
            match step {
                Poll::Ready(done) => return done,
                Poll::Pending => woken().await,
            }
        }
    }

    #[cfg(test)]
    pub(super) async fn all(&self) -> tokio::sync::SemaphorePermit<'_> {
        let turns = u32::try_from(self.any.available_permits()).expect("few");
        self.any.acquire_many(turns).await.expect("it is never closed")
    }
}

/// Ends when this task is woken, whoever does it: what it waits for knows whom to wake.
async fn woken() {
    let mut is_first = true;
    poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn few_are_worked_for_at_a_time_and_all_in_the_end() {
        let (turns, at_once, most) =
            (Arc::new(Turns::new(2)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let works: Vec<_> = (0..64)
            .map(|_| {
                let (turns, at_once, most) = (Arc::clone(&turns), Arc::clone(&at_once), Arc::clone(&most));
                tokio::spawn(async move {
                    let mut steps = 3;
                    let work = poll_fn(|context| {
                        most.fetch_max(at_once.fetch_add(1, SeqCst) + 1, SeqCst);
                        std::thread::sleep(Duration::from_millis(1));
                        at_once.fetch_sub(1, SeqCst);
                        steps -= 1;
                        context.waker().wake_by_ref();
                        if steps == 0 { Poll::Ready(()) } else { Poll::Pending }
                    });
                    turns.take(work).await;
                })
            })
            .collect();
        for work in works {
            timeout(SOON, work).await.expect("its turn comes").expect("no panic");
        }
        assert!(most.load(SeqCst) <= 2, "of four threads");
    }

    #[tokio::test]
    async fn who_waits_for_its_peer_holds_no_turn() {
        let turns = Turns::new(1);
        let (mut stuck, (peer, told)) =
            (Box::pin(turns.take(std::future::pending::<()>())), tokio::sync::oneshot::channel());
        assert!(timeout(Duration::from_millis(1), stuck.as_mut()).await.is_err());
        let (answered, ()) = timeout(SOON, async {
            tokio::join!(turns.take(told), async {
                tokio::task::yield_now().await;
                peer.send(7).expect("it waits");
            })
        })
        .await
        .expect("it is woken by its peer");
        assert_eq!(answered, Ok(7));
    }

    #[tokio::test]
    async fn what_has_begun_goes_before_what_has_not() {
        let (turns, order) = (Arc::new(Turns::new(1)), Arc::new(std::sync::Mutex::new(Vec::new())));
        let (peer, told) = tokio::sync::oneshot::channel::<()>();
        let begun = {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tokio::spawn(async move {
                turns.take(told).await.expect("told");
                order.lock().expect("no panic").push("begun");
            })
        };
        tokio::task::yield_now().await;
        let all = timeout(SOON, turns.all()).await.expect("nobody holds one");
        let new: Vec<_> = (0..9)
            .map(|_| {
                let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
                tokio::spawn(async move {
                    turns.take(std::future::ready(())).await;
                    order.lock().expect("no panic").push("new");
                })
            })
            .collect();
        tokio::task::yield_now().await;
        peer.send(()).expect("it waits");
        tokio::task::yield_now().await;
        drop(all);
        for task in new.into_iter().chain([begun]) {
            timeout(SOON, task).await.expect("its turn comes").expect("no panic");
        }
        let at = order.lock().expect("no panic").iter().position(|who| *who == "begun");
        assert!(at <= Some(2), "behind {at:?} new ones");
    }
}
