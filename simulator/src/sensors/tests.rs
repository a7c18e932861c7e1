//! The sockets and the folder, as a gateway meets them.

use std::io;
use std::path::Path;

use shared::config::{Layers, Mistakes};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::serve;

const LAYERS: Layers = Layers { default: include_str!("../default.toml"), env_prefix: "SIM" };

fn config(dir: &Path) -> Config {
    let text = format!("[sensors]\ndir = {dir:?}\n");
    shared::config::load_from::<crate::config::Config>(&LAYERS, Some(("sim.toml", &text)), &[]).expect("fine").sensors
}

async fn connect(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn ask(stream: &mut UnixStream, said: &[u8], length: usize) -> io::Result<Vec<u8>> {
    stream.write_all(said).await?;
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn tell(dir: &Path, text: &str) -> String {
    let mut stream = BufReader::new(connect(&dir.join("control.sock")).await);
    stream.get_mut().write_all(format!("{text}\n").as_bytes()).await.expect("written");
    let mut answer = String::new();
    stream.read_line(&mut answer).await.expect("an answer");
    answer.trim_end().to_owned()
}

#[tokio::test]
async fn a_chip_answers_over_the_socket_and_what_is_told_happens_to_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve::run(config(dir.path()), stop.clone()));
    const ID: [u8; 9] = [0x76, 2, b'w', 0, 1, 0xD0, b'r', 0, 1];
    let mut bus = connect(&dir.path().join("i2c.sock")).await;
    assert_eq!(ask(&mut bus, &ID, 2).await.expect("answered"), [0, 0x60]);
    assert_eq!(tell(dir.path(), "pull 0x76").await, "ok done");
    assert_eq!(ask(&mut bus, &ID, 1).await.expect("answered"), [1]);
    assert!(tell(dir.path(), "eat 0x76").await.starts_with("no "));

    let wire = dir.path().join("w1/28-0316a2795fff");
    let shown = std::fs::read_to_string(wire.join("w1_slave")).expect("it is there");
    assert!(shown.ends_with("t=21500\n"), "{shown}");
    assert_eq!(tell(dir.path(), "pull 28-0316a2795fff").await, "ok done");
    assert!(!wire.exists());

    assert_eq!(tell(dir.path(), "pulse 17 258").await, "ok done");
    let mut lines = connect(&dir.path().join("gpio.sock")).await;
    assert_eq!(ask(&mut lines, &[b'e', 0, 0, 0, 17, b'r'], 5).await.expect("answered"), [0, 0, 0, 1, 2]);

    // Who talks gibberish is let go, and nobody else suffers.
    assert!(ask(&mut bus, &[0xFF; 64], 1).await.is_err());
    assert_eq!(ask(&mut lines, &[b'o', 0, 0, 0, 22, 1], 1).await.expect("answered"), [0]);

    let taken = serve::run(config(dir.path()), CancellationToken::new()).await;
    assert!(taken.is_err(), "two do not serve in one place");
    stop.cancel();
    served.await.expect("no panic").expect("a clean end");
}

#[test]
fn mistakes_in_devices_and_script_are_named() {
    let mut config = config(Path::new("sensors"));
    config.devices.push(config.devices[0].clone());
    config.script = vec![toml::from_str("tell = \"pull 0x20\"").expect("an event")];
    let mut mistakes = Mistakes::default();
    config.check(&mut mistakes);
    let paths: Vec<_> = mistakes.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["devices[6].at", "script[0].tell"]);
}

#[test]
fn what_a_gateway_is_told_names_every_device() {
    let said = config(Path::new("/tmp/sensors")).for_gateway();
    let told: toml::Table = said.parse().expect("TOML");
    assert_eq!(told["sensors"].as_array().map(Vec::len), Some(7), "{said}");
}
