//! What the service may use of memory, whatever it is fed.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::process::Command;
use std::time::Duration;

use shared::envelope::compress;
use tests::bench::deliver;
use tests::stack::Part;
use tests::wait;

use crate::peers::Peers;

/// The promise.
pub(crate) const RSS_MAX_KIB: u64 = 512 << 10;

/// Long enough to read, refuse and store it all on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// The most memory a process has had, in KiB.
pub(crate) fn most_resident(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}

/// Bytes of a body.
const BODY: usize = 200_000;

/// How many there are, of eight kinds; those of one of them are small.
const BODIES: usize = 1_152;

/// Something that is no message, or no good one: properties and body.
fn garbage(at: usize) -> (&'static str, Vec<u8>) {
    let long = |text: &str| text.bytes().cycle().take(BODY).collect::<Vec<u8>>();
    let envelope = |gateway: &str, close: &str| {
        let mut text =
            format!(r#"{{"v":1,"gw":"{gateway}","epoch":"00000000000000aa","high":9,"rules":"","readings":["#);
        for seq in 1.. {
            let reading = format!(r#"{{"s":{seq},"d":"d","m":"m","v":1.5,"t":1795428000000000}}"#);
            if BODY < text.len() + reading.len() + 3 {
                break;
            }
            text += if seq == 1 { "" } else { "," };
            text += &reading;
        }
        (text + close).into_bytes()
    };
    match at % 8 {
        // No text at all.
        0 => ("", (0..BODY as u64).map(|byte| byte.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()),
        // One message after the other.
        1 => ("", long(r#"{"device":"press-3","temperature":21.5} "#)),
        2 => ("", long("[")),
        3 => ("", long(r#"{"a":"#)),
        // Cut off in its last reading.
        4 => ("", envelope("device-0001", "")),
        // Of somebody else.
        5 => ("", envelope("gw-99", "]}")),
        // Small, and large once it is unpacked.
        6 => ("enc=zstd&%24.ct=application%2Fzstd", compress(&vec![0; 64 << 20])),
        // Says that it is packed.
        _ => ("enc=zstd&%24.ct=application%2Fzstd", long("no frame ")),
    }
}

#[test]
fn a_backlog_of_200_mb_of_garbage_is_taken_in_with_bounded_memory_and_each_is_refused_with_its_bytes() {
    let mut peers = Peers::new("poison", "");
    peers.scenario.start(Part::Hub);
    let hub = peers.scenario.stack.layout.ports.hub_mqtt.to_string();
    let file = peers.scenario.stack.layout.dir().join("garbage");
    let kinds: Vec<_> = (0..8).map(garbage).collect();
    let mut out = BufWriter::new(File::create(&file).expect("a file"));
    for at in 0..BODIES {
        let (properties, body) = &kinds[at % kinds.len()];
        deliver::write(&mut out, &format!("device-{:04}", at % 10 + 1), properties, body).expect("written");
    }
    out.flush().expect("written");
    let sent = Command::new(env!("CARGO_BIN_EXE_tests"))
        .args(["bench", "deliver", "--credentials", &peers.devices, "--addr", &hub])
        .arg("--file")
        .arg(&file)
        .output()
        .expect("the delivery starts");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    peers.start_second();
    let caught_up = wait::until(PATIENCE, || {
        let status = tests::probe::status(peers.http(1))?;
        (BODIES as i64 <= peers.bronze() && status["caught_up"] == true).then_some(())
    });
    let most = most_resident(peers.second_id()).expect("it runs");
    eprintln!("at most {} MiB resident", most >> 10);
    assert!(caught_up.is_some(), "{}", peers.books());
    assert!(most < RSS_MAX_KIB, "{} MiB\n{}", most >> 10, peers.books());
    let scenario = &peers.scenario;
    assert_eq!(scenario.count("SELECT count(*) AS n FROM silver.readings"), Some(0));
    // As it came: what cannot be unpacked is kept packed.
    // Digests are joined and not bodies: all of them at once are more than a query may take of memory.
    let sql = "SELECT count(*) AS n FROM \
               (SELECT partition_id, sequence_number, sha256(raw) AS digest FROM silver.quarantine \
                WHERE 0 < raw_len AND 1 <= array_length(reasons) AND message_index = 0) q \
               JOIN (SELECT partition_id, sequence_number, sha256(body) AS digest FROM bronze.messages) b \
               ON q.partition_id = b.partition_id AND q.sequence_number = b.sequence_number \
               WHERE q.digest = b.digest";
    assert_eq!(scenario.count(sql), Some(BODIES as i64), "{:?}", scenario.rows(BY_REASON));
    assert_eq!(scenario.count("SELECT count(*) AS n FROM silver.quarantine"), Some(BODIES as i64));
}

/// What was refused, and why.
const BY_REASON: &str =
    "SELECT reasons[1] AS reason, count(*) AS n, min(raw_len) AS least FROM silver.quarantine GROUP BY 1";
