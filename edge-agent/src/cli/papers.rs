//! `completion` and `man`: papers made of the command line itself, so that they cannot say what it does not.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use shared::cli::Exit;

use super::{Args, PROGRAM, refuse};

/// Where shells look.
pub(super) const COMPLETION: &str = "bash: edge-agent completion bash > /etc/bash_completion.d/edge-agent\n\
    zsh:  edge-agent completion zsh > /usr/local/share/zsh/site-functions/_edge-agent\n\
    fish: edge-agent completion fish > ~/.config/fish/completions/edge-agent.fish";

pub(super) fn completion(shell: Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), PROGRAM, &mut text);
    ended("write the completion", std::io::stdout().lock().write_all(&text))
}

/// What every page ends with: exit codes as `shared::cli::Exit` has them, and where the package puts things.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "EXIT STATUS",
        &[
            ("0", "It worked; the answer is yes."),
            ("1", "The answer is no: a check found something that must be mended."),
            ("64", "The arguments or the configuration cannot be used."),
            ("70", "A bug of this program."),
            ("75", "It may work another time: somebody else is away, or holds the outbox."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/edge-agent/edge.toml", "What the service is given as --config."),
            ("/usr/share/edge-agent/default.toml", "Every setting with its default, explained."),
            (
                "/var/lib/edge-agent/outbox.db",
                "The outbox, unless outbox.path says otherwise. What belongs to it lies beside it.",
            ),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            ("EDGE__SECTION__SETTING", "Overrides a setting of the file, as EDGE__OUTBOX__PATH does outbox.path."),
            ("NO_COLOR", "No colours, where it is not empty."),
        ],
    ),
];

pub(super) fn man(dir: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(dir).and_then(|()| pages(dir));
    ended(&format!("write man pages into {}", dir.display()), written)
}

/// A page of each command that is shown.
fn pages(dir: &Path) -> std::io::Result<()> {
    let mut all = Args::command().disable_help_subcommand(true);
    all.build();
    let mut commands = vec![all];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().filter(|command| !command.is_hide_set()).cloned());
        // No date: the same program makes the same pages.
        let man = Man::new(command).source(concat!("edge-agent ", env!("CARGO_PKG_VERSION"))).manual("IoT gateway");
        let mut page = Vec::new();
        man.render(&mut page)?;
        // roff writes what is empty as nothing, so that the version would stand where the date does.
        let mut page = String::from_utf8_lossy(&page).replacen(" 1  \"", " 1 \"\" \"", 1).into_bytes();
        let mut more = Roff::new();
        for (name, entries) in SECTIONS {
            more.control("SH", [*name]);
            for (term, text) in *entries {
                more.control("TP", []).text([bold(*term)]).text([roman(*text)]);
            }
        }
        more.to_writer(&mut page)?;
        std::fs::write(dir.join(man.get_filename()), page)?;
    }
    Ok(())
}

fn ended(what: &str, written: std::io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => Exit::Ok.into(),
        // Whoever read our output has gone, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => refuse(&format!("{what}: {error}"), Exit::Usage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_that_is_shown_has_a_page_and_completes() {
        let dir = tempfile::tempdir().expect("a folder");
        pages(dir.path()).expect("written");
        let mut shell = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Args::command(), PROGRAM, &mut shell);
        let shell = String::from_utf8(shell).expect("text");
        for command in Args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let page = std::fs::read_to_string(dir.path().join(format!("edge-agent-{name}.1"))).expect(name);
            // No date, then version and manual.
            let version = env!("CARGO_PKG_VERSION");
            let title = page.lines().find(|line| line.starts_with(".TH ")).unwrap_or_default();
            assert_eq!(title, format!(".TH edge-agent-{name} 1 \"\" \"edge-agent {version}\" \"IoT gateway\""));
            for section in ["SYNOPSIS", "\"EXIT STATUS\"", "FILES", "ENVIRONMENT"] {
                assert!(page.contains(&format!(".SH {section}\n")), "{section}: {page}");
            }
            assert!(shell.contains(&format!("edge__agent,{name})")), "{name}");
        }
        assert!(dir.path().join("edge-agent.1").exists() && dir.path().join("edge-agent-outbox-ls.1").exists());
    }
}
