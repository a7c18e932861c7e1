//! [p] A job, and what became of it with each device.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::time::Timestamp;

use crate::hub::api::errors::Fault;
use crate::hub::api::methods::Asking;
use crate::hub::api::query::{Query, Row, Source, Step, bare, walk};
use crate::hub::api::twins::Written;
use crate::hub::devices::id_fault;
use crate::hub::who::Who;

/// How long a job may take, if it does not say.
const EXECUTION_S_DEFAULT: u64 = 3_600;
/// The service's own limit.
const EXECUTION_S_MAX: u64 = 172_800;

/// A line of the jobs' journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Record {
    Job(Job),
    Part(Part),
}

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) task: Task,
    /// As it was written.
    pub(super) condition: String,
    pub(super) created: Timestamp,
    /// When it is to begin.
    pub(super) start: Timestamp,
    /// When it began.
    pub(super) begun: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
    /// From when it began.
    pub(super) execution_s_max: u64,
    pub(super) status: Status,
    pub(super) failure: Option<String>,
}

/// What it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Task {
    /// `updateTwin`, as it was written.
    UpdateTwin(Value),
    /// `cloudToDeviceMethod`, as it was written.
    DeviceMethod(Value),
}

/// How far it is; a part of it is never `Scheduled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    Scheduled,
    Pending,
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// What became of a job with one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Part {
    pub(super) job: String,
    pub(super) who: Who,
    pub(super) status: Status,
    pub(super) created: Timestamp,
    pub(super) start: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
    /// What a device answered.
    pub(super) outcome: Option<Value>,
    pub(super) error: Option<Value>,
}

/// A job as services write it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Asked {
    job_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    cloud_to_device_method: Option<Value>,
    update_twin: Option<Value>,
    query_condition: Option<String>,
    start_time: Option<String>,
    max_execution_time_in_seconds: Option<u64>,
}

impl Status {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Status::Scheduled => "scheduled",
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }

    /// True if nothing comes after it.
    pub(super) const fn is_last(self) -> bool {
        matches!(self, Status::Completed | Status::Failed | Status::Cancelled)
    }
}

impl Task {
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Task::UpdateTwin(_) => "scheduleUpdateTwin",
            Task::DeviceMethod(_) => "scheduleDeviceMethod",
        }
    }
}

impl Asked {
    /// The job, if it can be done at all.
    pub(super) fn job(self, id: String, now: Timestamp) -> Result<Job, Fault> {
        if let Some(fault) = id_fault(&id) {
            return Err(Fault::argument(format!("jobId {fault}")));
        }
        if self.job_id.is_some_and(|said| said != id) {
            return Err(Fault::argument("jobId is another one than that of the path"));
        }
        let kind = self.kind.unwrap_or_default();
        let is = |wanted: &str| kind.eq_ignore_ascii_case(wanted);
        let unread = |error: serde_json::Error| Fault::argument(format!("the job cannot be understood: {error}"));
        let task = if is("scheduleUpdateTwin") {
            let twin = self.update_twin.ok_or_else(|| Fault::argument("updateTwin is missing"))?;
            serde_json::from_value::<Written>(twin.clone()).map_err(unread)?;
            Task::UpdateTwin(twin)
        } else if is("scheduleDeviceMethod") {
            let method = self.cloud_to_device_method;
            let method = method.ok_or_else(|| Fault::argument("cloudToDeviceMethod is missing"))?;
            serde_json::from_value::<Asking>(method.clone()).map_err(unread)?.call()?;
            Task::DeviceMethod(method)
        } else {
            return Err(Fault::argument("type must be scheduleUpdateTwin or scheduleDeviceMethod"));
        };
        let condition = self.query_condition.unwrap_or_default();
        Query::of_job(&condition).map_err(|fault| Fault::argument(fault.to_string()))?;
        let start = match self.start_time.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            None => now,
            Some(text) => {
                let at = Timestamp::parse_rfc3339(text).or_else(|| Timestamp::parse_rfc3339(&format!("{text}Z")));
                at.ok_or_else(|| Fault::argument("startTime must be a time, as 2026-11-29T10:00:00Z"))?
            }
        };
        let execution_s_max =
            self.max_execution_time_in_seconds.filter(|seconds| 0 < *seconds).unwrap_or(EXECUTION_S_DEFAULT);
        if EXECUTION_S_MAX < execution_s_max {
            return Err(Fault::argument(format!("maxExecutionTimeInSeconds must be at most {EXECUTION_S_MAX}")));
        }
        let (created, begun, end, status, failure) = (now, None, None, Status::Scheduled, None);
        Ok(Job { id, task, condition, created, start, begun, end, execution_s_max, status, failure })
    }
}

/// Parts by how far they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    all: usize,
    pending: usize,
    running: usize,
    succeeded: usize,
    failed: usize,
}

impl Statistics {
    pub(super) fn add(&mut self, status: Status) {
        self.all += 1;
        let counter = match status {
            Status::Scheduled | Status::Pending => &mut self.pending,
            Status::Running => &mut self.running,
            Status::Completed => &mut self.succeeded,
            Status::Failed | Status::Cancelled => &mut self.failed,
        };
        *counter += 1;
    }
}

impl Job {
    /// As `GET /jobs/v2/{id}` shows it.
    pub(super) fn shown(&self, statistics: &Statistics) -> Value {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let mut shown = Map::new();
        for (name, value) in [
            ("jobId", json!(self.id)),
            ("createdTime", json!(self.created.to_string())),
            ("startTime", json!(self.start.to_string())),
            ("endTime", json!(time(self.end))),
            ("maxExecutionTimeInSeconds", json!(self.execution_s_max)),
            ("type", json!(self.task.as_str())),
            ("queryCondition", json!(self.condition)),
            ("status", json!(self.status.as_str())),
            ("failureReason", json!(self.failure)),
        ] {
            shown.insert(name.to_owned(), value);
        }
        let (name, task) = match &self.task {
            Task::UpdateTwin(twin) => ("updateTwin", twin),
            Task::DeviceMethod(method) => ("cloudToDeviceMethod", method),
        };
        shown.insert(name.to_owned(), task.clone());
        let statistics = json!({
            "deviceCount": statistics.all,
            "failedCount": statistics.failed,
            "succeededCount": statistics.succeeded,
            "runningCount": statistics.running,
            "pendingCount": statistics.pending,
        });
        shown.insert("deviceJobStatistics".to_owned(), statistics);
        shown.retain(|_, value| !value.is_null());
        Value::Object(shown)
    }
}

/// A part of a job, as `FROM devices.jobs` sees it.
pub(in crate::hub::api) struct PartRow {
    pub(super) part: Part,
    pub(super) kind: &'static str,
}

impl PartRow {
    /// In whose order they are.
    pub(in crate::hub::api) fn key(&self) -> (String, String) {
        (self.part.job.clone(), self.part.who.to_string())
    }

    fn object(&self) -> Map<String, Value> {
        let Part { job, who, status, created, start, end, outcome, error } = &self.part;
        let time = |at: &Option<Timestamp>| at.map(|at| at.to_string());
        let updated = end.or(*start).unwrap_or(*created);
        let mut shown = Map::new();
        for (name, value) in [
            ("deviceId", json!(who.device)),
            ("moduleId", json!(who.module)),
            ("jobId", json!(job)),
            ("jobType", json!(self.kind)),
            ("status", json!(status.as_str())),
            ("startTimeUtc", json!(time(start))),
            ("endTimeUtc", json!(time(end))),
            ("createdDateTimeUtc", json!(created.to_string())),
            ("lastUpdatedDateTimeUtc", json!(updated.to_string())),
            ("outcome", json!(outcome)),
            ("error", json!(error)),
        ] {
            shown.insert(name.to_owned(), value);
        }
        shown.retain(|_, value| !value.is_null());
        shown
    }
}

impl Row for PartRow {
    fn walk(&self, path: &[Step]) -> Option<Value> {
        walk(&self.object(), bare(path, Source::Jobs))
    }

    fn whole(&self) -> Value {
        Value::Object(self.object())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &str) -> Result<Job, Fault> {
        serde_json::from_str::<Asked>(text).expect("a request").job("j".to_owned(), Timestamp::from_millis(0))
    }

    #[test]
    fn jobs_are_read_as_the_sdks_write_them() {
        let node = r#"{"jobId":"j","type":"scheduleDeviceMethod","cloudToDeviceMethod":{"methodName":"m","payload":null,
            "responseTimeoutInSeconds":15},"startTime":"2026-11-29T10:00:00.000Z","maxExecutionTimeInSeconds":60,
            "queryCondition":"deviceId IN ['d-1']"}"#;
        let read = job(node).expect("read");
        assert_eq!(
            (read.execution_s_max, read.status, read.start.to_string().as_str()),
            (60, Status::Scheduled, "2026-11-29T10:00:00Z")
        );
        let python = r#"{"type":"scheduleUpdateTwin","updateTwin":{"etag":"*","tags":{"a":1}},"queryCondition":"*"}"#;
        let read = job(python).expect("read");
        assert_eq!((read.execution_s_max, read.start), (EXECUTION_S_DEFAULT, Timestamp::from_millis(0)));
        let shown = read.shown(&Statistics::default());
        assert_eq!((&shown["type"], &shown["updateTwin"]["tags"]["a"]), (&json!("scheduleUpdateTwin"), &json!(1)));
        assert!(shown.get("endTime").is_none() && shown["deviceJobStatistics"]["deviceCount"] == 0);
        for bad in [
            r#"{"type":"export"}"#,
            r#"{"type":"scheduleUpdateTwin"}"#,
            r#"{"type":"scheduleDeviceMethod","cloudToDeviceMethod":{"payload":1}}"#,
            r#"{"jobId":"other","type":"scheduleUpdateTwin","updateTwin":{}}"#,
            r#"{"type":"scheduleUpdateTwin","updateTwin":{},"queryCondition":"deviceId ="}"#,
            r#"{"type":"scheduleUpdateTwin","updateTwin":{},"startTime":"soon"}"#,
            r#"{"type":"scheduleUpdateTwin","updateTwin":{},"maxExecutionTimeInSeconds":1000000}"#,
        ] {
            job(bad).expect_err(bad);
        }
    }
}
