//! Jobs when they are due: a few at once, each with a few devices at once.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};
use shared::time::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::part_key;
use super::record::{Job, Part, Record, Status, Task};
use crate::hub::api::Api;
use crate::hub::api::errors::Fault;
use crate::hub::api::methods::Asking;
use crate::hub::api::query::Query;
use crate::hub::api::twins::Written;
use crate::hub::who::Who;

/// Jobs under way at once; others wait. The service's own limit of its larger tiers.
const RUNNING_MAX: usize = 10;
/// Devices of a job at once.
const DEVICES_AT_ONCE: usize = 10;

/// Does jobs until `stop` is cancelled. One that is not through by then goes on when the hub is started again.
pub(in crate::hub) async fn run(api: Arc<Api>, stop: CancellationToken) {
    let mut running = JoinSet::new();
    let mut begun: HashSet<String> = HashSet::new();
    while !stop.is_cancelled() {
        let now = api.desk.clock.now();
        let waiting = || api.jobs.all().into_iter().filter(|job| !job.status.is_last());
        let mut next: Option<Timestamp> = None;
        for job in waiting() {
            if begun.contains(&job.id) {
                continue;
            }
            if now < job.start {
                next = Some(next.map_or(job.start, |next| next.min(job.start)));
            } else if running.len() < RUNNING_MAX {
                begun.insert(job.id.clone());
                let (api, id) = (Arc::clone(&api), job.id.clone());
                running.spawn(async move {
                    if let Err(error) = perform(&api, job).await {
                        tracing::error!(job = %id.escape_debug(), %error, "a job cannot go on");
                    }
                    id
                });
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = api.jobs.changed.notified() => {}
            Some(ended) = running.join_next() => match ended {
                Ok(id) => drop(begun.remove(&id)),
                Err(error) => tracing::error!(%error, "a job ended by a fault of the hub"),
            },
            () = api.desk.clock.sleep_until(next) => {}
        }
    }
}

async fn perform(api: &Arc<Api>, job: Job) -> io::Result<()> {
    let job = match job.status {
        Status::Running => job,
        _ => match begin(api, job).await? {
            Some(job) => job,
            None => return Ok(()),
        },
    };
    let deadline = job.begun.unwrap_or(job.start).plus(Duration::from_secs(job.execution_s_max));
    let open = api.jobs.parts(&job.id).into_iter().filter(|part| !part.status.is_last());
    let mut parts: Vec<_> = open.collect();
    parts.sort_unstable_by(|one, other| one.who.cmp(&other.who));
    let cancelled = || api.jobs.get(&job.id).is_none_or(|job| job.status == Status::Cancelled);
    let job = &job;
    let doing = futures::stream::iter(parts)
        .take_while(|_| std::future::ready(!cancelled()))
        .map(|part| one(api, job, part))
        .buffer_unordered(DEVICES_AT_ONCE);
    let mut doing = std::pin::pin!(doing);
    let late = loop {
        tokio::select! {
            done = doing.next() => match done {
                Some(done) => done?,
                None => break false,
            },
            () = api.desk.clock.sleep_until(Some(deadline)) => break true,
        }
    };
    end(api, job, late).await
}

/// Finds out whom the job is for; `None` if it was cancelled meanwhile.
async fn begin(api: &Arc<Api>, job: Job) -> io::Result<Option<Job>> {
    let (searching, condition) = (Arc::clone(api), job.condition.clone());
    let meant = tokio::task::spawn_blocking(move || match Query::of_job(&condition) {
        Ok(query) => searching.meant(&query),
        // It was read when the job was taken.
        Err(_) => vec![],
    });
    let meant = meant.await.map_err(io::Error::other)?;
    let now = api.desk.clock.now();
    for who in meant {
        let (status, created, id) = (Status::Pending, now, job.id.clone());
        let part = Part { job: id, who, status, created, start: None, end: None, outcome: None, error: None };
        api.jobs.put_part(part)?;
    }
    let begun = api.jobs.change(&job.id, |job| {
        job.status = Status::Running;
        job.begun = Some(now);
    })?;
    let Some((job, ticket)) = begun else { return Ok(None) };
    api.jobs.journal.settle(ticket).await?;
    Ok(Some(job))
}

/// Does the job with one device, and keeps what became of it.
async fn one(api: &Arc<Api>, job: &Job, part: Part) -> io::Result<()> {
    let start = Some(api.desk.clock.now());
    let outcome = Box::pin(act(api, &part.who, &job.task)).await;
    let end = Some(api.desk.clock.now());
    let part = match outcome {
        Ok(outcome) => Part { status: Status::Completed, start, end, outcome: Some(outcome), ..part },
        Err(fault) => {
            let error = json!({ "code": format!("{:?}", fault.code), "description": fault.message });
            Part { status: Status::Failed, start, end, error: Some(error), ..part }
        }
    };
    let ticket = api.jobs.put_part(part)?;
    api.jobs.journal.settle(ticket).await
}

async fn act(api: &Arc<Api>, who: &Who, task: &Task) -> Result<Value, Fault> {
    let unread = |error: serde_json::Error| Fault::argument(error.to_string());
    match task {
        Task::UpdateTwin(twin) => {
            api.known(who)?;
            let written: Written = serde_json::from_value(twin.clone()).map_err(unread)?;
            let if_match = written.if_match();
            api.change_twin(who, written.change(false), if_match).await?;
            Ok(json!({ "deviceMethodResponse": null }))
        }
        Task::DeviceMethod(method) => {
            let asking: Asking = serde_json::from_value(method.clone()).map_err(unread)?;
            let answer = api.invoke(who, asking.call()?).await?;
            Ok(json!({ "deviceMethodResponse": answer }))
        }
    }
}

/// The job is through, was cancelled, or has taken too long.
async fn end(api: &Arc<Api>, job: &Job, late: bool) -> io::Result<()> {
    let now = api.desk.clock.now();
    let left = api.jobs.parts(&job.id).into_iter().filter(|part| !part.status.is_last());
    let left: Vec<_> = left.collect();
    {
        let mut book = api.jobs.journal.book();
        for part in left {
            let status = if late { Status::Failed } else { Status::Cancelled };
            let part = Part { status, end: Some(now), ..part };
            book.put(&part_key(&part), Record::Part(part))?;
        }
    }
    let ended = api.jobs.change(&job.id, |job| {
        job.end = Some(now);
        (job.status, job.failure) = match late {
            true => (Status::Failed, Some("maxExecutionTimeInSeconds is over".to_owned())),
            false => (Status::Completed, None),
        };
    })?;
    match ended {
        Some((_, ticket)) => api.jobs.journal.settle(ticket).await,
        // It was cancelled.
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::hub::https::tests::Served;
    use crate::hub::mqtt::tests::PATIENCE;

    #[tokio::test]
    async fn a_job_that_was_under_way_when_the_hub_was_killed_goes_on_with_those_it_had_not_done() {
        let served = Served::open().await;
        let jobs = &served.api.jobs;
        let now = served.api.desk.clock.now();
        let job = Job {
            id: "j".to_owned(),
            task: Task::UpdateTwin(json!({ "tags": { "by": "job" } })),
            condition: "*".to_owned(),
            created: now,
            start: now,
            begun: Some(now),
            end: None,
            execution_s_max: 60,
            status: Status::Running,
            failure: None,
        };
        let part = |who: Who, status| {
            let job = "j".to_owned();
            Part { job, who, status, created: now, start: None, end: None, outcome: None, error: None }
        };
        jobs.put_part(part(Who::device("d-1"), Status::Completed)).expect("written");
        jobs.put_part(part(Who::device("d-2"), Status::Pending)).expect("written");
        jobs.put_part(part(Who::device("gone"), Status::Pending)).expect("written");
        jobs.journal.book().put("job/j", Record::Job(job)).expect("written");
        jobs.changed.notify_one();
        let through = async {
            while jobs.get("j").is_some_and(|job| !job.status.is_last()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, through).await.expect("in time");
        assert_eq!(jobs.get("j").map(|job| job.status), Some(Status::Completed));
        let tags = |device| served.api.desk.twins.get(&Who::device(device)).tags;
        assert!(tags("d-1").is_empty() && tags("d-2")["by"] == "job");
        let gone = jobs.parts("j").into_iter().find(|part| part.who == Who::device("gone")).expect("kept");
        assert_eq!((gone.status, &gone.error.expect("said")["code"]), (Status::Failed, &json!("DeviceNotFound")));
        served.close().await;
    }
}
