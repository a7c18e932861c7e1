//! The API as back ends see it, over TLS.

use serde_json::{Value, json};

use crate::hub::https::tests::Served;

mod many;
mod talk;

#[tokio::test]
async fn a_device_is_made_shown_changed_and_taken_away() {
    let served = Served::open().await;
    let body =
        json!({ "deviceId": "new", "status": "enabled", "statusReason": "test", "capabilities": { "iotEdge": true } });
    let made = served.ask("PUT", "/devices/new", "", &body.to_string()).await;
    assert_eq!(made.status, 200, "{}", made.body);
    let device = made.body;
    assert_eq!((&device["deviceId"], &device["connectionState"]), (&json!("new"), &json!("Disconnected")));
    assert_eq!(device["authentication"]["type"], "sas");
    assert!(device["authentication"]["symmetricKey"]["primaryKey"].as_str().is_some_and(|key| 40 < key.len()));
    assert_eq!(
        (&device["lastActivityTime"], &device["cloudToDeviceMessageCount"]),
        (&json!("0001-01-01T00:00:00Z"), &json!(0))
    );
    let again = served.ask("PUT", "/devices/new", "", &body.to_string()).await;
    assert_eq!((again.status, again.code()), (409, "DeviceAlreadyExists"));

    let shown = served.ask("GET", "/devices/new", "", "").await;
    assert_eq!(shown.body, device);
    let etag = device["etag"].as_str().expect("a text");
    assert_eq!(shown.header("etag"), Some(format!("\"{etag}\"").as_str()));

    let off = json!({ "deviceId": "new", "status": "disabled" }).to_string();
    let stale = served.ask("PUT", "/devices/new", "If-Match: \"stale\"\r\n", &off).await;
    assert_eq!((stale.status, stale.code()), (412, "PreconditionFailed"));
    let changed = served.ask("PUT", "/devices/new", &format!("If-Match: \"{etag}\"\r\n"), &off).await;
    assert_eq!((changed.status, &changed.body["status"]), (200, &json!("disabled")), "{}", changed.body);
    assert_ne!(changed.body["etag"], device["etag"]);
    assert_eq!(changed.body["authentication"], device["authentication"], "keys stay unless others are given");
    assert_eq!(changed.body["generationId"], device["generationId"]);
    assert_ne!(changed.body["statusUpdatedTime"], device["statusUpdatedTime"]);
    let absent = served.ask("PUT", "/devices/absent", "If-Match: \"*\"\r\n", "{}").await;
    assert_eq!((absent.status, absent.code()), (404, "DeviceNotFound"));
    let other = served.ask("PUT", "/devices/other", "", &off).await;
    assert_eq!((other.status, other.code()), (400, "ArgumentInvalid"), "the body names another");

    let counted = served.ask("GET", "/statistics/devices", "", "").await.body;
    assert_eq!(counted, json!({ "totalDeviceCount": 3, "enabledDeviceCount": 2, "disabledDeviceCount": 1 }));
    let connected = served.ask("GET", "/statistics/service", "", "").await.body;
    assert_eq!(connected, json!({ "connectedDeviceCount": 0 }));
    let listed = served.ask("GET", "/devices/?top=2", "", "").await.body;
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_eq!(served.ask("GET", "/devices?top=0", "", "").await.body.as_array().map(Vec::len), Some(3));

    assert_eq!(served.ask("DELETE", "/devices/new", "If-Match: \"stale\"\r\n", "").await.status, 412);
    assert_eq!(served.ask("DELETE", "/devices/new", "If-Match: \"*\"\r\n", "").await.status, 204);
    assert_eq!(served.ask("GET", "/devices/new", "", "").await.code(), "DeviceNotFound");
    served.close().await;
}

#[tokio::test]
async fn a_module_is_made_shown_changed_and_taken_away() {
    let served = Served::open().await;
    let path = "/devices/d-1/modules/m";
    let body = json!({ "deviceId": "d-1", "moduleId": "m", "managedBy": "me" }).to_string();
    let made = served.ask("PUT", path, "", &body).await;
    assert_eq!((made.status, &made.body["managedBy"]), (201, &json!("me")), "{}", made.body);
    assert_eq!(served.ask("PUT", path, "", &body).await.code(), "ModuleAlreadyExistsOnDevice");
    assert_eq!(served.ask("PUT", "/devices/nowhere/modules/m", "", "{}").await.code(), "DeviceNotFound");
    let all = served.ask("GET", "/devices/d-1/modules", "", "").await.body;
    assert_eq!(all, Value::Array(vec![made.body.clone()]));
    let x509 = json!({ "authentication": { "type": "selfSigned", "x509Thumbprint": { "primaryThumbprint": "ab".repeat(20) } } });
    let changed = served.ask("PUT", path, "If-Match: *\r\n", &x509.to_string()).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!(changed.body["authentication"]["x509Thumbprint"]["primaryThumbprint"], "AB".repeat(20));
    assert_eq!(changed.body["authentication"]["symmetricKey"]["primaryKey"], Value::Null);
    assert_eq!(served.ask("GET", path, "", "").await.body, changed.body);
    assert_eq!(served.ask("DELETE", path, "", "").await.status, 204);
    assert_eq!(served.ask("GET", path, "", "").await.code(), "ModuleNotFound");
    served.close().await;
}

#[tokio::test]
async fn a_bulk_does_what_can_be_done_and_says_what_cannot() {
    let served = Served::open().await;
    let bulk = json!([
        { "id": "a", "importMode": "create" },
        { "id": "b", "importMode": "Create", "status": "disabled" },
        { "id": "d-1", "importMode": "create" },
        { "id": "d-2", "importMode": "deleteIfMatchETag", "eTag": "stale" },
        { "id": "absent", "importMode": "update" },
    ]);
    let done = served.ask("POST", "/devices", "", &bulk.to_string()).await;
    assert_eq!((done.status, &done.body["isSuccessful"]), (400, &json!(false)));
    let errors: Vec<_> =
        done.body["errors"].as_array().expect("a list").iter().map(|error| error["errorCode"].clone()).collect();
    assert_eq!(errors, ["DeviceAlreadyExists", "PreconditionFailed", "DeviceNotFound"]);
    assert_eq!(done.body["errors"][0]["deviceId"], "d-1");
    assert_eq!(served.ask("GET", "/devices/b", "", "").await.body["status"], "disabled");

    let bulk =
        json!([{ "id": "a", "importMode": "delete" }, { "id": "b", "importMode": "update", "status": "enabled" }]);
    let done = served.ask("POST", "/devices", "", &bulk.to_string()).await;
    assert_eq!((done.status, &done.body["isSuccessful"], &done.body["errors"]), (200, &json!(true), &json!([])));
    assert_eq!(served.ask("GET", "/devices/a", "", "").await.status, 404);

    let twice = json!([{ "id": "x", "importMode": "create" }, { "id": "x", "importMode": "delete" }]);
    let many: Vec<_> = (0..101).map(|at| json!({ "id": format!("many-{at}"), "importMode": "create" })).collect();
    for (body, code) in [
        (twice.to_string(), "DeviceDefinedMultipleTimes"),
        (Value::Array(many.clone()).to_string(), "ArgumentInvalid"),
        ("[]".to_owned(), "ArgumentInvalid"),
        (json!([{ "id": "x", "importMode": "explode" }]).to_string(), "ArgumentInvalid"),
        ("[{".to_owned(), "IotHubFormatError"),
        ("{}".to_owned(), "ArgumentInvalid"),
        ("[".repeat(100_000), "ArgumentInvalid"),
        (format!("[{{\"tags\":{}", "[".repeat(100_000)), "IotHubFormatError"),
    ] {
        let refused = served.ask("POST", "/devices", "", &body).await;
        assert_eq!((refused.status, refused.code()), (400, code), "{}", refused.body);
    }
    let hundred = Value::Array(many[..100].to_vec()).to_string();
    assert_eq!(served.ask("POST", "/devices", "", &hundred).await.status, 200);
    served.close().await;
}
