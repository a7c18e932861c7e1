//! What the tests need that cargo does not bring: a broker, and Python with Delta readers that are not ours.

use std::path::{Path, PathBuf};

use super::part::{command, search_path};
use super::{VerifyError, say};

/// Names the Python that has the packages of `tests/e2e/readers.requirements.txt`.
pub(super) const PYTHON: &str = "READERS_PYTHON";

const REQUIREMENTS: &str = "tests/e2e/readers.requirements.txt";

/// Installs, as root on Debian, what is missing; otherwise names it.
pub(super) fn install_packages() -> Result<(), VerifyError> {
    let missing: Vec<&str> = [
        ("mosquitto", has_program("mosquitto")),
        ("mosquitto-clients", has_program("mosquitto_pub")),
        ("python3", has_program("python3")),
        ("python3-venv", has_program("python3") && has_venv()),
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

/// The Python of a virtual environment with the pinned readers, made at the first run and after each change of the pins.
pub(super) fn readers_python(workspace: &Path, cache: &Path) -> Result<PathBuf, VerifyError> {
    let requirements = workspace.join(REQUIREMENTS);
    let pins = std::fs::read_to_string(&requirements)
        .map_err(|source| VerifyError::Run { what: format!("a read of {}", requirements.display()), source })?;
    let folder = cache.join("readers");
    let python = folder.join("bin/python");
    // Written last: what an interrupted run left is made anew.
    let complete = folder.join("complete.txt");
    if std::fs::read_to_string(&complete).is_ok_and(|had| had == pins) && python.is_file() {
        return Ok(python);
    }
    say(&format!("verify: Python packages of {REQUIREMENTS} into {}", folder.display()));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|source| VerifyError::Write { path: folder.clone(), source })?;
    }
    let steps = [
        command("python3").args(["-m", "venv"]).args([&folder]),
        command(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r"])
            .args([&requirements]),
    ];
    for step in steps {
        if !step.stream(workspace, |_| ())? {
            return Err(VerifyError::Failed { what: step.line() });
        }
    }
    std::fs::write(&complete, pins).map_err(|source| VerifyError::Write { path: complete, source })?;
    Ok(python)
}

pub(super) fn has_program(name: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| folder.join(name).is_file())
}

fn has_venv() -> bool {
    command("python3").args(["-c", "import venv, ensurepip"]).ask(Path::new("/")).is_some()
}

fn is_root() -> bool {
    command("id").args(["-u"]).ask(Path::new("/")).is_some_and(|id| id.trim() == "0")
}
