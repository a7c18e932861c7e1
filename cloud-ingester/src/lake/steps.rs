//! Signs of progress inside long work: a hop that reads a month, or a commit that a storage keeps waiting, is not stuck
//! while batches are read, written and tried.
//!
//! What works takes no part in it: where the work was begun by [`Steps::of`], each step of its task counts, and what a
//! session's memory does counts too, since sorts and groups run in tasks of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use datafusion::common::Result as FusionResult;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// How often is looked whether anything moved.
const LOOK: Duration = Duration::from_secs(1);

tokio::task_local! {
    static OF_TASK: Steps;
}

/// A part of this task's work that is done by another: its steps count here.
pub fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    // None where nobody counts, as in commands that no watchdog looks after.
    let steps = OF_TASK.try_with(Clone::clone).ok();
    async move {
        match steps {
            Some(steps) => OF_TASK.scope(steps, work).await,
            None => work.await,
        }
    }
}

/// A count of steps; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Steps(Arc<AtomicU64>);

impl Steps {
    /// Counts the steps of `work`, and calls `moved` about once a second while there are any.
    pub fn of<'w, T>(
        &self,
        work: impl Future<Output = T> + Send + 'w,
        moved: impl FnMut() + Send + 'w,
    ) -> impl Future<Output = T> + Send + 'w
    where
        T: 'w,
    {
        self.looking(LOOK, work, moved)
    }

    /// What it gives is small, however large the work.
    fn looking<'w, T>(
        &self,
        look: Duration,
        work: impl Future<Output = T> + Send + 'w,
        mut moved: impl FnMut() + Send + 'w,
    ) -> impl Future<Output = T> + Send + 'w
    where
        T: 'w,
    {
        let steps = self.clone();
        let mut work = Box::pin(OF_TASK.scope(self.clone(), work));
        async move {
            let mut seen = steps.count();
            loop {
                tokio::select! {
                    done = &mut work => return done,
                    () = tokio::time::sleep(look) => {
                        let now = steps.count();
                        if now != seen {
                            seen = now;
                            moved();
                        }
                    }
                }
            }
        }
    }

    fn step(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One step of whatever work this is part of.
pub(crate) fn step() {
    // Work that nobody watches has no count.
    let _ = OF_TASK.try_with(Steps::step);
}

/// A memory pool in which each change counts as a step.
#[derive(Debug)]
pub(super) struct Watched<P> {
    pub(super) inner: P,
    pub(super) steps: Steps,
}

impl<P: std::fmt::Display> std::fmt::Display for Watched<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.fmt(f)
    }
}

impl<P: MemoryPool> MemoryPool for Watched<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.steps.step();
        self.inner.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.steps.step();
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> FusionResult<()> {
        self.steps.step();
        self.inner.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(2);

    /// Works until somebody cancels it, in steps or without.
    async fn work(in_steps: bool) {
        loop {
            if in_steps {
                step();
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_that_moves_is_told_of_and_work_that_does_not_is_silent_beside_it() {
        let told = tokio::sync::Semaphore::new(0);
        let (busy, idle) = (Steps::default(), Steps::default());
        let mut of_idle = 0;
        tokio::select! {
            () = busy.looking(SHORT, work(true), || told.add_permits(1)) => {}
            () = idle.looking(SHORT, work(false), || of_idle += 1) => {}
            enough = told.acquire_many(20) => drop(enough.expect("open")),
        }
        assert_eq!(of_idle, 0);
    }

    #[tokio::test]
    async fn what_a_sessions_memory_does_counts() {
        let steps = Steps::default();
        let limits = super::super::session::Limits { memory_bytes: 64 << 20 };
        let session = super::super::session::watched(limits, &steps).expect("a session");
        let sorted = session.sql("select value from generate_series(1, 100000) order by value desc").await;
        sorted.expect("planned").collect().await.expect("sorted");
        assert!(0 < steps.count());
    }
}
