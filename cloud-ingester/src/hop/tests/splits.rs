//! However a stream is cut into commits and hops, the tables are the same.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::kit::{EPOCH, Kit, NOW, SECOND, Stored, event, raw};

/// A stream: each entry is one Event's body.
fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let reading = (1_i64..40, 0..3_usize, -3.0..3.0_f64, -200_i64..200, prop::option::of(0_i64..3), 0..4_usize)
        .prop_map(|(s, metric, v, t, n, kind)| {
            let metric = ["a", "b'", "c"][metric];
            let t = if kind == 3 { -500 * 86_400 } else { t };
            let mut reading = json!({"s": s, "d": format!("d{}", s % 2), "m": metric, "t": NOW + t * SECOND});
            match kind {
                1 => reading["vs"] = json!("text"),
                2 => {
                    reading["v"] = json!(v.round());
                    reading["u"] = json!("Cel");
                }
                _ => reading["v"] = json!(v.round()),
            }
            if let Some(n) = n {
                reading["n"] = json!(n);
            }
            reading
        });
    let gap =
        (1_i64..40, 0_i64..5).prop_map(|(from, length)| json!({"epoch": EPOCH, "from": from, "to": from + length}));
    let closing = (1_i64..50).prop_map(|last| json!({"epoch": EPOCH, "last": last}));
    let body = (
        prop::collection::vec(reading, 0..6),
        prop::collection::vec(gap, 0..2),
        prop::option::weighted(0.1, closing),
        0_i64..60,
        0..12_usize,
    )
        .prop_map(|(readings, gaps, closed, high, kind)| match kind {
            0 => b"broken".to_vec(),
            1 => json!({"temperature": high}).to_string().into_bytes(),
            _ => {
                let closed: Vec<Value> = closed.into_iter().collect();
                json!({"v": 1, "gw": "g", "epoch": EPOCH, "high": high, "readings": readings, "gaps": gaps, "closed": closed})
                    .to_string()
                    .into_bytes()
            }
        });
    prop::collection::vec(body, 1..12)
}

fn stream(bodies: &[Vec<u8>]) -> Vec<Stored> {
    (1..).zip(bodies).map(|(sequence, body)| raw(sequence, "g", body.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 32, max_shrink_iters: 20, ..ProptestConfig::default() })]
    #[test]
    fn any_split_of_a_stream_gives_the_same_silver_and_gold(
        bodies in bodies(),
        cuts in prop::collection::vec(any::<bool>(), 12),
        hops_at in prop::collection::vec(any::<bool>(), 12),
        restarts in prop::collection::vec(any::<bool>(), 12),
    ) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (at_once, piecewise) = runtime.block_on(async {
            let whole = Kit::new().await;
            whole.store(&stream(&bodies)).await;
            let mut hops = whole.hops().await;
            whole.settle(&mut hops).await;
            let at_once = (whole.everything().await, hops.totals());

            let pieces = Kit::new().await;
            let mut hops = pieces.hops().await;
            let mut piece = vec![];
            for (at, event) in stream(&bodies).into_iter().enumerate() {
                piece.push(event);
                if cuts[at] || at + 1 == bodies.len() {
                    pieces.store(&std::mem::take(&mut piece)).await;
                    if hops_at[at] {
                        pieces.settle(&mut hops).await;
                    }
                    if restarts[at] {
                        drop(hops);
                        hops = pieces.hops().await;
                    }
                }
            }
            pieces.settle(&mut hops).await;
            let piecewise = (pieces.everything().await, hops.totals());
            hops.full_refresh(crate::lake::Table::SilverReadings).await.expect("refreshes");
            let refreshed = (pieces.everything().await, hops.totals());
            assert_eq!(refreshed, piecewise, "a full refresh changes nothing");
            (at_once, piecewise)
        });
        prop_assert_eq!(at_once, piecewise);
    }
}

#[tokio::test]
async fn the_order_of_files_within_a_commit_does_not_matter() {
    let (one, other) = (Kit::new().await, Kit::new().await);
    let body = |v: f64| json!({"v": 1, "gw": "g", "epoch": EPOCH, "high": 1, "readings": [{"s": 1, "d": "d", "m": "m", "v": v, "t": NOW}]});
    one.store(&[event(1, "g", &body(1.0)), event(2, "g", &body(2.0))]).await;
    other.store(&[event(2, "g", &body(2.0)), event(1, "g", &body(1.0))]).await;
    for kit in [&one, &other] {
        let mut hops = kit.hops().await;
        kit.settle(&mut hops).await;
    }
    assert_eq!(one.everything().await, other.everything().await);
}
