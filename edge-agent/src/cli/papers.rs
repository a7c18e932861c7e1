//! `completion` and `man`: papers made of the command line itself, so that they cannot say what it does not.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;
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

pub(super) fn man(dir: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Args::command(), dir));
    ended(&format!("write man pages into {}", dir.display()), written)
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
        clap_mangen::generate_to(Args::command(), dir.path()).expect("written");
        let mut shell = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Args::command(), PROGRAM, &mut shell);
        let shell = String::from_utf8(shell).expect("text");
        for command in Args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let page = std::fs::read_to_string(dir.path().join(format!("edge-agent-{name}.1"))).expect(name);
            assert!(page.contains(".TH edge") && page.contains(".SH SYNOPSIS"), "{page}");
            assert!(shell.contains(&format!("edge__agent,{name})")), "{name}");
        }
        assert!(dir.path().join("edge-agent.1").exists() && dir.path().join("edge-agent-outbox-ls.1").exists());
    }
}
