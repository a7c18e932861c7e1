use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000);

fn desired(desired: Value) -> Change {
    Change { desired: Some(desired), ..Change::default() }
}

#[test]
fn a_patch_merges_and_null_takes_away() {
    for (before, patch, after) in [
        (json!({}), json!({"a": 1, "b": {"c": "x"}}), json!({"a": 1, "b": {"c": "x"}})),
        (json!({"a": 1, "b": {"c": 1, "d": 2}}), json!({"b": {"c": null}}), json!({"a": 1, "b": {"d": 2}})),
        (json!({"a": {"b": 1}}), json!({"a": 5}), json!({"a": 5})),
        (json!({"a": 5}), json!({"a": {"b": null, "c": 1}}), json!({"a": {"c": 1}})),
        (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
        (json!({"a": 1}), json!({"a": null, "x": null, "$version": 9, "$metadata": {}}), json!({})),
    ] {
        let mut twin = Twin::default();
        twin.report(&before, NOW).expect("taken");
        assert_eq!(twin.report(&patch, NOW).expect("taken"), 3, "{patch}");
        assert_eq!(Value::Object(twin.reported.values), after, "{before} {patch}");
    }
}

#[test]
fn every_change_counts_once_and_the_device_is_told_what_services_wish() {
    let mut twin = Twin::default();
    assert_eq!((twin.version, twin.etag.as_str()), (1, "AAAAAAAAAAE="));
    let told = twin.change(&desired(json!({"a": {"b": 1, "c": 2}})), None, NOW).expect("taken");
    assert_eq!(told, Some(json!({"a": {"b": 1, "c": 2}, "$version": 2})));
    let tags = Change { tags: Some(json!({"site": "x"})), ..Change::default() };
    assert_eq!(twin.change(&tags, None, NOW).expect("taken"), None);
    assert_eq!(twin.change(&desired(json!({})), None, NOW).expect("nothing to do"), None);
    let told = twin.change(&desired(json!({"a": {"b": null}})), None, NOW).expect("taken");
    assert_eq!(told, Some(json!({"a": {"b": null}, "$version": 3})));
    let whole = Change { replace: true, ..desired(json!({"d": 1})) };
    assert_eq!(twin.change(&whole, None, NOW).expect("taken"), Some(json!({"a": null, "d": 1, "$version": 4})));
    assert_eq!((twin.version, twin.desired.version, twin.reported.version), (5, 4, 1));
    assert_eq!(twin.tags, *json!({"site": "x"}).as_object().expect("an object"));
    assert_eq!(
        twin.desired.to_json_with_metadata(),
        json!({"d": 1, "$version": 4, "$metadata": {
            "$lastUpdated": "1970-01-01T00:00:01Z", "$lastUpdatedVersion": 4,
            "d": {"$lastUpdated": "1970-01-01T00:00:01Z", "$lastUpdatedVersion": 4},
        }})
    );
}

#[test]
fn a_change_for_another_etag_is_refused() {
    let mut twin = Twin::default();
    let old = twin.etag.clone();
    twin.change(&desired(json!({"a": 1})), Some("*"), NOW).expect("any");
    twin.report(&json!({"x": 1}), NOW).expect("no matter for etags");
    twin.change(&desired(json!({"a": 2})), Some(&format!("\"{}\"", twin.etag.clone())), NOW).expect("the same");
    let late = twin.change(&desired(json!({"a": 3})), Some(&old), NOW);
    assert!(matches!(&late, Err(fault @ TwinFault::Conflict) if fault.status() == 412), "{late:?}");
    assert_eq!(twin.desired.values["a"], 2);
}

#[test]
fn what_a_twin_cannot_hold_is_refused_and_leaves_it_as_it_was() {
    let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
    for (patch, status) in [
        (json!(1), 400),
        (json!([]), 400),
        (json!(null), 400),
        (json!({"a.b": 1}), 400),
        (json!({"a b": 1}), 400),
        (json!({"a": {"$b": 1}}), 400),
        (json!({"": 1}), 400),
        (json!({"a\u{7}": 1}), 400),
        (json!({"a": u64::MAX}), 400),
        (json!({"a": 4_503_599_627_370_496i64}), 400),
        (json!({"a": "x".repeat(4097)}), 400),
        (json!({"x".repeat(1025): 1}), 400),
        (deep(12), 400),
        (deep(120), 400),
        (json!({"a": vec!["x".repeat(3300); 10]}), 413),
    ] {
        let mut twin = Twin::default();
        let refused = twin.report(&patch, NOW).expect_err("refused").status();
        assert_eq!((refused, &twin), (status, &Twin::default()), "{patch}");
    }
    let mut twin = Twin::default();
    // The example of Microsoft's page: a value within ten objects.
    twin.report(&deep(11), NOW).expect("ten levels");
    twin.report(&json!({"b": vec!["x".repeat(3200); 10]}), NOW).expect("32 KB");
    let more = twin.report(&json!({"c": vec!["x".repeat(1000); 1]}), NOW);
    assert!(matches!(more, Err(TwinFault::TooLarge { .. })), "patch upon patch");
    let tags = Change { tags: Some(json!({"a": vec!["x".repeat(3000); 3]})), ..Change::default() };
    assert_eq!(twin.change(&tags, None, NOW).expect_err("8 KB").status(), 413);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::btree_map("[a-d$. ]{0,2}", inner.clone(), 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
            proptest::collection::vec(inner, 0..3).prop_map(Value::Array),
        ]
    })
}

proptest! {
    #[test]
    fn values_and_metadata_have_the_same_names_whatever_is_patched(patches in proptest::collection::vec(value(), 0..5)) {
        fn same(values: &Map<String, Value>, metadata: &Map<String, Value>) -> bool {
            let names = metadata.keys().filter(|name| !name.starts_with('$'));
            names.count() == values.len()
                && values.iter().all(|(name, value)| match (value, metadata.get(name)) {
                    (Value::Object(value), Some(Value::Object(metadata))) => same(value, metadata),
                    (_, Some(Value::Object(_))) => true,
                    _ => false,
                })
        }
        let mut twin = Twin::default();
        for patch in patches {
            let before = twin.clone();
            match twin.change(&Change { desired: Some(patch), ..Change::default() }, None, NOW) {
                Ok(told) => prop_assert_eq!(twin.desired.version, before.desired.version + i64::from(told.is_some())),
                Err(_) => prop_assert_eq!(&twin, &before),
            }
            prop_assert!(same(&twin.desired.values, &twin.desired.metadata), "{:?}", twin);
        }
    }
}
