//! `simulator hub enroll`.

use std::error::Error;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use shared::cli::Exit;
use shared::clock::Clock;

use super::allocation::{Allocation, Reprovision};
use super::config::Config;
use super::connect::{Certificate, Entry, Service};
use super::enrolments::{self, Enrolment, Means, Proof, Wish};
use super::keys;
use super::run::DpsError;
use super::topic::registration_id_fault;
use crate::hub::ca::{self, DeviceCertificate};
use crate::hub::connect::absolute;
use crate::hub::devices::Thumbprint;

/// Arguments of `simulator hub enroll`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The registration id; of a group, a name of its own
    id: String,
    /// Enroll a group: all devices whose keys or certificates come of its own
    #[arg(long)]
    group: bool,
    /// What devices prove themselves by; symmetric-key if it is new
    #[arg(long, value_enum)]
    auth: Option<Means>,
    /// Of the certificate the device has: SHA-1 or SHA-256, hexadecimal. Without it one is issued
    #[arg(long)]
    thumbprint: Option<String>,
    /// Of a group: PEM of authorities that sign its devices' certificates. Without it one is made
    #[arg(long = "authority", value_name = "FILE")]
    authorities: Vec<PathBuf>,
    /// Of a group: print the key, or issue the certificate, of the device with this registration id
    #[arg(long, value_name = "REGISTRATION-ID")]
    member: Option<String>,
    /// The device's id with its hub, if not the registration id
    #[arg(long)]
    device_id: Option<String>,
    /// Host name of a hub it may be given, again for more; all that are linked without it
    #[arg(long = "hub", value_name = "HOST-NAME")]
    hubs: Vec<String>,
    /// How a hub is chosen among them
    #[arg(long, value_enum)]
    allocation: Option<Allocation>,
    /// What a further registration does to a device that has a hub
    #[arg(long, value_enum)]
    reprovision_policy: Option<Reprovision>,
    /// Devices are told that it is disabled; without this it is enabled
    #[arg(long)]
    disabled: bool,
    /// How long a certificate issued now is valid
    #[arg(long, default_value_t = 365)]
    days: u32,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// What a device is to be told. Holds secrets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Enrolled {
    #[serde(flatten)]
    service: Service,
    id: String,
    group: bool,
    #[serde(flatten)]
    entry: Entry,
    #[serde(flatten)]
    issued: Option<Issued>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Member>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Member {
    registration_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_key: Option<String>,
    #[serde(flatten)]
    issued: Option<Issued>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Issued {
    #[serde(flatten)]
    files: Certificate,
    thumbprint: String,
}

impl From<DeviceCertificate> for Issued {
    fn from(issued: DeviceCertificate) -> Self {
        let certificate_file = absolute(issued.certificate_file);
        let files = Certificate { certificate_file, key_file: absolute(issued.key_file) };
        Self { files, thumbprint: issued.thumbprint.to_string() }
    }
}

type Failed = (Box<dyn Error>, Exit);

fn failed(error: impl Into<DpsError>) -> Failed {
    let error = error.into();
    let exit = error.exit();
    (error.into(), exit)
}

fn refuse(text: impl Into<String>) -> Failed {
    (text.into().into(), Exit::Usage)
}

/// Enrols with the service of `config`, which listens at `listen` and shows the certificate of the hub in `identity`.
pub(crate) fn enroll(asked: &Args, config: &Config, listen: SocketAddr, identity: &Path) -> Result<(), Failed> {
    let thumbprint = check(asked)?;
    let (file, own, now) = (config.enrolments_file(), config.identity_dir(), Clock::Real.now());
    let known = enrolments::prepare(&file).map_err(failed)?;
    let known = if asked.group { known.group(&asked.id) } else { known.individual(&asked.id) };
    let auth = asked.auth.or(known.map(|known| Entry::new(known).auth())).unwrap_or_default();
    let has_certificate =
        known.is_some_and(|known| matches!(known.proof, Proof::Thumbprints(_) | Proof::Authorities(_)));
    let mut wish = Wish {
        id: asked.id.clone(),
        is_group: asked.group,
        auth: asked.auth,
        thumbprint,
        authorities: asked.authorities.iter().cloned().map(absolute).collect(),
        device_id: asked.device_id.clone(),
        // Who only wants a member's key does not enable a group.
        enabled: (asked.member.is_none() || known.is_none() || asked.disabled).then_some(!asked.disabled),
        allocation: asked.allocation,
        hubs: asked.hubs.clone(),
        reprovision: asked.reprovision_policy,
    };
    let mut issued = None;
    match (auth, asked.group) {
        (Means::X509, false) if wish.thumbprint.is_none() && (asked.auth.is_some() || !has_certificate) => {
            let made = ca::issue_member(&own, &asked.id, None, asked.days, now).map_err(failed)?;
            wish.thumbprint = Some(made.thumbprint.clone());
            issued = Some(Issued::from(made));
        }
        (Means::X509, true) if wish.authorities.is_empty() && !has_certificate => {
            wish.authorities = vec![absolute(ca::group_authority(&own, &asked.id, now).map_err(failed)?)];
        }
        _ => {}
    }
    let after = enrolments::enroll(&file, wish).map_err(failed)?;
    let after = if asked.group { after.group(&asked.id) } else { after.individual(&asked.id) };
    let enrolment = after.expect("it was written");
    let member = asked.member.as_deref().map(|id| member(enrolment, id, &own, asked.days)).transpose()?;
    let enrolled = Enrolled {
        service: Service::new(config, listen, identity),
        id: enrolment.id.clone(),
        group: asked.group,
        entry: Entry::new(enrolment),
        issued,
        member,
    };
    let mut out = io::stdout().lock();
    let printed = match asked.json {
        true => serde_json::to_writer_pretty(&mut out, &enrolled).map_err(io::Error::from).and_then(|()| writeln!(out)),
        false => enrolled.print(&mut out),
    };
    match printed.and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| (error.into(), Exit::Retry)),
    }
}

/// The thumbprint that was given, if all arguments fit each other.
fn check(asked: &Args) -> Result<Option<Thumbprint>, Failed> {
    for id in [Some(&asked.id), asked.member.as_ref()].into_iter().flatten() {
        if let Some(fault) = registration_id_fault(id) {
            return Err(refuse(format!("`{}` cannot be an id: it {fault}", id.escape_debug())));
        }
    }
    let of_groups = asked.member.is_some() || !asked.authorities.is_empty();
    if of_groups && !asked.group {
        return Err(refuse("--member and --authority need --group"));
    }
    if asked.group && (asked.thumbprint.is_some() || asked.device_id.is_some()) {
        return Err(refuse("--thumbprint and --device-id are of one device, not of a --group"));
    }
    let by_certificate = asked.thumbprint.is_some() || !asked.authorities.is_empty();
    if by_certificate && asked.auth != Some(Means::X509) {
        return Err(refuse("--thumbprint and --authority need --auth x509"));
    }
    let Some(text) = asked.thumbprint.as_deref() else { return Ok(None) };
    let read = Thumbprint::parse(text);
    read.map(Some).ok_or_else(|| refuse("--thumbprint must be 40 (SHA-1) or 64 (SHA-256) hexadecimal digits"))
}

/// What a device of a group proves itself by.
fn member(group: &Enrolment, registration_id: &str, own: &Path, days: u32) -> Result<Member, Failed> {
    let (mut primary_key, mut issued) = (None, None);
    match &group.proof {
        Proof::Keys { primary, .. } => {
            primary_key = keys::of_device(primary, registration_id).map(|key| key.reveal().to_owned());
        }
        Proof::Thumbprints(_) | Proof::Authorities(_) if !ca::has_group_authority(own, &group.id) => {
            let text = "the key of the group's authority is not here: whoever has it signs for its devices";
            return Err(refuse(text));
        }
        Proof::Thumbprints(_) | Proof::Authorities(_) => {
            let made = ca::issue_member(own, registration_id, Some(&group.id), days, Clock::Real.now());
            issued = Some(Issued::from(made.map_err(failed)?));
        }
    }
    Ok(Member { registration_id: registration_id.to_owned(), primary_key, issued })
}

impl Enrolled {
    fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.service.print(out)?;
        let kind = if self.group { "group " } else { "" };
        writeln!(out, "  {kind}{}: {}", self.id, self.entry.text())?;
        let issued = |out: &mut dyn io::Write, issued: &Issued| {
            let Certificate { certificate_file, key_file } = &issued.files;
            let (certificate, key) = (certificate_file.display(), key_file.display());
            writeln!(out, "    its certificate is {certificate}, its key {key}, SHA-256 {}", issued.thumbprint)
        };
        self.issued.as_ref().map_or(Ok(()), |one| issued(out, one))?;
        let Some(member) = &self.member else { return Ok(()) };
        writeln!(
            out,
            "  {}, of this group: {}",
            member.registration_id,
            member.primary_key.as_deref().unwrap_or("certificate")
        )?;
        member.issued.as_ref().map_or(Ok(()), |one| issued(out, one))
    }
}
