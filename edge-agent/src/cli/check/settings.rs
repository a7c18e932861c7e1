//! What the settings name: who we are, files, secrets. Neither a name server nor another machine is asked, and nothing is
//! written; so it can be done before there is a network.

use std::path::Path;

use shared::config::SecretSource;

use super::{Finding, secrets};
use crate::config::Config;
use crate::hub::{Source, SourceError};
use crate::identity::Identity;
use crate::intake::listener;
use crate::presilver::mapping::Mapping;
use crate::presilver::mapping::pattern::Pattern;
use crate::trust;

/// Everything that can be told from the settings alone.
pub(super) fn alone(config: &Config) -> Vec<Finding> {
    let source = config.source();
    let mut findings = vec![who(&source)];
    if let Ok(source) = &source {
        let (what, ca_file) = match source {
            Source::Fixed(target) => ("trust", target.ca_file.as_deref()),
            Source::Provisioned(applicant) => ("provisioning", applicant.ca_file.as_deref()),
        };
        findings.extend(ca_file.map(|file| trusted(what, Some(file))));
    }
    findings.extend(look(config));
    findings
}

/// Secrets, files of the ways in, mappings.
pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings = secrets::look(config);
    findings.extend(of_broker(config));
    findings.extend(of_listener(config));
    findings.extend(mappings(config));
    findings
}

/// Who we are to the hub.
pub(super) fn who(source: &Result<Source, SourceError>) -> Finding {
    let by = |identity: &Identity| match identity {
        Identity::Key(_) => "by its key",
        Identity::Certificate(_) => "by its certificate",
    };
    match source {
        Ok(Source::Fixed(target)) => {
            let text = format!("device {} of {}, {}", target.gateway, target.hub, by(&target.identity));
            Finding::ok("credentials", text)
        }
        Ok(Source::Provisioned(applicant)) => {
            let (id, scope) = (&applicant.registration_id, &applicant.id_scope);
            Finding::ok("credentials", format!("registration {id} of ID scope {scope}, {}", by(&applicant.identity)))
        }
        Err(error) => Finding::fail("credentials", error.to_string()),
    }
}

/// Whom we trust to vouch for the other side.
pub(super) fn trusted(what: &'static str, ca_file: Option<&Path>) -> Finding {
    match (trust::client(ca_file), ca_file) {
        (Ok(_), None) => Finding::ok(what, "trusts this machine's certificate authorities"),
        (Ok(_), Some(file)) => Finding::ok(what, format!("trusts the certificate authorities in {}", file.display())),
        (Err(error), _) => Finding::fail(what, format!("cannot {error}")),
    }
}

fn of_broker(config: &Config) -> Vec<Finding> {
    let broker = &config.intake.broker;
    if !broker.enabled {
        return Vec::new();
    }
    let password = broker.password().map(|source| match source {
        SecretSource::File(file) => readable("broker", &file),
        source => match source.read() {
            Ok(_) => Finding::ok("broker", format!("its password is there: {source}")),
            Err(error) => Finding::fail("broker", error.to_string()),
        },
    });
    let authorities = broker.ca_file.as_deref().filter(|_| broker.tls);
    password.into_iter().chain(authorities.map(|file| trusted("broker", Some(file)))).collect()
}

fn of_listener(config: &Config) -> Vec<Finding> {
    let listener = &config.intake.listener;
    if !listener.enabled {
        return Vec::new();
    }
    let files = [
        &listener.password_file,
        &listener.tls_cert,
        &listener.tls_key,
        &listener.tls_client_ca,
        &listener.tls_client_crl,
    ];
    let mut findings: Vec<Finding> = files.into_iter().flatten().map(|file| readable("listener", file)).collect();
    if findings.iter().all(Finding::is_ok)
        && let Err(error) = listener::look_at_files(listener)
    {
        findings.push(Finding::fail("listener", format!("cannot {error}")));
    }
    if listener.anonymous && !listener.listen.ip().is_loopback() {
        findings.push(Finding::note(
            "listener",
            format!("anyone who reaches {} may publish: `anonymous = true`", listener.listen),
        ));
    }
    findings
}

fn readable(what: &'static str, file: &Path) -> Finding {
    match std::fs::read(file) {
        Ok(_) => Finding::ok(what, format!("{} can be read", file.display())),
        Err(error) => Finding::fail(what, format!("{} cannot be read ({error})", file.display())),
    }
}

/// Says where repeats cannot be recognised, and what is never read.
fn mappings(config: &Config) -> Vec<Finding> {
    let keyless = |mapping: &&Mapping| mapping.is_keyless();
    let finding = |mapping: &Mapping| {
        Finding::note(
            "mapping",
            format!(
                "`{}` has neither number nor time: a repeat of a message is stored as a reading of its own",
                mapping.topic
            ),
        )
    };
    let mappings = &config.presilver.mapping;
    mappings.iter().filter(keyless).map(finding).chain(unreached(mappings)).collect()
}

/// The first mapping that fits a message reads it: one behind a wider one reads none.
fn unreached(mappings: &[Mapping]) -> Vec<Finding> {
    // A topic that cannot be read is a mistake already.
    let patterns: Vec<_> = mappings.iter().map(|mapping| Pattern::parse(&mapping.topic).ok()).collect();
    let covering = |at: usize| {
        let own = patterns[at].as_ref()?;
        patterns[..at].iter().position(|other| other.as_ref().is_some_and(|other| other.covers(own)))
    };
    let finding = |at: usize| {
        let (own, first) = (&mappings[at].topic, &mappings[covering(at)?].topic);
        let text = format!("`{own}` is never reached: `{first}` before it takes all its messages");
        Some(Finding::note("mapping", text).so("write the narrower of them first"))
    };
    (0..mappings.len()).filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Grade;
    use crate::cli::check::tests::config;

    fn failed(findings: &[Finding]) -> Vec<&str> {
        findings.iter().filter(|one| one.grade == Grade::Fail).map(|one| one.text.as_str()).collect()
    }

    #[test]
    fn a_file_that_a_way_in_needs_and_cannot_use_is_named() {
        shared::tls::install_provider();
        let dir = tempfile::tempdir().expect("a folder");
        let (garbage, nowhere) = (dir.path().join("garbage"), dir.path().join("nowhere"));
        std::fs::write(&garbage, "gw-01:no digest\n").expect("written");
        for (settings, words) in [
            (format!("[intake.listener]\npassword-file = {garbage:?}\n"), "cannot use the password file"),
            (format!("[intake.listener]\ntls-cert = {garbage:?}\ntls-key = {garbage:?}\n"), "holds no private key"),
            (format!("[intake.listener]\npassword-file = {nowhere:?}\n"), "nowhere cannot be read"),
            (
                format!("[intake.broker]\nenabled = true\nuser = \"u\"\npassword-file = {nowhere:?}\n"),
                "nowhere cannot be read",
            ),
            (
                "[intake.broker]\nenabled = true\nuser = \"u\"\npassword = { env = \"EDGE_TEST_NOT_SET\" }\n"
                    .to_owned(),
                "EDGE_TEST_NOT_SET: it is not set",
            ),
            (
                format!("[intake.broker]\nenabled = true\ntls = true\nca-file = {garbage:?}\n"),
                "cannot find a certificate",
            ),
        ] {
            let findings = look(&config(&settings));
            let [text] = failed(&findings)[..] else { panic!("{settings}: {findings:?}") };
            assert!(text.contains(words), "{text}");
        }
        assert_eq!(failed(&look(&config(""))), [] as [&str; 0]);
    }

    #[test]
    fn a_mapping_behind_a_wider_one_is_named_with_it() {
        let of = |topics: &[&str]| {
            let mapping = |topic: &&str| format!("[[presilver.mapping]]\ntopic = \"{topic}\"\ndevice = \"d\"\n");
            let mut found = mappings(&config(&topics.iter().map(mapping).collect::<String>()));
            found.retain(|finding| finding.text.contains("never reached"));
            found
        };
        assert_eq!(of(&["plant/press-3", "plant/{device}", "plant/#"]), []);
        let found = of(&["plant/#", "other/{device}", "plant/{device}"]);
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!(one.grade, Grade::Note);
        assert_eq!(one.text, "`plant/{device}` is never reached: `plant/#` before it takes all its messages");
    }

    #[test]
    fn who_we_are_and_whom_we_trust_are_settings_too() {
        let dir = tempfile::tempdir().expect("a folder");
        let hub = format!("[hub]\nca-file = {:?}\n", dir.path().join("ca.pem"));
        let findings = alone(&config(&hub));
        assert!(
            matches!(failed(&findings)[..], [text] if text.contains("`hub.connection-string` is missing")),
            "{findings:?}"
        );
        let hub = format!("{hub}connection-string = \"HostName=h;DeviceId=gw-01;SharedAccessKey=a2V5\"\n");
        let findings = alone(&config(&hub));
        assert!(
            matches!(failed(&findings)[..], [text] if text.contains("cannot read the certificate authorities")),
            "{findings:?}"
        );
        assert_eq!(findings[0].text, "device gw-01 of h, by its key");
    }
}
