//! What the tests need that cargo does not bring: a broker, Python with Delta readers that are not ours (Spark among
//! them, with Java and Delta's jars), Microsoft's SDKs for Python and Node, Eclipse Tahu's Sparkplug client, Azurite, and
//! a browser.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::part::{Call, command, search_path};
use super::{VerifyError, say};

/// What was installed, as the variables by which the tests find it.
pub(super) type Installed = Vec<(&'static str, PathBuf)>;

/// Virtual environments: the variable that names their Python, their folder, their pins.
const PYTHONS: [(&str, &str, &str); 2] = [
    ("READERS_PYTHON", "readers", "tests/e2e/readers.requirements.txt"),
    ("SDK_PYTHON", "sdk-python", "tests/sdk/python/requirements.txt"),
];

/// Folders with Node's `node_modules`: the variable that names each, its name in the cache, its pins.
const NODES: [(&str, &str, &str); 3] = [
    ("SDK_NODE", "sdk-node", "tests/sdk/node"),
    ("SPARKPLUG_NODE", "sdk-sparkplug", "tests/sdk/sparkplug"),
    ("AZURITE", "azurite", "tests/azurite"),
];

/// The variable that names the folder with Delta's jars for Spark, and where their pins are.
const JARS: &str = "DELTA_JARS";
const JAR_PINS: &str = "tests/e2e/readers.pom.xml";
/// Of Maven's plugin the version too, or Debian's Maven takes one of 2014.
const COPY_JARS: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// Installs, as root on Debian, what is missing; otherwise names it. `all`: also what the long runs need.
pub(super) fn install_packages(all: bool) -> Result<(), VerifyError> {
    let missing: Vec<&str> = [
        ("mosquitto", has_program("mosquitto")),
        ("mosquitto-clients", has_program("mosquitto_pub")),
        ("python3", has_program("python3")),
        ("chromium", has_program("chromium")),
        ("python3-venv", has_program("python3") && has_venv()),
        ("nodejs", has_program("node")),
        ("npm", has_program("npm")),
        // Debian's default is 17 or 21: Spark 4.2 runs on both.
        ("default-jre-headless", has_program("java")),
        ("maven", has_program("mvn")),
        ("pkg-config", has_program("pkg-config")),
        ("libssl-dev", has_openssl()),
        ("systemd", has_program("systemd-analyze")),
        ("qemu-system-arm", !all || has_program("qemu-system-aarch64")),
        ("mtools", !all || has_program("mcopy")),
        ("fdisk", !all || has_program("sfdisk")),
        ("jq", !all || has_program("jq")),
        ("curl", !all || has_program("curl")),
    ]
    .into_iter()
    .filter_map(|(package, there)| (!there).then_some(package))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !(is_root() && has_program("apt-get")) {
        return Err(VerifyError::Missing(format!("{} (Debian's names)", missing.join(", "))));
    }
    say(&format!("verify: installing {}", missing.join(", ")));
    let here = Path::new("/");
    let apt = || command("apt-get").env("DEBIAN_FRONTEND", "noninteractive".as_ref());
    apt().args(["-q", "update"]).stream(here, |_| ())?;
    let install = apt().args(["-q", "install", "-y", "--no-install-recommends"]).args(missing.iter());
    match install.stream(here, |_| ())? {
        true => Ok(()),
        false => Err(VerifyError::Missing(format!("{}: `{}` failed", missing.join(", "), install.line()))),
    }
}

/// Python's and Node's packages, made at the first run and after each change of their pins.
pub(super) fn install_libraries(workspace: &Path, cache: &Path) -> Result<Installed, VerifyError> {
    let mut installed = vec![];
    for (variable, folder, pins) in PYTHONS {
        installed.push((variable, python(workspace, &cache.join(folder), pins)?));
    }
    for (variable, folder, pins) in NODES {
        let node = cache.join(folder);
        node_modules(workspace, &node, pins)?;
        installed.push((variable, node));
    }
    let delta = cache.join("delta-jars");
    jars(workspace, &delta)?;
    installed.push((JARS, delta));
    Ok(installed)
}

fn python(workspace: &Path, folder: &Path, pins: &str) -> Result<PathBuf, VerifyError> {
    let requirements = workspace.join(pins);
    let python = folder.join("bin/python");
    unless_complete(folder, &[&requirements], &python, || {
        say(&format!("verify: Python packages of {pins} into {}", folder.display()));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r"];
        let make = command("python3").args(["-m", "venv"]).args([folder]);
        run_all(workspace, [make, command(&python).args(pip).args([&requirements])])
    })?;
    Ok(python)
}

fn node_modules(workspace: &Path, folder: &Path, pinned: &str) -> Result<(), VerifyError> {
    let pins = ["package.json", "package-lock.json"].map(|file| workspace.join(pinned).join(file));
    let modules = folder.join("node_modules");
    unless_complete(folder, &[&pins[0], &pins[1]], &modules, || {
        say(&format!("verify: Node packages of {pinned} into {}", folder.display()));
        let copy = |from: &PathBuf| command("cp").args([from.as_path(), folder]);
        let clean = ["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
        let make = command("mkdir").args(["-p".as_ref(), folder.as_os_str()]);
        run_all(workspace, [make, copy(&pins[0]), copy(&pins[1]), command("npm").args(clean).args([folder])])
    })
}

fn jars(workspace: &Path, folder: &Path) -> Result<(), VerifyError> {
    let pins = workspace.join(JAR_PINS);
    unless_complete(folder, &[&pins], folder, || {
        say(&format!("verify: jars of {JAR_PINS} into {}", folder.display()));
        let mut into = OsString::from("-DoutputDirectory=");
        into.push(folder);
        let copy = command("mvn").args(["-q", "-B", "-f", JAR_PINS, COPY_JARS, "-DexcludeTransitive=true"]);
        run_all(workspace, [copy.args([into])])
    })
}

/// Makes what is in `folder` anew, unless it was made whole from the same pins.
fn unless_complete(
    folder: &Path,
    pins: &[&Path],
    made: &Path,
    make: impl FnOnce() -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let mut wanted = String::new();
    for pin in pins {
        let read = std::fs::read_to_string(pin);
        wanted += &read.map_err(|source| VerifyError::Run { what: format!("a read of {}", pin.display()), source })?;
    }
    // Written last: what an interrupted run left is made anew.
    let complete = folder.join("complete.txt");
    if std::fs::read_to_string(&complete).is_ok_and(|had| had == wanted) && made.exists() {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|source| VerifyError::Write { path: folder.to_owned(), source })?;
    }
    make()?;
    std::fs::write(&complete, wanted).map_err(|source| VerifyError::Write { path: complete, source })
}

fn run_all(workspace: &Path, steps: impl IntoIterator<Item = Call>) -> Result<(), VerifyError> {
    for step in steps {
        if !step.stream(workspace, |_| ())? {
            return Err(VerifyError::Failed { what: step.line() });
        }
    }
    Ok(())
}

pub(super) fn has_program(name: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| folder.join(name).is_file())
}

fn has_venv() -> bool {
    command("python3").args(["-c", "import venv, ensurepip"]).ask(Path::new("/")).is_some()
}

/// What the feature `azure-iot-sdk` is built with.
fn has_openssl() -> bool {
    command("pkg-config").args(["--exists", "openssl"]).ask(Path::new("/")).is_some()
}

fn is_root() -> bool {
    command("id").args(["-u"]).ask(Path::new("/")).is_some_and(|id| id.trim() == "0")
}
