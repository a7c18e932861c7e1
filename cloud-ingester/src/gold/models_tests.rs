use super::*;
use crate::gold::model::{Mode, Pass, Refresh, Windows};

#[tokio::test]
async fn every_embedded_model_is_read_and_fits_its_table() {
    let models = embedded().await.expect("all");
    let targets: Vec<_> = models.iter().map(|model| model.target.full_name()).collect();
    assert_eq!(
        targets,
        ["gold.metric_1m", "gold.device_latest", "gold.metric_1h", "gold.metric_1d", "gold.device_health"]
    );
    // The SELECT decides which columns of silver are read.
    let needed = ["device_id", "event_time", "gateway_id", "metric", "source_seq", "unit", "value"];
    assert_eq!(models[0].columns, needed);
    assert!(models[4].catalogue && !models[0].catalogue);
    assert!(matches!(models[3].draft.refresh, Refresh::Every { at_final: true, .. }));
    assert!(matches!(models[0].draft.mode, Mode::Window(Windows::Grid(grid)) if grid.is_plain()));
}

#[tokio::test]
async fn what_is_held_of_the_rows_follows_from_the_select() {
    let models = embedded().await.expect("all");
    assert_eq!(models[0].pass, Pass::Folds);
    for (from, to, expected) in [
        ("windowed\n", "windowed\n", Pass::Folds),
        ("windowed\n", "(select COLUMNS from windowed where value < 9) as w\n", Pass::Folds),
        (
            "windowed\n",
            "(select COLUMNS, row_number() over (order by value nulls last) as n from windowed) as w where n < 9\n",
            Pass::Once,
        ),
        ("windowed\n", "windowed where value < (select avg(w.value) as mean from windowed w)\n", Pass::Again),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let text = GOOD.replacen(&format!("from {from}"), &format!("from {to}"), 1);
        let text = text.replace("COLUMNS", "device_id, metric, window_start, window_end, value");
        std::fs::write(folder.path().join("m.sql"), text).expect("a file");
        let own = own(folder.path()).await.expect("a session");
        assert_eq!(own.mistakes, []);
        assert_eq!(own.models[0].pass, expected, "{to}");
    }
}

const GOOD: &str = "-- Highest value of each quarter of an hour.
--
-- target = \"gold.peaks\"
-- mode = \"window\"
-- keys = [\"device_id\", \"metric\"]
-- [window]
-- kind = \"tumbling\"
-- size = \"15m\"
select
  device_id,
  metric,
  window_start,
  window_end,
  max(value) as peak
from windowed
group by device_id, metric, window_start, window_end
";

/// What is wrong with a model, one line each, without the path.
async fn mistakes(text: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("m.sql"), text).expect("a file");
    let own = own(folder.path()).await.expect("a session");
    let lines = own.mistakes.iter().map(|mistake| mistake.to_string());
    lines
        .map(|line| line.rsplit_once("m.sql").map(|(_, rest)| rest.to_owned()).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_model_that_fits_defines_its_table() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("m.sql"), GOOD).expect("a file");
    let (header, select) = GOOD.split_at(GOOD.find("select").expect("a select"));
    let header: String = header.lines().skip(2).flat_map(|line| [&line[3..], "\n"]).collect();
    std::fs::write(folder.path().join("n.sql"), select).expect("a file");
    std::fs::write(folder.path().join("n.toml"), header.replace("peaks", "tops")).expect("a file");
    let own = own(folder.path()).await.expect("a session");
    assert_eq!(own.mistakes, []);
    assert_eq!(own.tables().iter().map(|table| table.full_name()).collect::<Vec<_>>(), ["gold.peaks", "gold.tops"]);
    let table = own.tables()[0];
    let columns: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(columns, ["device_id", "metric", "window_start", "window_end", "peak", "window_date"]);
    assert_eq!(table.partition_columns(), ["window_date"]);
    assert_eq!(table.stats_columns(), "device_id,metric,window_start,window_end");
}

#[tokio::test]
async fn what_is_wrong_with_a_model_is_told_with_its_line() {
    for (from, to, expected) in [
        ("gold.peaks", "gold.Peaks", ":3: target \"gold.Peaks\": write"),
        ("gold.peaks", "gold.metric_1m", ":1: target gold.metric_1m: is a table of the product"),
        ("\"window\"", "\"windows\"", ":4: mode \"windows\": write"),
        ("keys =", "key =", ":5: header: unknown field `key`"),
        ("\"metric\"]", "\"colour\"]", ":1: keys: colour is no column of windowed"),
        ("tumbling", "hopping", ":7: header: unknown variant `hopping`"),
        ("15m", "7m", ":6: window: a day has to be"),
        ("size =", "slide = \"1m\"\n-- size =", ":6: window: tumbling windows have a `size`, no `slide`"),
        ("-- size", "-- timezone = \"Europe/Paris2\"\n-- size", ":6: window: timezone \"Europe/Paris2\" is not known"),
        ("-- [window]", "-- refresh = \"sometimes\"\n-- [window]", ":6: refresh: write"),
        ("max(value)", "first(value)", ":14: first: takes any row"),
        ("max(value)", "mode(value)", ":14: mode: not among the functions"),
        ("max(value)", "max(valu)", ":14: "),
        ("max(value) as", "max(value) over (order by value) as", ":14: order by value: write `nulls first`"),
        (
            "max(value)",
            "max_by(value, struct(event_time, source_seq))",
            ":14: max_by by source_seq: write coalesce(source_seq, …)",
        ),
        ("max(value)", "max_by(value, event_time) over (partition by metric)", ":14: max_by: write row_number() over"),
        ("max(value)", "max(struct(value, event_time))", ":14: "),
        ("max(value)", "max(named_struct('a', value))", ":14: named_struct: not among"),
        ("max(value)", "min(timestamp '2026-01-01 00:00:00')", ":14: "),
        ("max(value)", "min(cast(value as timestamp))", ":14: a cast to timestamp makes a time without a zone"),
        ("max(value)", "max(cast(event_time as bigint))", ":14: "),
        ("max(value)", "max(source_seq / 2)", ":14: "),
        ("max(value)", "max(now())", ":14: now: a table must not depend on when"),
        ("max(value) as peak", "max(value)", ":9: column \"max(windowed.value)\": give it a name"),
        ("max(value)", "null", ":9: column peak: is always null"),
        ("  window_end,\n", "", ":9: column window_end: missing"),
        ("from windowed", "from silver.readings", ":15: silver.readings: a model reads windowed and nothing else"),
        ("  metric,\n", "", ":9: column metric: missing; it is one of the keys"),
        ("from windowed", "from windowed where", ":16: "),
        ("group by", "group by all --", ":9: group by all"),
        ("max(value) as peak", "max(value) as peak, *", ":14: *: name the columns"),
        ("metric, window_start, window_end\n", "metric, window_start, window_end limit 3\n", ": limit: takes any rows"),
    ] {
        let found = mistakes(&GOOD.replacen(from, to, 1)).await;
        assert!(found.contains(expected), "{from} -> {to}: {found}");
    }
    let own = GOOD.replace("select", "delete from x; select");
    assert_ne!(mistakes(&own).await, "");
}

#[tokio::test]
async fn an_append_sees_one_row_at_a_time() {
    let good = "-- target = \"gold.hot\"\n-- mode = \"append\"\nselect device_id, value, event_time from readings where 30 < value";
    assert_eq!(mistakes(good).await, "");
    for (from, to, expected) in [
        ("value,", "max(value) as value,", ":3: max: mode \"append\" sees one row at a time"),
        ("select", "select distinct", ":3: group by, distinct: mode \"append\""),
        ("value,", "row_number() over (order by event_time) as value,", ":3: row_number: mode \"append\""),
        ("from readings where", "from readings a join readings b on a.device_id = b.device_id where", ":3: "),
    ] {
        let found = mistakes(&good.replacen(from, to, 1)).await;
        assert!(found.contains(expected), "{from} -> {to}: {found}");
    }
}

#[tokio::test]
async fn a_model_with_a_mistake_stops_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("a.sql", "nonsense".to_owned()),
        ("b.sql", GOOD.to_owned()),
        ("c.sql", GOOD.to_owned()),
        ("d.txt", "no model".to_owned()),
    ] {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let found = own(folder.path()).await.expect("a session");
    assert_eq!(found.models.len(), 1);
    let said: Vec<String> = found.mistakes.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("a.sql:1: header: missing field `target`"), "{said:?}");
    assert!(said[1].contains("c.sql:1: target gold.peaks: ") && said[1].contains("b.sql fills it"), "{said:?}");
    let none = own(&folder.path().join("none")).await.expect("a session");
    assert!(none.mistakes[0].what.contains("can't be read"), "{none:?}");
}
