//! The ways a device proves itself, and where it finds itself after.

use super::*;

#[tokio::test]
async fn a_device_with_a_key_is_told_its_hub_and_is_known_there_by_the_same_keys() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("press-7");
    let body = stand.register("press-7", &shows).await;
    let state = state(&body);
    let hub = state["assignedHub"].as_str().expect("a hub");
    assert_eq!(stand.homes("press-7"), [hub]);
    assert_eq!((&body["status"], &state["status"]), (&json!("assigned"), &json!("assigned")));
    assert_eq!((&state["registrationId"], &state["deviceId"]), (&json!("press-7"), &json!("press-7")));
    assert_eq!((&state["substatus"], &state["symmetricKey"]), (&json!("initialAssignment"), &json!({})));
    assert!(state["payload"].is_null() && state["etag"].is_string());
    let known = stand.registry(hub).now();
    let key = known.device("press-7").and_then(|device| device.auth.primary_key()).expect("a key").reveal().to_owned();
    assert_eq!(key, stand.key("press-7").reveal());

    // As the SDK for Python signs.
    let key = Key::device(&key).expect("base64");
    let nameless = Shows::Token(sas::sign(&format!("{SCOPE}/registrations/press-7"), &key, FAR, None));
    assert_eq!(stand.register("press-7", &nameless).await["status"], json!("assigned"));
    assert_eq!(stand.count("registrations_total{outcome=\"assigned\"}"), 2);
    stand.close().await;
}

#[tokio::test]
async fn a_device_of_a_group_has_a_key_of_its_own() {
    let stand = Stand::open(Setup::default()).await;
    stand.enroll(Wish { is_group: true, ..wish("line-1") });
    stand.enroll(Wish { is_group: true, ..wish("line-2") });
    let own = keys::of_device(&stand.key("line-2"), "press-7").expect("a key");
    let body = stand.register("press-7", &stand.token("press-7", &own)).await;
    let state = state(&body);
    assert_eq!(state["symmetricKey"], json!({ "enrollmentGroupId": "line-2" }));
    let known = stand.registry(state["assignedHub"].as_str().expect("a hub")).now();
    let key = known.device("press-7").and_then(|device| device.auth.primary_key()).expect("a key").reveal().to_owned();
    assert_eq!(key, own.reveal());

    let others = stand.token("press-8", &own);
    let refused = stand.register("press-8", &others).await;
    assert_eq!(refused["errorCode"], json!(401_000), "another device's key");
    let group = stand.token("press-8", &stand.key("line-2"));
    assert_eq!(stand.register("press-8", &group).await["errorCode"], json!(401_000), "the group's own key");
    stand.close().await;
}

#[tokio::test]
async fn a_certificate_is_known_by_its_thumbprint_or_by_the_authority_of_a_group() {
    let stand = Stand::open(Setup::default()).await;
    let own = stand.dir.path().join("identity");
    let issue =
        |id: &str, group: Option<&str>| ca::issue_member(&own, id, group, 1, Clock::Real.now()).expect("issued");
    let alone = issue("alone", None);
    let thumbprint = Some(alone.thumbprint.clone());
    stand.enroll(Wish { auth: Some(Means::X509), thumbprint, device_id: Some("d=1".to_owned()), ..wish("alone") });
    let authority = ca::group_authority(&own, "line-1", Clock::Real.now()).expect("made");
    stand.enroll(Wish { auth: Some(Means::X509), is_group: true, authorities: vec![authority], ..wish("line-1") });
    let member = issue("member", Some("line-1"));
    for (id, device, issued, group) in
        [("alone", "d=1", alone, json!({})), ("member", "member", member, json!({ "enrollmentGroupId": "line-1" }))]
    {
        let thumbprint = issued.thumbprint.clone();
        let body = stand.register(id, &Shows::Certificate(issued)).await;
        let state = state(&body);
        assert_eq!((&state["deviceId"], &state["x509"]), (&json!(device), &group), "{body}");
        let known = stand.registry(state["assignedHub"].as_str().expect("a hub")).now();
        let auth = known.device(device).expect("known").auth.clone();
        assert!(matches!(&auth, Auth::Thumbprint(known) if *known == [thumbprint]), "{auth:?}");
    }

    let stranger = Shows::Certificate(issue("stranger", None));
    let body = stand.register("stranger", &stranger).await;
    let told = (&body["errorCode"], &body["message"]);
    assert_eq!(told, (&json!(401_002), &json!("CA certificate not found.")));
    let other = Shows::Certificate(issue("alone", None));
    let body = stand.register("alone", &other).await;
    assert_eq!((&body["errorCode"], &body["message"]), (&json!(401_002), &json!("Invalid certificate")));
    stand.close().await;
}

#[tokio::test]
async fn answers_come_with_the_quality_of_service_that_was_granted() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("d");
    for (asked, granted) in [(QoS::AtMostOnce, QoS::AtMostOnce), (QoS::ExactlyOnce, QoS::AtLeastOnce)] {
        let mut device = stand.connect_with(stand.options("d", &shows), asked).await.expect("admitted");
        device.say(&format!("{REGISTER}1"), b"{}").await;
        let publish = device.until(|packet| if let Packet::Publish(publish) = packet { Some(publish) } else { None });
        assert_eq!(publish.await.expect("answered").qos, granted);
    }
    stand.close().await;
}

#[tokio::test]
async fn what_is_registered_survives_a_restart_and_a_second_registration_finds_it() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("press-7");
    let first = stand.register("press-7", &shows).await;
    let stand = Stand::open_in(stand.close().await, Setup::default()).await;
    let second = stand.register("PRESS-7", &stand.token("PRESS-7", &stand.key("press-7"))).await;
    assert_ne!(first["operationId"], second["operationId"]);
    for same in ["assignedHub", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "substatus"] {
        assert_eq!(state(&first)[same], state(&second)[same], "{same}");
    }
    stand.close().await;
}

#[tokio::test]
async fn many_at_once_are_each_assigned_once_and_all_hubs_have_their_share() {
    let stand = Stand::open(Setup::default()).await;
    stand.enroll(Wish { is_group: true, ..wish("line-1") });
    let key = stand.key("line-1");
    let one = async |at: usize| {
        let id = format!("press-{at}");
        let shows = stand.token(&id, &keys::of_device(&key, &id).expect("a key"));
        let mut device = stand.connect(&id, &shows).await.expect("admitted");
        let body = device.ask(REGISTER, "", "{}").await.body;
        // Twice: it is the same operation, or one after it.
        let again = device.ask(REGISTER, "", "{}").await.body;
        stand.idle().await;
        let operation = again["operationId"].as_str().expect("an operation").to_owned();
        let ended = device.ask(STATUS, &format!("&operationId={operation}"), " ").await.body;
        (body["status"].clone(), state(&ended)["assignedHub"].as_str().expect("a hub").to_owned())
    };
    let all = futures::future::join_all((0..40).map(one)).await;
    assert!(all.iter().all(|(status, _)| status == "assigning"));
    for hub in ["east", "west"] {
        let told = all.iter().filter(|(_, told)| told == hub).count();
        assert_eq!(stand.registry(hub).now().devices().len(), told);
        assert!(5 < told, "{told} of 40 at {hub}");
    }
    stand.close().await;
}

#[tokio::test]
async fn a_registration_that_a_kill_cut_off_goes_on_when_its_device_asks_for_it() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("press-7");
    stand.by_key("press-8");
    // What is on disk of a service that was killed after it had answered.
    stand.door.service.registrations.begin("press-7", "4.a.b").expect("a disk");
    let stand = Stand::open_in(stand.close().await, Setup::default()).await;

    let other = stand.token("press-8", &stand.key("press-8"));
    let mut stranger = stand.connect("press-8", &other).await.expect("admitted");
    assert_eq!(stranger.ask(STATUS, "&operationId=4.a.b", " ").await.status, 404, "another device's operation");
    let mut device = stand.connect("press-7", &shows).await.expect("admitted");
    assert_eq!(device.ask(STATUS, "&operationId=4.a.c", " ").await.status, 404, "no operation of anybody");
    let goes_on = device.ask(STATUS, "&operationId=4.a.b", " ").await;
    assert_eq!((goes_on.status, goes_on.body["operationId"].as_str()), (202, Some("4.a.b")));
    stand.idle().await;
    let ended = device.ask(STATUS, "&operationId=4.a.b", " ").await;
    assert_eq!((ended.status, &ended.body["status"]), (200, &json!("assigned")));
    assert_eq!(stand.homes("press-7").len(), 1);
    assert_eq!(stand.door.service.registrations.begun("press-7"), None);
    stand.close().await;
}
