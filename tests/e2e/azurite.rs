//! Azure's own emulator of its object store: a lake that lies in one, for tests.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::wait;

/// The variable by which `cargo verify` says where it is.
const AZURITE: &str = "AZURITE";

/// The emulator's one account, as its documentation names it.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes the container; no SDK is needed for one signed request.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
base, account, key = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
headers = f"x-ms-date:{date}\nx-ms-version:2020-08-04\n"
text = "PUT\n\n\n\n\n\n\n\n\n\n\n\n" + headers + f"/{account}/{account}/lake\nrestype:container"
sign = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
request = urllib.request.Request(f"{base}/lake?restype=container", method="PUT", headers={
    "x-ms-date": date, "x-ms-version": "2020-08-04", "Authorization": f"SharedKey {account}:{sign}"})
print(urllib.request.urlopen(request).status)
"#;

/// A running emulator with one container, `lake`. Ended when dropped.
pub(crate) struct Azurite {
    child: Child,
    data: PathBuf,
    addr: SocketAddr,
}

impl Azurite {
    /// Starts one that keeps its data in `data`.
    pub(crate) fn start(data: &Path) -> Self {
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a free port");
        let azurite = Self { child: launch(data, addr), data: data.to_owned(), addr };
        azurite.wait();
        let base = azurite.endpoint();
        let made = Command::new("python3").args(["-c", MAKE_CONTAINER, &base, ACCOUNT, KEY]).output().expect("python3");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        azurite
    }

    /// Ends it; its data stay. It is asked to: killed, it forgets what it took in the last seconds, as no store does.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        let ended = wait::until(Duration::from_secs(30), || self.child.try_wait().expect("its status"));
        assert!(ended.is_some(), "Azurite does not end");
    }

    /// Lets it hear and say nothing: connections are taken and hang, until it goes on.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let order = format!("kill -{signal} {}", self.child.id());
        let told = Command::new("sh").args(["-c", &order]).status();
        assert!(told.is_ok_and(|status| status.success()), "Azurite cannot be told {signal}");
    }

    /// Starts it again on its data.
    pub(crate) fn start_again(&mut self) {
        self.child = launch(&self.data, self.addr);
        self.wait();
    }

    fn wait(&self) {
        let up = wait::until(Duration::from_secs(60), || TcpStream::connect(self.addr).ok());
        assert!(up.is_some(), "Azurite does not listen at {}", self.addr);
    }

    fn endpoint(&self) -> String {
        format!("http://{}/{ACCOUNT}", self.addr)
    }

    /// The lake in it.
    pub(crate) fn lake(&self) -> &'static str {
        "az://lake/medallion"
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What `lake.options` and `verify.storage` have to say, as the inside of a TOML table. Said to be the emulator and not
    /// by its address: it lacks the listing that the storage's driver asks of any other (`startFrom`), and answers it wrongly.
    pub(crate) fn options(&self) -> &'static str {
        "azure_storage_use_emulator = \"true\"\n"
    }

    /// A demo config for a lake in it.
    pub(crate) fn config(&self) -> String {
        let (lake, options) = (self.lake(), self.options());
        format!("[ingest.lake]\nurl = \"{lake}\"\n[ingest.lake.options]\n{options}[sim.verify.storage]\n{options}")
    }

    /// The variable of their environment by which programs find it.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        ("AZURITE_BLOB_STORAGE_URL", format!("http://{}", self.addr))
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(data: &Path, addr: SocketAddr) -> Child {
    let folder = std::env::var_os(AZURITE)
        .unwrap_or_else(|| panic!("{AZURITE} is not set; `cargo verify` installs the pinned emulator and sets it"));
    // node itself, not its launcher: the child is the server, and ends when it is killed.
    let script = PathBuf::from(folder).join("node_modules/azurite/dist/src/blob/main.js");
    let port = addr.port().to_string();
    let log = std::fs::File::create(data.with_extension("log")).expect("a log");
    Command::new("node")
        .arg(script)
        .args([
            "--disableTelemetry",
            "--skipApiVersionCheck",
            "--silent",
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &port,
        ])
        .arg("--location")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("node starts")
}
