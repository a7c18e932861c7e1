//! What a device is told when the answer is no.

use super::*;

#[tokio::test]
async fn a_connection_that_cannot_be_right_is_refused() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("d");
    let key = Key::device(stand.key("d").reveal()).expect("base64");
    let resource = format!("{SCOPE}/registrations/d");
    let sign = |resource: &str, expiry_s: i64, policy: Option<&str>| sas::sign(resource, &key, expiry_s, policy);
    let now_s = Clock::Real.now().millis() / 1_000;
    let good = sign(&resource, FAR, Some("registration"));
    let user = format!("{SCOPE}/registrations/d/api-version=2019-03-31");
    use ConnectReturnCode::{BadClientId, BadUserNamePassword, NotAuthorized};
    for (what, client_id, user, password, code) in [
        ("a user name that is none", "d", "d".to_owned(), good.clone(), BadUserNamePassword),
        ("a hub's user name", "d", "hub/d/?api-version=1".to_owned(), good.clone(), BadUserNamePassword),
        ("another client id", "e", user.clone(), good.clone(), BadClientId),
        ("another id scope", "d", user.replace(SCOPE, "0ne00000000"), good.clone(), NotAuthorized),
        ("no token", "d", user.clone(), String::new(), NotAuthorized),
        ("no token at all", "d", user.clone(), "secret".to_owned(), NotAuthorized),
        ("an expired token", "d", user.clone(), sign(&resource, now_s - 1, Some("registration")), NotAuthorized),
        (
            "another's token",
            "d",
            user.clone(),
            sign("0ne0000CAFE/registrations/e", FAR, Some("registration")),
            NotAuthorized,
        ),
        ("a hub's token", "d", user.clone(), sign("hub/devices/d", FAR, None), NotAuthorized),
        ("a policy's token", "d", user.clone(), sign(&resource, FAR, Some("service")), NotAuthorized),
    ] {
        let mut options = stand.options("d", &shows);
        options.set_credentials(user, password);
        let mut other = MqttOptions::new(client_id, "127.0.0.1", stand.addr.port());
        other.set_credentials(
            options.credentials().expect("set").username,
            options.credentials().expect("set").password,
        );
        other.set_transport(options.transport());
        let refused = stand.connect_with(other, QoS::AtLeastOnce).await.err().expect(what);
        assert!(matches!(&refused, ConnectionError::ConnectionRefused(found) if *found == code), "{what}: {refused:?}");
    }

    let issued = ca::issue_member(stand.dir.path(), "e", None, 1, Clock::Real.now()).expect("issued");
    for (what, shows) in [("no certificate", Shows::Nothing), ("another's certificate", Shows::Certificate(issued))] {
        let mut options = stand.options("d", &shows);
        options.set_credentials(user.clone(), "");
        let refused = stand.connect_with(options, QoS::AtLeastOnce).await.err().expect(what);
        assert!(matches!(refused, ConnectionError::ConnectionRefused(NotAuthorized)), "{what}: {refused:?}");
    }
    let mut options = stand.options("d", &shows);
    options.set_last_will(rumqttc::LastWill::new("devices/d/messages/events/", "bye", QoS::AtLeastOnce, false));
    let refused = stand.connect_with(options, QoS::AtLeastOnce).await.err().expect("a will");
    assert!(matches!(refused, ConnectionError::ConnectionRefused(NotAuthorized)), "{refused:?}");
    stand.close().await;
}

#[tokio::test]
async fn a_registration_that_may_not_is_told_so_in_its_topic() {
    let stand = Stand::open(Setup::default()).await;
    let wrong = Secret::new("d3Jvbmc=");
    let unknown = stand.register("stranger", &stand.token("stranger", &wrong)).await;
    assert_eq!((&unknown["errorCode"], &unknown["message"]), (&json!(401_000), &json!("Unauthorized")));
    assert!(unknown["trackingId"].is_string() && unknown["timestampUtc"].is_string());
    let shows = stand.by_key("d");
    assert_eq!(stand.register("d", &stand.token("d", &wrong)).await["errorCode"], json!(401_000));

    stand.enroll(Wish { enabled: Some(false), ..wish("d") });
    let disabled = stand.register("d", &shows).await;
    assert_eq!((&disabled["status"], &state(&disabled)["status"]), (&json!("disabled"), &json!("disabled")));
    assert!(stand.homes("d").is_empty());
    assert_eq!(stand.register("d", &stand.token("d", &wrong)).await["errorCode"], json!(401_000), "proof comes first");

    // An individual enrolment goes before the group that would let its device in.
    stand.enroll(Wish { is_group: true, ..wish("line-1") });
    let own = stand.token("d", &keys::of_device(&stand.key("line-1"), "d").expect("a key"));
    assert_eq!(stand.register("d", &own).await["errorCode"], json!(401_000));
    stand.enroll(Wish { is_group: true, enabled: Some(false), ..wish("line-1") });
    let other = stand.token("e", &keys::of_device(&stand.key("line-1"), "e").expect("a key"));
    assert_eq!(stand.register("e", &other).await["status"], json!("disabled"));
    assert_eq!(stand.count("refused_total{code=\"401000\"}"), 4);
    stand.close().await;
}

#[tokio::test]
async fn what_cannot_be_understood_is_told_so_and_the_connection_stays() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("d");
    let mut device = stand.connect("d", &shows).await.expect("admitted");
    for (topic, more, body, status) in [
        (REGISTER, "", "", 400),
        (REGISTER, "", "{\"registrationId\":\"e\"}", 400),
        (REGISTER, "", "{\"tpm\":{\"endorsementKey\":\"a\"}}", 400),
        (STATUS, "&operationId=4.0.none", " ", 404),
        (STATUS, "", " ", 404),
        ("$dps/registrations/POST/iotdps-register/?$rid=", "", "{}", 405),
        ("$dps/registrations/GET/iotdps-register/?$rid=", "", "{}", 405),
    ] {
        let told = device.ask(topic, more, body).await;
        assert_eq!(
            (told.status, &told.body["errorCode"]),
            (status, &json!(u32::from(status) * 1_000)),
            "{topic} {body}"
        );
    }
    let deep = format!("{{\"payload\":{}", "[".repeat(90_000));
    assert_eq!(device.ask(REGISTER, "", &deep).await.status, 400);
    let begun = device.ask(REGISTER, "", "{}").await;
    assert_eq!(begun.status, 202);
    stand.idle().await;

    let other = stand.by_key("e");
    let operation = format!("&operationId={}", begun.body["operationId"].as_str().expect("an operation"));
    let mut other = stand.connect("e", &other).await.expect("admitted");
    assert_eq!(other.ask(STATUS, &operation, " ").await.status, 404, "another's operation");
    assert_eq!(device.ask(STATUS, &operation, " ").await.status, 200);
    stand.close().await;
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_when_to_come_again() {
    let stand = Stand::open(Setup { per_minute: 2, ..Setup::default() }).await;
    let shows = stand.by_key("d");
    let mut device = stand.connect("d", &shows).await.expect("admitted");
    for status in [202, 202, 429] {
        let told = device.ask(REGISTER, "", "{}").await;
        assert_eq!(told.status, status);
        let wait: u64 = told.query("retry-after").and_then(|wait| wait.parse().ok()).expect("a wait");
        assert!(if status == 202 { wait == 3 } else { (28..=30).contains(&wait) }, "{wait}");
    }
    let mut told = vec![];
    for _ in 0..6 {
        told.push(device.ask(STATUS, "&operationId=4.0.none", " ").await.status);
    }
    assert_eq!(told, [404, 404, 404, 404, 404, 429]);
    stand.close().await;
}
