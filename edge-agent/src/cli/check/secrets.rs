//! Who may read the secrets. Their text is never looked at here.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use shared::config::SecretSource;

use super::Finding;
use crate::config::Config;

/// Everybody on this machine.
const OTHERS_READ: u32 = 0o004;
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITE: u32 = 0o020;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let broker = config.intake.broker.password().filter(|_| config.intake.broker.enabled);
    let (hub, provisioning) = (&config.hub, &config.provisioning);
    let sources = [
        &hub.connection_string,
        &hub.private_key,
        &provisioning.key,
        &provisioning.group_key,
        &provisioning.private_key,
        &config.network.proxy_credentials,
        &broker,
    ];
    let named = sources.into_iter().flatten().filter_map(|source| match source {
        SecretSource::File(path) => Some(path),
        // The environment of a service and the credentials of systemd are not everybody's.
        SecretSource::Env(_) | SecretSource::Credential(_) | SecretSource::Inline(_) => None,
    });
    let listener = &config.intake.listener;
    let listener = [&listener.password_file, &listener.tls_key].into_iter().flatten().filter(|_| listener.enabled);
    named.chain(listener).filter_map(|path| judge(path, mode(path)?)).collect()
}

/// `None` where it cannot be told; that it cannot be read, others say.
fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|known| known.permissions().mode())
}

fn judge(path: &Path, mode: u32) -> Option<Finding> {
    let shown = path.display();
    let todo = format!("chmod 600 {shown}; chown it to the user the agent runs as");
    if mode & (OTHERS_WRITE | GROUP_WRITE) != 0 {
        let text =
            format!("{shown} can be written by others (mode {:03o}): they could put their own key there", mode & 0o777);
        return Some(Finding::fail("secrets", text).so(todo));
    }
    if mode & OTHERS_READ != 0 {
        let text = format!("{shown} can be read by everybody on this machine (mode {:03o})", mode & 0o777);
        return Some(Finding::note("secrets", text).so(todo));
    }
    Some(Finding::ok("secrets", format!("{shown} is not everybody's")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Grade;
    use crate::cli::check::tests::config;

    #[test]
    fn a_secret_of_everybody_is_named_and_one_that_others_may_write_is_refused() {
        for (mode, grade) in [
            (0o100_600, Grade::Ok),
            (0o100_640, Grade::Ok),
            (0o100_644, Grade::Note),
            (0o100_660, Grade::Fail),
            (0o100_602, Grade::Fail),
            (0o100_400, Grade::Ok),
        ] {
            let finding = judge(Path::new("/etc/edge-agent/key"), mode).expect("a finding");
            assert_eq!(finding.grade, grade, "{mode:o}");
            assert_eq!(finding.todo.is_some(), grade != Grade::Ok);
        }
        assert_eq!(mode(Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn every_secret_that_a_setting_names_is_looked_at() {
        let dir = tempfile::tempdir().expect("a folder");
        let secrets = [
            ("hub", "connection-string = { file = PATH }"),
            ("hub", "private-key = { file = PATH }"),
            ("provisioning", "key = { file = PATH }"),
            ("provisioning", "group-key = { file = PATH }"),
            ("provisioning", "private-key = { file = PATH }"),
            ("network", "proxy-credentials = { file = PATH }"),
            ("intake.broker", "enabled = true\nuser = \"u\"\npassword-file = PATH"),
            ("intake.broker", "enabled = true\nuser = \"u\"\npassword = { file = PATH }"),
            ("intake.listener", "anonymous = false\npassword-file = PATH"),
            ("intake.listener", "tls-cert = PATH\ntls-key = PATH"),
        ];
        let file = dir.path().join("secret");
        std::fs::write(&file, "never looked at").expect("written");
        let look = |section: &str, setting: &str| {
            let text = format!("[{section}]\n{}\n", setting.replace("PATH", &format!("{file:?}")));
            super::look(&config(&text)).into_iter().map(|finding| (finding.grade, finding.text)).collect::<Vec<_>>()
        };
        for (mode, grade, words) in [
            (0o644, Grade::Note, "can be read by everybody"),
            (0o660, Grade::Fail, "can be written by others"),
            (0o600, Grade::Ok, "is not everybody's"),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("changed");
            for (section, setting) in secrets {
                let found = look(section, setting);
                let [(got, text)] = &found[..] else { panic!("[{section}] {setting}: {found:?}") };
                assert!(
                    *got == grade && text.contains(words) && !text.contains("never"),
                    "[{section}] {setting}: {text}"
                );
            }
        }
        // What is not in use is nobody's concern.
        let idle =
            format!("[intake.listener]\npassword-file = {file:?}\nenabled = false\n[intake.broker]\nenabled = true\n");
        assert!(super::look(&config(&idle)).is_empty());
    }
}
