//! Scheduled jobs: the same change of many twins, or the same method on many devices, at a time.
//!
//! Invariants: a job that was taken is on disk when the answer leaves, and begins when it is due, after a restart too. With
//! each device it is done at least once: one whose outcome was not on disk when the hub was killed is asked again.

mod record; // [p] a job, and what became of it with each device

mod run; // doing them

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderName;
use axum::http::header::USER_AGENT;
use serde_json::{Value, json};
use shared::time::Timestamp;
use tokio::sync::Notify;

pub(super) use self::record::PartRow;
use self::record::{Job, Part, Record, Statistics, Status};
pub(in crate::hub) use self::run::run;
use super::errors::{Code, Fault};
use super::pages::Page;
use super::{Answer, Api, Asked};
use crate::hub::journal::{Journal, Ticket};

/// Jobs kept; more are refused.
const JOBS_MAX: usize = 1_000;
/// Stands in the User-Agent of clients that were generated of the REST reference, Microsoft's for Python among them. Of a
/// query for jobs that reference says other than what is answered: they read the one, the SDK for Node the other.
const GENERATED: &str = "msrest/";
/// How long a job that has ended is shown.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// All jobs; clones are the same.
#[derive(Clone)]
pub(in crate::hub) struct Jobs {
    journal: Journal<Record>,
    /// A job came, or was cancelled.
    changed: Arc<Notify>,
}

impl Jobs {
    /// Reads the file, or makes it.
    ///
    /// # Errors
    /// If the disk says no.
    pub(in crate::hub) fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { journal: Journal::open(path)?, changed: Arc::default() })
    }

    /// All parts, in order.
    pub(super) fn rows(&self) -> Vec<PartRow> {
        let book = self.journal.book();
        let rows = book.iter().filter_map(|(_, record)| match record {
            Record::Part(part) => {
                let kind = match book.get(&job_key(&part.job)) {
                    Some(Record::Job(job)) => job.task.as_str(),
                    _ => "unknown",
                };
                Some(PartRow { part: part.clone(), kind })
            }
            Record::Job(_) => None,
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_cached_key(PartRow::key);
        rows
    }

    fn get(&self, id: &str) -> Option<Job> {
        match self.journal.book().get(&job_key(id)) {
            Some(Record::Job(job)) => Some(job.clone()),
            _ => None,
        }
    }

    /// All jobs, in the order of their ids.
    fn all(&self) -> Vec<Job> {
        let book = self.journal.book();
        let jobs = book.iter().filter_map(|(_, record)| match record {
            Record::Job(job) => Some(job.clone()),
            Record::Part(_) => None,
        });
        let mut jobs: Vec<_> = jobs.collect();
        jobs.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        jobs
    }

    /// All parts of a job.
    fn parts(&self, id: &str) -> Vec<Part> {
        let book = self.journal.book();
        let parts = book.iter().filter_map(|(_, record)| match record {
            Record::Part(part) if part.job == id => Some(part.clone()),
            _ => None,
        });
        parts.collect()
    }

    fn statistics(&self, id: &str) -> Statistics {
        let mut statistics = Statistics::default();
        self.parts(id).iter().for_each(|part| statistics.add(part.status));
        statistics
    }

    /// Keeps a new job.
    async fn add(&self, job: Job, now: Timestamp) -> Result<(), Fault> {
        let ticket = {
            let forgotten = self.all().into_iter().filter(|job| job.end.is_some_and(|end| end.plus(KEPT) < now));
            let forgotten: Vec<_> = forgotten.map(|job| (self.parts(&job.id), job.id)).collect();
            let mut book = self.journal.book();
            for (parts, id) in forgotten {
                for part in parts {
                    book.remove(&part_key(&part)).map_err(disk)?;
                }
                book.remove(&job_key(&id)).map_err(disk)?;
            }
            if book.get(&job_key(&job.id)).is_some() {
                return Err(Fault::new(Code::JobAlreadyExists, format!("there is a job '{}'", job.id)));
            }
            if JOBS_MAX <= book.iter().filter(|(_, record)| matches!(record, Record::Job(_))).count() {
                return Err(Fault::new(Code::JobQuotaExceeded, format!("there are {JOBS_MAX} jobs")));
            }
            book.put(&job_key(&job.id), Record::Job(job)).map_err(disk)?
        };
        self.journal.settle(ticket).await.map_err(disk)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Changes a job, unless it has ended; gives it as it is then.
    fn change(&self, id: &str, change: impl FnOnce(&mut Job)) -> io::Result<Option<(Job, Ticket)>> {
        let mut book = self.journal.book();
        let Some(Record::Job(job)) = book.get(&job_key(id)) else { return Ok(None) };
        let mut job = job.clone();
        if job.status.is_last() {
            return Ok(None);
        }
        change(&mut job);
        let ticket = book.put(&job_key(id), Record::Job(job.clone()))?;
        Ok(Some((job, ticket)))
    }

    async fn cancel(&self, id: &str, now: Timestamp) -> Result<Job, Fault> {
        let absent = || Fault::new(Code::JobNotFound, format!("there is no job '{}'", id.escape_debug()));
        self.get(id).ok_or_else(absent)?;
        let cancelled = self.change(id, |job| {
            job.status = Status::Cancelled;
            job.end = Some(now);
        });
        match cancelled.map_err(disk)? {
            Some((job, ticket)) => {
                self.journal.settle(ticket).await.map_err(disk)?;
                self.changed.notify_one();
                Ok(job)
            }
            None => Err(Fault::new(Code::OperationNotAllowedInCurrentState, "the job has ended")),
        }
    }

    fn put_part(&self, part: Part) -> io::Result<Ticket> {
        self.journal.book().put(&part_key(&part), Record::Part(part))
    }
}

fn job_key(id: &str) -> String {
    format!("job/{id}")
}

fn part_key(part: &Part) -> String {
    format!("part/{}/{}", part.job, part.who)
}

fn disk(error: io::Error) -> Fault {
    Fault::server(format!("jobs cannot be kept: {error}"))
}

impl Api {
    pub(super) async fn put_job(&self, id: String, asked: &Asked) -> Result<Answer, Fault> {
        let now = self.desk.clock.now();
        let job = asked.json::<record::Asked>()?.job(id, now)?;
        let shown = job.shown(&Statistics::default());
        self.jobs.add(job, now).await?;
        Ok(Answer::json(shown))
    }

    pub(super) fn get_job(&self, id: &str) -> Result<Answer, Fault> {
        let absent = || Fault::new(Code::JobNotFound, format!("there is no job '{}'", id.escape_debug()));
        let job = self.jobs.get(id).ok_or_else(absent)?;
        Ok(Answer::json(job.shown(&self.jobs.statistics(id))))
    }

    pub(super) async fn cancel_job(&self, id: &str) -> Result<Answer, Fault> {
        let job = self.jobs.cancel(id, self.desk.clock.now()).await?;
        Ok(Answer::json(job.shown(&self.jobs.statistics(id))))
    }

    pub(super) fn list_jobs(&self, asked: &Asked) -> Result<Answer, Fault> {
        let (kind, status) = (asked.parameter("jobType"), asked.parameter("jobStatus"));
        let question = format!("{kind:?} {status:?}");
        let max = asked.header("x-ms-max-item-count").or_else(|| asked.parameter("pageSize"));
        let continuation = asked.header("x-ms-continuation").or_else(|| asked.parameter("continuationToken"));
        let page = Page::read(max, continuation, &question)?;
        let is = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(is));
        let mut jobs = self.jobs.all();
        jobs.retain(|job| is(kind, job.task.as_str()) && is(status, job.status.as_str()) && page.is_new((&job.id, "")));
        let more = page.max < jobs.len();
        jobs.truncate(page.max);
        let shown: Vec<Value> = jobs.iter().map(|job| job.shown(&self.jobs.statistics(&job.id))).collect();
        let next = jobs.last().filter(|_| more).map(|last| page.next((last.id.clone(), String::new()), jobs.len()));
        if asked.header(USER_AGENT.as_str()).is_some_and(|agent| agent.contains(GENERATED)) {
            let result = json!({ "type": "jobResponse", "items": shown, "continuationToken": next });
            return Ok(Answer::json(result));
        }
        let answer = Answer::json(Value::Array(shown));
        Ok(match next {
            Some(next) => answer.with(HeaderName::from_static("x-ms-continuation"), &next),
            None => answer,
        })
    }
}
