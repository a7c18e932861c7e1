//! What a further registration does, and which hub is chosen.

use std::fs;

use super::*;
use crate::hub::twins::Change;
use crate::hub::who::Who;

/// Registers `d`, lets `change` happen to its enrolment, and registers it again.
async fn twice(policy: &str, change: impl FnOnce(String) -> String) -> (Stand, Value, Value) {
    let stand = Stand::open(Setup::default()).await;
    let path = stand.dir.path().join("enrolments.toml");
    let text = format!(
        "[[individual]]\nid = \"d\"\nallocation = \"static\"\nhubs = [\"east\"]\nreprovision-policy = \"{policy}\"\n\
         payload = {{ line = 3 }}\n"
    );
    fs::write(&path, text).expect("written");
    enrolments::prepare(&path).expect("completed");
    let shows = stand.token("d", &stand.key("d"));
    let first = stand.register("d", &shows).await;
    fs::write(&path, change(fs::read_to_string(&path).expect("read"))).expect("written");
    let second = stand.register("d", &shows).await;
    (stand, first, second)
}

fn to_west(text: String) -> String {
    text.replace("\"east\"", "\"west\"")
}

#[tokio::test]
async fn a_device_moves_with_its_enrolment_and_the_hub_it_leaves_knows_it_no_more() {
    for (policy, substatus) in [("migrate", "deviceDataMigrated"), ("reset", "deviceDataReset")] {
        let (stand, first, second) = twice(policy, to_west).await;
        assert_eq!(state(&first)["payload"], json!({ "line": 3 }));
        assert_eq!(
            (&state(&first)["assignedHub"], &state(&first)["substatus"]),
            (&json!("east"), &json!("initialAssignment"))
        );
        assert_eq!((&state(&second)["assignedHub"], &state(&second)["substatus"]), (&json!("west"), &json!(substatus)));
        assert_eq!(state(&first)["createdDateTimeUtc"], state(&second)["createdDateTimeUtc"]);
        assert_eq!(stand.homes("d"), ["west"]);

        let path = stand.dir.path().join("enrolments.toml");
        let back = fs::read_to_string(&path).expect("read").replace("\"west\"", "\"east\" ");
        fs::write(&path, back).expect("written");
        let third = stand.register("d", &stand.token("d", &stand.key("d"))).await;
        assert_eq!(state(&third)["substatus"], json!("reprovisionedToInitialAssignment"));
        assert_eq!(stand.homes("d"), ["east"]);
        stand.close().await;
    }
}

#[tokio::test]
async fn a_device_whose_enrolment_never_moves_it_stays() {
    let (stand, _, second) = twice("never", to_west).await;
    assert_eq!(
        (&state(&second)["assignedHub"], &state(&second)["substatus"]),
        (&json!("east"), &json!("initialAssignment"))
    );
    assert_eq!(stand.homes("d"), ["east"]);
    stand.close().await;
}

#[tokio::test]
async fn a_device_that_stays_keeps_its_data_or_begins_anew_and_is_known_by_new_keys() {
    for (policy, substatus) in [("migrate", "initialAssignment"), ("reset", "deviceDataReset")] {
        let (stand, _, second) = twice(policy, |text| text + "# another day\n").await;
        assert_eq!(state(&second)["substatus"], json!(substatus));

        let path = stand.dir.path().join("enrolments.toml");
        let text = fs::read_to_string(&path).expect("read").replace(stand.key("d").reveal(), "bmV3IGtleQ==");
        fs::write(&path, text).expect("written");
        stand.register("d", &stand.token("d", &Secret::new("bmV3IGtleQ=="))).await;
        let known = stand.registry("east").now();
        let key = known.device("d").and_then(|device| device.auth.primary_key()).expect("a key").reveal().to_owned();
        assert_eq!(key, "bmV3IGtleQ==");
        stand.close().await;
    }
}

#[tokio::test]
async fn a_device_that_gets_another_name_is_not_left_behind_under_the_old_one() {
    let (stand, _, second) =
        twice("migrate", |text| text.replacen("[[individual]]", "[[individual]]\ndevice-id = \"e\"", 1)).await;
    assert_eq!(state(&second)["deviceId"], json!("e"));
    assert_eq!((stand.homes("d"), stand.homes("e")), (vec![], vec!["east".to_owned()]));
    stand.close().await;
}

#[tokio::test]
async fn a_registration_without_a_hub_fails_says_why_and_leaves_the_device_where_it_was() {
    let (stand, _, second) = twice("migrate", |text| text.replace("\"east\"", "\"moon\"")).await;
    assert_eq!((&second["status"], &state(&second)["errorCode"]), (&json!("failed"), &json!(400_000)));
    let why = state(&second)["errorMessage"].as_str().expect("a text");
    assert!(why.contains("moon"), "{why}");
    assert_eq!(stand.homes("d"), ["east"]);
    stand.close().await;

    let stand = Stand::open(Setup { hubs: vec![], ..Setup::default() }).await;
    let shows = stand.by_key("d");
    assert_eq!(stand.register("d", &shows).await["status"], json!("failed"));
    stand.close().await;
}

#[tokio::test]
async fn a_twin_begins_as_the_enrolment_says_and_moves_or_begins_anew_with_its_device() {
    let (initial, d) = ((json!({ "hall": "3" }), json!({ "interval": 5 })), Who::device("d"));
    for (policy, to) in [("migrate", "east"), ("migrate", "west"), ("reset", "east"), ("reset", "west")] {
        let stand = Stand::open(Setup::default()).await;
        let path = stand.dir.path().join("enrolments.toml");
        let text = |hub: &str| {
            format!(
                "[[individual]]\nid = \"d\"\nhubs = [\"{hub}\"]\nreprovision-policy = \"{policy}\"\n\
                 primary-key = \"a2V5\"\ninitial-twin.tags = {{ hall = \"3\" }}\ninitial-twin.desired = {{ interval = 5 }}\n"
            )
        };
        fs::write(&path, text("east")).expect("written");
        let shows = stand.token("d", &Secret::new("a2V5"));
        stand.register("d", &shows).await;
        let twin = |hub: &str| {
            let twin = stand.desk(hub).twins.get(&d);
            (json!(twin.tags), json!(twin.desired.values), json!(twin.reported.values))
        };
        assert_eq!(twin("east"), (initial.0.clone(), initial.1.clone(), json!({})));

        let twins = stand.desk("east").twins;
        twins.report(&d, &json!({ "t": 21.5 })).await.expect("reported");
        let change = Change { tags: Some(json!({ "line": 1 })), ..Change::default() };
        twins.change(&d, change, None).await.expect("changed");
        let grown = (json!({ "hall": "3", "line": 1 }), initial.1.clone(), json!({ "t": 21.5 }));
        assert_eq!(twin("east"), grown);
        fs::write(&path, text(to) + "# another day\n").expect("written");
        assert_eq!(state(&stand.register("d", &shows).await)["assignedHub"], json!(to));
        let wanted = if policy == "migrate" { grown } else { (initial.0.clone(), initial.1.clone(), json!({})) };
        assert_eq!(twin(to), wanted, "{policy} to {to}");
        if to == "west" {
            assert_eq!(twin("east"), (json!({}), json!({}), json!({})), "{policy}: nothing is left behind");
        }
        stand.close().await;
    }
}
