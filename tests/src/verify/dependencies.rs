//! The dependency check: licences, bans and sources always; advisories where a database can be had.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::part::{Call, Outcome, cargo, command};
use super::tally::Tally;
use super::{VerifyError, say};

/// cargo-deny, as the first run installs it: a debug build, since it runs for seconds and an optimised one takes
/// minutes more to make.
const CARGO_DENY: &str = "0.20.2";

const RULES: &str = ".deny.toml";

const UPSTREAM: &str = "https://github.com/RustSec/advisory-db";

pub(super) fn check(workspace: &Path, cache: &Path) -> Result<Outcome, VerifyError> {
    let begun = Instant::now();
    let program = install(workspace, cache)?;
    let rules = workspace.join(RULES);
    let mut remarks = Vec::new();
    let mut fine = deny(&program, &rules, &["bans", "licenses", "sources"]).stream_told(workspace)?;
    match advisories(&program, workspace, cache)? {
        Some(call) => fine &= call.stream_told(workspace)?,
        None => remarks.push(
            "SECURITY ADVISORIES: no database within reach; give a copy of RustSec's advisory-db as ADVISORY_DB=FOLDER"
                .to_owned(),
        ),
    }
    let tally = Tally::default();
    Ok(Outcome { name: "dependencies", took: begun.elapsed(), fine, counts: true, tally, remarks })
}

fn deny(program: &Path, rules: &Path, checks: &[&str]) -> Call {
    command(program)
        .args(["--workspace", "--all-features", "--locked", "--log-level", "warn", "--config"])
        .args([rules])
        .args(["check", "--hide-inclusion-graph"])
        .args(checks)
}

fn install(workspace: &Path, cache: &Path) -> Result<PathBuf, VerifyError> {
    let root = cache.join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    let call = cargo(&["install", "--quiet", "--locked", "--debug", "--version", CARGO_DENY, "cargo-deny", "--root"])
        .args([&root])
        .env("CARGO_TARGET_DIR", cache.join("cargo-deny-build").as_os_str());
    say(&format!("\nverify: dependencies: building cargo-deny {CARGO_DENY} once (some minutes): {}", call.line()));
    match call.stream(workspace, |_| ())? {
        true => Ok(program),
        false => Err(VerifyError::Failed { what: call.line() }),
    }
}

/// The check of advisories, with the given database or the public one; none where neither is within reach.
fn advisories(program: &Path, workspace: &Path, cache: &Path) -> Result<Option<Call>, VerifyError> {
    let given = std::env::var_os("ADVISORY_DB");
    if given.is_none() && !within_reach(UPSTREAM) {
        return Ok(None);
    }
    let from = workspace.join(RULES);
    let rules = std::fs::read_to_string(&from)
        .map_err(|source| VerifyError::Run { what: format!("a read of {}", from.display()), source })?;
    let databases = cache.join("advisories").join(if given.is_some() { "given" } else { "fetched" });
    make_folder(&databases)?;
    let own = format!("[advisories]\ndb-path = {:?}", databases.display().to_string());
    let path = databases.join("deny.toml");
    std::fs::write(&path, rules.replacen("[advisories]", &own, 1))
        .map_err(|source| VerifyError::Write { path: path.clone(), source })?;
    let call = deny(program, &path, &["advisories"]);
    let Some(given) = given else { return Ok(Some(call)) };
    // cargo-deny takes no path, but fetches with git, which can be told where to look.
    let copy = as_repository(Path::new(&given), &databases.join("copy"))?;
    let call = call
        .env("GIT_CONFIG_COUNT", "1".as_ref())
        .env("GIT_CONFIG_KEY_0", format!("url.file://{}.insteadOf", copy.display()).as_ref())
        .env("GIT_CONFIG_VALUE_0", UPSTREAM.as_ref());
    Ok(Some(call))
}

/// cargo-deny only takes a repository with a branch `main`; what is given may be an unpacked archive.
fn as_repository(given: &Path, copy: &Path) -> Result<PathBuf, VerifyError> {
    if !given.join("crates").is_dir() {
        return Err(VerifyError::Missing(format!("ADVISORY_DB: {} has no folder `crates`", given.display())));
    }
    if copy.exists() {
        std::fs::remove_dir_all(copy).map_err(|source| VerifyError::Write { path: copy.into(), source })?;
    }
    make_folder(copy)?;
    let git =
        |args: &[&str]| command("git").args(["-c", "user.name=verify", "-c", "user.email=verify@localhost"]).args(args);
    let steps: [Call; 4] = [
        command("cp").args(["-R"]).args([given.join("crates"), copy.join("crates")]),
        git(&["init", "--quiet", "--initial-branch=main"]),
        git(&["add", "--all"]),
        git(&["commit", "--quiet", "--message", "advisories"]),
    ];
    for step in steps {
        if !step.stream(copy, |_| ())? {
            return Err(VerifyError::Failed { what: step.line() });
        }
    }
    Ok(copy.to_owned())
}

fn make_folder(path: &Path) -> Result<(), VerifyError> {
    std::fs::create_dir_all(path).map_err(|source| VerifyError::Write { path: path.into(), source })
}

fn within_reach(url: &str) -> bool {
    let call = command("timeout").args(["20", "git", "ls-remote", "--exit-code", url, "main"]);
    call.env("GIT_TERMINAL_PROMPT", "0".as_ref()).ask(Path::new("/")).is_some()
}
