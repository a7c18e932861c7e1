//! Twins, methods and messages.

use std::sync::Arc;

use super::*;

#[tokio::test]
async fn a_twin_is_read_patched_and_replaced() {
    let served = Served::open().await;
    let untouched = served.ask("GET", "/twins/d-1", "", "").await;
    assert_eq!(untouched.status, 200, "{}", untouched.body);
    let twin = untouched.body;
    assert_eq!((&twin["deviceId"], &twin["version"], &twin["tags"]), (&json!("d-1"), &json!(1), &json!({})));
    assert_eq!((&twin["status"], &twin["connectionState"]), (&json!("enabled"), &json!("Disconnected")));
    assert_eq!((&twin["authenticationType"], &twin["capabilities"]), (&json!("sas"), &json!({ "iotEdge": false })));
    assert_eq!(twin["properties"]["desired"]["$version"], 1);
    assert!(twin["properties"]["reported"]["$metadata"]["$lastUpdated"].is_string());
    let patch =
        json!({ "tags": { "site": "north", "a": 1 }, "properties": { "desired": { "rate": 5, "deep": { "x": 1 } } } });
    let etag = format!("If-Match: \"{}\"\r\n", twin["etag"].as_str().expect("a text"));
    let patched = served.ask("PATCH", "/twins/d-1", &etag, &patch.to_string()).await;
    assert_eq!(patched.status, 200, "{}", patched.body);
    assert_eq!(patched.body["properties"]["desired"]["deep"]["x"], 1);
    assert_eq!(
        patched.header("etag"),
        Some(format!("\"{}\"", patched.body["etag"].as_str().expect("a text")).as_str())
    );
    let late = served.ask("PATCH", "/twins/d-1", &etag, &patch.to_string()).await;
    assert_eq!((late.status, late.code()), (412, "PreconditionFailed"));
    let less = json!({ "tags": { "a": null }, "properties": { "desired": { "rate": null } } });
    let merged = served.ask("PATCH", "/twins/d-1", "If-Match: \"*\"\r\n", &less.to_string()).await.body;
    assert_eq!(
        (&merged["tags"], &merged["properties"]["desired"]["rate"]),
        (&json!({ "site": "north" }), &Value::Null)
    );

    // All of it back, as it was given: nothing changes but the version.
    let mut whole = served.ask("GET", "/twins/d-1", "", "").await.body;
    whole["properties"]["desired"]["new"] = json!(true);
    let replaced = served.ask("PUT", "/twins/d-1", "If-Match: *\r\n", &whole.to_string()).await;
    assert_eq!(replaced.status, 200, "{}", replaced.body);
    let desired = &replaced.body["properties"]["desired"];
    assert_eq!((&desired["new"], &desired["deep"]["x"], &desired["$version"]), (&json!(true), &json!(1), &json!(4)));
    let bare = served.ask("PUT", "/twins/d-1", "", r#"{"properties":{"desired":{"only":1}}}"#).await.body;
    assert_eq!((&bare["properties"]["desired"]["deep"], &bare["tags"]["site"]), (&Value::Null, &json!("north")));

    served.ask("PUT", "/devices/d-1/modules/m", "", "{}").await;
    let module = served.ask("PATCH", "/twins/d-1/modules/m", "", r#"{"tags":{"of":"m"}}"#).await;
    assert_eq!((&module.body["moduleId"], &module.body["tags"]["of"]), (&json!("m"), &json!("m")), "{}", module.body);
    assert_eq!(served.ask("GET", "/twins/d-1", "", "").await.body["tags"]["of"], Value::Null);
    assert_eq!(served.ask("GET", "/twins/nobody", "", "").await.code(), "DeviceNotFound");
    assert_eq!(served.ask("PATCH", "/twins/d-1/modules/n", "", "{}").await.code(), "ModuleNotFound");

    // A device of the same id is another one.
    served.ask("DELETE", "/devices/d-1", "", "").await;
    served.ask("PUT", "/devices/d-1", "", "{}").await;
    assert_eq!(served.ask("GET", "/twins/d-1", "", "").await.body["tags"], json!({}));
    served.close().await;
}

#[tokio::test]
async fn what_a_twin_cannot_hold_is_refused_and_changes_nothing() {
    let served = Served::open().await;
    let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let of = |desired: &str| format!(r#"{{"properties":{{"desired":{desired}}}}}"#);
    let large = format!(r#"{{"a":["{}"]}}"#, vec!["x".repeat(4_000); 9].join("\",\""));
    for (body, status) in [
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
        ("\u{0}\u{1}".to_owned(), 400),
        (r#"{"tags":"x"}"#.to_owned(), 400),
        (of(&deep(12)), 400),
        (of(&deep(20_000)), 400),
        (of(r#"{"a.b":1}"#), 400),
        (of(&large), 413),
    ] {
        let refused = served.ask("PATCH", "/twins/d-1", "", &body).await;
        assert_eq!(refused.status, status, "{} {}", refused.body, &body[..body.len().min(60)]);
    }
    assert_eq!(served.ask("GET", "/twins/d-1", "", "").await.body["version"], 1);
    served.close().await;
}

#[tokio::test]
async fn of_patches_that_race_none_is_lost_and_each_counts_once() {
    let served = Arc::new(Served::open().await);
    let racing: Vec<_> = (0..20)
        .map(|at| {
            let served = Arc::clone(&served);
            let patch =
                json!({ "tags": { format!("t{at}"): at }, "properties": { "desired": { format!("p{at}"): at } } });
            tokio::spawn(async move { served.ask("PATCH", "/twins/d-1", "", &patch.to_string()).await.status })
        })
        .collect();
    for one in racing {
        assert_eq!(one.await.expect("no panic"), 200);
    }
    let twin = served.ask("GET", "/twins/d-1", "", "").await.body;
    assert_eq!((&twin["version"], &twin["properties"]["desired"]["$version"]), (&json!(21), &json!(21)));
    assert!((0..20).all(|at| twin["tags"][format!("t{at}")] == at), "{twin}");
    Arc::into_inner(served).expect("nobody else").close().await;
}

#[tokio::test]
async fn a_method_of_a_device_that_is_away_is_refused_as_the_service_does() {
    let served = Served::open().await;
    let message = |reply: &crate::hub::https::tests::Reply| -> Value {
        serde_json::from_str(reply.body["Message"].as_str().expect("a text")).expect("JSON in it")
    };
    let away = served.ask("POST", "/twins/d-1/methods", "", r#"{"methodName":"m","payload":null}"#).await;
    assert_eq!((away.status, &message(&away)["errorCode"]), (404, &json!(404_103)), "{}", away.body);
    assert_eq!(away.header("iothub-errorcode"), Some("DeviceNotOnline"));
    let nobody = served.ask("POST", "/twins/nobody/methods", "", r#"{"methodName":"m"}"#).await;
    assert_eq!((nobody.status, &message(&nobody)["errorCode"]), (404, &json!(404_001)), "{}", nobody.body);
    served.ask("PUT", "/devices/d-1", "If-Match: *\r\n", r#"{"status":"disabled"}"#).await;
    let disabled = served.ask("POST", "/twins/d-1/methods", "", r#"{"methodName":"m"}"#).await;
    assert_eq!(message(&disabled)["errorCode"], 404_001);
    for body in [
        "{}",
        r#"{"methodName":"m","responseTimeoutInSeconds":4}"#,
        r#"{"methodName":"m","responseTimeoutInSeconds":301}"#,
        r#"{"methodName":"m","connectTimeoutInSeconds":301}"#,
        r#"{"methodName":"m","responseTimeoutInSeconds":-1}"#,
        r#"{"methodName":"a/b"}"#,
    ] {
        let refused = served.ask("POST", "/twins/d-2/methods", "", body).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
    }
    served.close().await;
}

#[tokio::test]
async fn messages_wait_for_their_device_up_to_fifty_and_are_thrown_away_when_told() {
    let served = Served::open().await;
    let to = "iothub-to: /devices/d-1/messages/deviceBound\r\niothub-messageid: m-1\r\niothub-ack: full\r\niothub-app-a: b\r\n";
    for _ in 0..50 {
        let sent = served.ask("POST", "/messages/deviceBound", to, "hello").await;
        assert_eq!(sent.status, 204, "{}", sent.body);
    }
    let full = served.ask("POST", "/messages/deviceBound", to, "one more").await;
    assert_eq!((full.status, full.code()), (403, "DeviceMaximumQueueDepthExceeded"));
    assert_eq!(served.ask("GET", "/devices/d-1", "", "").await.body["cloudToDeviceMessageCount"], 50);
    let purged = served.ask("DELETE", "/devices/d-1/commands", "", "").await;
    assert_eq!((&purged.body["totalMessagesPurged"], &purged.body["deviceId"]), (&json!(50), &json!("d-1")));
    assert_eq!(served.ask("DELETE", "/devices/d-1/commands", "", "").await.body["totalMessagesPurged"], 0);
    let large = "x".repeat(66 * 1024);
    for (headers, body, status) in [
        ("", "x", 400),
        ("iothub-to: /devices/d-1\r\n", "x", 400),
        ("iothub-to: /devices/nobody/messages/devicebound\r\n", "x", 404),
        ("iothub-to: /devices/d-1/messages/devicebound\r\niothub-ack: maybe\r\n", "x", 400),
        ("iothub-to: /devices/d-1/messages/devicebound\r\niothub-expiry: soon\r\n", "x", 400),
        ("iothub-to: /devices/d-1/messages/devicebound\r\n", large.as_str(), 413),
    ] {
        let refused = served.ask("POST", "/messages/deviceBound", headers, body).await;
        assert_eq!(refused.status, status, "{headers}: {}", refused.body);
    }
    served.close().await;
}

#[tokio::test]
async fn commands_and_methods_count_for_the_day_and_what_the_tier_throttles_is_429() {
    let served = Served::open().await;
    let limits = served.stand.door.desk.limits.clone();
    let used = || limits.lock().meter().used;
    let to = "iothub-to: /devices/d-1/messages/deviceBound\r\n";
    assert_eq!(served.ask("POST", "/messages/deviceBound", to, &"x".repeat(5_000)).await.status, 204);
    assert_eq!(used(), 2, "5 KB are two of 4");
    let absent = "iothub-to: /devices/absent/messages/deviceBound\r\n";
    assert_eq!(served.ask("POST", "/messages/deviceBound", absent, "x").await.status, 404);
    assert_eq!(used(), 2, "what is not taken is not billed");
    let call = json!({ "methodName": "x", "payload": "y".repeat(5_000) }).to_string();
    assert_eq!(served.ask("POST", "/twins/d-1/methods", "", &call).await.status, 404);
    assert_eq!(used(), 5, "two to ask, one to say that nobody is there");

    limits.lock().throttle(served.stand.door.desk.clock.now(), std::time::Duration::from_secs(600));
    for (method, path, head, body) in [
        ("POST", "/messages/deviceBound", to, "x"),
        ("POST", "/twins/d-1/methods", "", call.as_str()),
        ("GET", "/twins/d-1", "", ""),
        ("PATCH", "/twins/d-1", "", "{}"),
        ("GET", "/devices/d-1", "", ""),
        ("POST", "/devices/query", "", "{\"query\": \"SELECT * FROM devices\"}"),
        ("GET", "/jobs/v2/query", "", ""),
    ] {
        let refused = served.ask(method, path, head, body).await;
        assert_eq!(refused.status, 429, "{method} {path}");
    }
    assert_eq!(used(), 5);
    served.close().await;
}
