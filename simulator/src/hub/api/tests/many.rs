//! Queries and jobs.

use std::time::Duration;

use tokio::time::timeout;

use super::*;
use crate::hub::mqtt::tests::PATIENCE;

async fn ask(served: &Served, query: &str, headers: &str) -> crate::hub::https::tests::Reply {
    served.ask("POST", "/devices/query", headers, &json!({ "query": query }).to_string()).await
}

/// Three devices in two places beside the two that are there.
async fn furnished() -> Served {
    let served = Served::open().await;
    let bulk = json!([
        { "id": "n-1", "importMode": "create", "tags": { "site": "north", "floor": 1 } },
        { "id": "n-2", "importMode": "create", "tags": { "site": "north", "floor": 2 }, "status": "disabled" },
        { "id": "s-1", "importMode": "create", "tags": { "site": "south" }, "properties": { "desired": { "rate": 5 } } },
        { "id": "s-1", "moduleId": "m", "importMode": "create", "tags": { "of": "module" } },
    ]);
    let done = served.ask("POST", "/devices", "", &bulk.to_string()).await;
    assert_eq!(done.status, 200, "{}", done.body);
    served
}

fn ids(body: &Value) -> Vec<&str> {
    body.as_array().into_iter().flatten().filter_map(|item| item["deviceId"].as_str()).collect()
}

#[tokio::test]
async fn queries_find_devices_modules_and_how_many_they_are() {
    let served = furnished().await;
    for (query, found) in [
        ("SELECT * FROM devices", &["d-1", "d-2", "n-1", "n-2", "s-1"][..]),
        ("SELECT * FROM devices WHERE tags.site = 'north'", &["n-1", "n-2"]),
        ("SELECT deviceId FROM devices WHERE tags.site = 'north' AND status = 'enabled'", &["n-1"]),
        ("SELECT deviceId FROM devices WHERE NOT is_defined(tags.site)", &["d-1", "d-2"]),
        (
            "SELECT deviceId FROM devices WHERE deviceId IN ['n-2', 's-1', 'x'] AND connectionState = 'Disconnected'",
            &["n-2", "s-1"],
        ),
        ("SELECT deviceId FROM devices WHERE properties.desired.rate >= 5", &["s-1"]),
        ("SELECT deviceId FROM devices WHERE properties.reported.$version = 1 AND tags.floor <> 1", &["n-2"]),
        ("SELECT TOP 2 deviceId FROM devices", &["d-1", "d-2"]),
        ("SELECT * FROM devices.modules WHERE tags.of = 'module'", &["s-1"]),
        ("SELECT * FROM devices.jobs", &[]),
    ] {
        let reply = ask(&served, query, "").await;
        assert_eq!((reply.status, ids(&reply.body)), (200, found.to_vec()), "{query}: {}", reply.body);
        assert_eq!(reply.header("x-ms-continuation"), None, "{query}");
    }
    let whole = ask(&served, "SELECT * FROM devices WHERE deviceId = 's-1'", "").await;
    assert_eq!(whole.header("x-ms-item-type"), Some("Twin"));
    assert_eq!(whole.body[0], served.ask("GET", "/twins/s-1", "", "").await.body);
    let some = ask(&served, "SELECT deviceId, tags.site AS place FROM devices WHERE is_defined(tags.floor)", "").await;
    assert_eq!(some.body, json!([{ "deviceId": "n-1", "place": "north" }, { "deviceId": "n-2", "place": "north" }]));
    assert_eq!(some.header("x-ms-item-type"), Some("Raw"));
    // As the example of Microsoft's page is asked, and answered.
    let own = ask(&served, "SELECT DeviceId, LASTACTIVITYTIME FROM devices WHERE deviceId = 's-1'", "").await.body;
    assert_eq!(own, json!([{ "deviceId": "s-1", "lastActivityTime": "0001-01-01T00:00:00Z" }]));
    let count = ask(&served, "SELECT COUNT() AS n FROM devices WHERE tags.site = 'north'", "").await;
    assert_eq!(count.body, json!([{ "n": 2 }]));
    for (policy, status) in [("registryRead", 200), ("service", 200), ("device", 401)] {
        let token = format!("Authorization: {}\r\n", served.token(policy));
        let body = r#"{"query":"SELECT deviceId FROM devices"}"#;
        let reply = served.ask_raw("POST", "/devices/query?api-version=2021-04-12", &token, body).await;
        assert_eq!(reply.status, status, "{policy}: {}", reply.body);
    }
    for bad in ["SELECT", "SELECT * FROM devices WHERE", &"(".repeat(5_000)] {
        let refused = ask(&served, bad, "").await;
        assert_eq!((refused.status, refused.code()), (400, "ArgumentInvalid"), "{}", refused.body);
    }
    served.close().await;
}

#[tokio::test]
async fn a_query_goes_on_page_by_page_whatever_changes_meanwhile() {
    let served = furnished().await;
    let (mut found, mut headers) = (vec![], "x-ms-max-item-count: 2\r\n".to_owned());
    loop {
        let page = ask(&served, "SELECT deviceId FROM devices", &headers).await;
        found.extend(ids(&page.body).into_iter().map(str::to_owned));
        // One that was given goes, one that was not stays.
        served.ask("DELETE", "/devices/d-1", "", "").await;
        match page.header("x-ms-continuation") {
            Some(next) => headers = format!("x-ms-max-item-count: 2\r\nx-ms-continuation: {next}\r\n"),
            None => break,
        }
    }
    assert_eq!(found, ["d-1", "d-2", "n-1", "n-2", "s-1"]);
    for bad in ["x-ms-max-item-count: 0\r\n".to_owned(), "x-ms-continuation: AAAA\r\n".to_owned()] {
        assert_eq!(ask(&served, "SELECT * FROM devices", &bad).await.status, 400, "{bad}");
    }
    assert_eq!(ask(&served, "SELECT * FROM devices", &headers).await.status, 400, "of another question");
    served.close().await;
}

/// Asks until the job has ended.
async fn ended(served: &Served, id: &str) -> Value {
    let asking = async {
        loop {
            let job = served.ask("GET", &format!("/jobs/v2/{id}"), "", "").await.body;
            if ["completed", "failed", "cancelled"].contains(&job["status"].as_str().unwrap_or_default()) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, asking).await.expect("in time")
}

#[tokio::test]
async fn a_job_changes_the_twins_it_is_for_and_says_what_became_of_each() {
    let served = furnished().await;
    let twins = json!({
        "jobId": "j-1",
        "type": "scheduleUpdateTwin",
        "updateTwin": { "etag": "*", "properties": { "desired": { "by": "job" } } },
        "queryCondition": "tags.site = 'north'",
    });
    let made = served.ask("PUT", "/jobs/v2/j-1", "", &twins.to_string()).await;
    assert_eq!((made.status, &made.body["type"]), (200, &json!("scheduleUpdateTwin")), "{}", made.body);
    let job = ended(&served, "j-1").await;
    assert_eq!(
        (&job["status"], &job["deviceJobStatistics"]["succeededCount"]),
        (&json!("completed"), &json!(2)),
        "{job}"
    );
    for (device, by) in [("n-1", json!("job")), ("n-2", json!("job")), ("s-1", Value::Null)] {
        let twin = served.ask("GET", &format!("/twins/{device}"), "", "").await.body;
        assert_eq!(twin["properties"]["desired"]["by"], by, "{device}");
    }
    let method = json!({
        "type": "scheduleDeviceMethod",
        "cloudToDeviceMethod": { "methodName": "m", "payload": null, "responseTimeoutInSeconds": 5 },
        "queryCondition": "deviceId = 's-1'",
    });
    assert_eq!(served.ask("PUT", "/jobs/v2/j-2", "", &method.to_string()).await.status, 200);
    let job = ended(&served, "j-2").await;
    assert_eq!((&job["status"], &job["deviceJobStatistics"]["failedCount"]), (&json!("completed"), &json!(1)), "{job}");
    let parts = ask(&served, "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'j-2'", "").await;
    assert_eq!(parts.header("x-ms-item-type"), Some("DeviceJob"));
    assert_eq!((&parts.body[0]["deviceId"], &parts.body[0]["status"]), (&json!("s-1"), &json!("failed")));
    assert_eq!(parts.body[0]["error"]["code"], "DeviceNotOnline");
    let parts =
        ask(&served, "SELECT COUNT() AS n FROM devices.jobs WHERE status = 'completed' AND deviceId = 'n-1'", "").await;
    assert_eq!(parts.body, json!([{ "n": 1 }]));
    let again = served.ask("PUT", "/jobs/v2/j-1", "", &twins.to_string()).await;
    assert_eq!((again.status, again.code()), (409, "JobAlreadyExists"));
    served.close().await;
}

#[tokio::test]
async fn a_job_waits_for_its_time_survives_and_is_cancelled() {
    let served = furnished().await;
    let later = |id: &str| {
        let job = json!({
            "type": "scheduleUpdateTwin", "updateTwin": { "tags": { "by": "job" } },
            "queryCondition": "*", "startTime": "2999-01-01T00:00:00Z",
        });
        (format!("/jobs/v2/{id}"), job.to_string())
    };
    for id in ["j-1", "j-2", "j-3"] {
        let (path, job) = later(id);
        assert_eq!(served.ask("PUT", &path, "", &job).await.body["status"], "scheduled");
    }
    let cancelled = served.ask("POST", "/jobs/v2/j-2/cancel", "", "").await;
    assert_eq!((cancelled.status, &cancelled.body["status"]), (200, &json!("cancelled")), "{}", cancelled.body);
    let again = served.ask("POST", "/jobs/v2/j-2/cancel", "", "").await;
    assert_eq!((again.status, again.code()), (409, "OperationNotAllowedInCurrentState"));
    for (method, path) in [("GET", "/jobs/v2/nothing"), ("POST", "/jobs/v2/nothing/cancel")] {
        assert_eq!(served.ask(method, path, "", "").await.code(), "JobNotFound", "{path}");
    }
    let jobs = |body: &Value| body.as_array().into_iter().flatten().map(|job| job["jobId"].clone()).collect::<Vec<_>>();
    let all = served.ask("GET", "/jobs/v2/query?jobStatus=scheduled&jobType=scheduleUpdateTwin", "", "").await;
    assert_eq!(jobs(&all.body), ["j-1", "j-3"]);
    let first = served.ask("GET", "/jobs/v2/query", "x-ms-max-item-count: 2\r\n", "").await;
    let next = format!("x-ms-continuation: {}\r\n", first.header("x-ms-continuation").expect("more"));
    let rest = served.ask("GET", "/jobs/v2/query", &next, "").await;
    assert_eq!((jobs(&first.body).len(), jobs(&rest.body)), (2, vec![json!("j-3")]));
    // Who is generated of the REST reference gets what that says.
    let generated = "User-Agent: python/3.11.7 msrest/0.7.1 iothubgatewayserviceapis/2021-04-12\r\n";
    let first = served.ask("GET", "/jobs/v2/query", &format!("{generated}x-ms-max-item-count: 2\r\n"), "").await.body;
    let next = first["continuationToken"].as_str().expect("there is more");
    let rest = served.ask("GET", "/jobs/v2/query", &format!("{generated}x-ms-continuation: {next}\r\n"), "").await;
    assert_eq!((jobs(&first["items"]).len(), jobs(&rest.body["items"])), (2, vec![json!("j-3")]));
    assert!(rest.body["continuationToken"].is_null() && rest.body["type"] == "jobResponse");
    assert_eq!(rest.header("x-ms-continuation"), None);
    let file = std::fs::read_to_string(served.stand.dir.path().join("jobs.jsonl")).expect("written");
    assert!(["j-1", "j-2", "j-3"].iter().all(|id| file.contains(id)));
    served.close().await;
}
