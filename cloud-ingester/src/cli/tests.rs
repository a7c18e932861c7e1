use serde_json::json;
use shared::blame::Blame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::lake::Holder;

struct Kit {
    config: Config,
    lake: Lake,
    _directory: tempfile::TempDir,
}

impl Kit {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("ingest.toml");
        let text = format!("[lake]\nurl = \"{}\"\n", directory.path().join("lake").display());
        std::fs::write(&file, text).expect("written");
        let config = config::load(Needs::Lake, Some(&file)).expect("a config");
        let location = config.location().expect("a path");
        location.prepare().expect("a local disk");
        let lake = Lake::open(location).expect("a lake");
        lake.create_tables().await.expect("tables");
        Self { config, lake, _directory: directory }
    }

    /// Something holds the lease, and answers every request so.
    async fn held(&self, code: &'static str, body: String) -> Lease {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let http = listener.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4_096]).await;
                let head = format!("HTTP/1.1 {code}\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        Lease::acquire(&self.lake, &Holder::this("cloud-ingester run", Some(http))).await.expect("free")
    }

    async fn streams(&self) -> (Vec<Option<i64>>, bool) {
        let mut status = status::read(&self.lake, status::Hub::NotAsked).await.expect("a status");
        hear(&self.lake, &mut status).await.expect("a lease that can be read");
        (status.streams.iter().map(|stream| stream.lag).collect(), status.caught_up)
    }
}

#[tokio::test]
async fn a_table_no_hop_fills_is_a_mistake_of_usage_with_and_without_a_running_service() {
    let kit = Kit::new().await;
    for name in ["nope", "bronze.messages"] {
        let refused = async || {
            let hop = Command::Hop { full_refresh: Some(name.to_owned()), only: vec![] };
            Box::pin(command(hop, kit.config.clone())).await.map(|_| ()).map_err(|error| error.blame())
        };
        assert_eq!(refused().await, Err(Blame::Config), "{name}");
        let _lease = kit.held("409 Conflict", "refused\n".to_owned()).await;
        assert_eq!(refused().await, Err(Blame::Config), "{name}, held");
    }
}

#[tokio::test]
async fn beside_a_running_service_the_hub_is_as_that_one_hears_it() {
    let kit = Kit::new().await;
    assert_eq!(kit.streams().await, (vec![], false));
    let stream = json!({"hub": "h", "incarnation": 7, "partition": 0, "last_enqueued": 9, "committed": 4, "lag": 5});
    let root = kit.lake.location().root().to_string();
    for (lake, streams, caught_up) in [(&*root, vec![Some(5)], true), ("file:///another/", vec![], false)] {
        let told = json!({"lake": lake, "streams": [stream], "caught_up": true, "tables": []});
        let _lease = kit.held("200 OK", told.to_string()).await;
        assert_eq!(kit.streams().await, (streams, caught_up), "{lake}");
    }
    let _lease = kit.held("200 OK", "not JSON".to_owned()).await;
    assert_eq!(kit.streams().await, (vec![], false));
}

#[tokio::test]
async fn a_replay_beside_a_service_that_does_not_answer_names_it_and_may_be_tried_again() {
    let kit = Kit::new().await;
    let _lease = Lease::acquire(&kit.lake, &Holder::this("cloud-ingester run", None)).await.expect("free");
    let args = Args::try_parse_from(["cloud-ingester", "quarantine", "replay", "g/e/1", "--set", "value=1", "--apply"]);
    let refused = Box::pin(command(args.expect("arguments").command, kit.config.clone())).await;
    let error = refused.map(|_| ()).expect_err("held");
    assert_eq!(error.blame(), Blame::Peer);
    assert!(error.to_string().contains("cloud-ingester run"), "{error}");
}

#[tokio::test]
async fn mistakes_in_a_replay_are_mistakes_of_usage() {
    let kit = Kit::new().await;
    for (args, said) in [
        (&["--set", "value"][..], "NAME=VALUE"),
        (&["--set", "colour=red"], "one of value"),
        (&["--set", "time=now"], "RFC 3339"),
        (&["--since", "yesterday"], "--since"),
        (&["--factor", "0.1", "--apply"], "repair of everything"),
    ] {
        let whole = ["cloud-ingester", "quarantine", "replay"].iter().chain(args);
        let command_line = Args::try_parse_from(whole).expect("arguments");
        let refused = Box::pin(command(command_line.command, kit.config.clone())).await;
        let error = refused.map(|_| ()).expect_err("a mistake");
        assert_eq!(error.blame(), Blame::Config, "{args:?}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// What bronze holds of each partition: rows, distinct numbers, first, last.
async fn bronze(kit: &Kit) -> String {
    let sql = "select partition_id as p, count(*) as n, count(distinct sequence_number) as d, min(sequence_number) as lo, \
               max(sequence_number) as hi from bronze.messages group by 1 order by 1";
    let session = lake_session_at(&kit.lake, kit.config.limits(), &Travel::default()).await.expect("a session");
    let batches = query(&session, sql).await.expect(sql);
    let mut out = vec![];
    for batch in batches {
        arrow::csv::WriterBuilder::new().with_header(false).build(&mut out).write(&batch).expect("numbers");
    }
    String::from_utf8(out).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_fill_in_what_bronze_lacks_and_the_stream_goes_on_after_them() {
    let kit = Kit::new().await;
    let file = kit._directory.path().join("events.jsonl");
    let fill = async |numbers: &[i64], over_gaps: bool| {
        let lines: Vec<String> =
            numbers.iter().map(|number| format!("{{\"body\":{{}},\"sequence_number\":{number}}}")).collect();
        std::fs::write(&file, lines.join("\n")).expect("a file");
        let what = backfill::Backfill::Files {
            files: vec![file.clone()],
            hub: Some("h".to_owned()),
            incarnation: 7,
            partition: Some(0),
            over_gaps,
        };
        Box::pin(command(Command::Backfill { what }, kit.config.clone())).await.expect("filled")
    };
    let at = async || kit.lake.txn(crate::lake::Table::BronzeMessages, "bronze/h/7/0").await.expect("a table");
    assert_eq!(fill(&[5, 6, 7], false).await, Exit::Ok);
    assert_eq!((bronze(&kit).await.as_str(), at().await), ("0,3,3,5,7\n", Some(7)));
    // Again, with what was before, and what comes next.
    assert_eq!(fill(&[3, 5, 6, 7, 8], false).await, Exit::Ok);
    assert_eq!((bronze(&kit).await.as_str(), at().await), ("0,5,5,3,8\n", Some(8)));
    // What is missing between is not passed over, unless that is asked for.
    assert_eq!(fill(&[11, 9], false).await, Exit::No);
    assert_eq!((bronze(&kit).await.as_str(), at().await), ("0,6,6,3,9\n", Some(9)));
    assert_eq!(fill(&[12, 13], true).await, Exit::Ok);
    assert_eq!((bronze(&kit).await.as_str(), at().await), ("0,9,9,3,13\n", Some(13)));
    // And the lake as it was.
    for (versions, expected) in [(vec!["bronze.messages=1".to_owned()], "3"), (vec![], "9")] {
        let travel = travel(&kit.lake, None, &versions).expect("a version");
        let session = lake_session_at(&kit.lake, kit.config.limits(), &travel).await.expect("a session");
        let found =
            query(&session, "select cast(count(*) as string) as n from bronze.messages").await.expect("a count");
        let shown = arrow::util::pretty::pretty_format_batches(&found).expect("printable").to_string();
        assert!(shown.contains(&format!("| {expected} ")), "{shown}");
    }
    let before = Some("2001-01-01T00:00:00Z".to_owned());
    let session =
        lake_session_at(&kit.lake, kit.config.limits(), &travel(&kit.lake, before, &[]).expect("a time")).await;
    assert!(query(&session.expect("a session"), "select 1 from bronze.messages").await.is_err(), "it was not there");
    for wrong in ["bronze.messages", "nope=1", "silver.readings=x"] {
        assert_eq!(travel(&kit.lake, None, &[wrong.to_owned()]).expect_err(wrong).blame(), Blame::Config);
    }
}
