//! [p] Who a device says it is, and whether an enrolment says so too.
//!
//! As in the service, a connection is let in by what its user name, its token and its certificate say of themselves
//! ([`admit`]); whether an enrolment fits is asked at each registration ([`attest`]), and answered in its topic. An
//! individual enrolment goes before the groups.

use shared::config::Secret;
use shared::sas::{self, Refusal, Token};
use shared::time::Timestamp;

use super::answer::Refused;
use super::enrolments::{Enrolment, Enrolments, Proof};
use super::{keys, topic};
use crate::gate::{Chain, ConnectReturnCode, Hello};
use crate::hub::devices::{Auth, Thumbprint};
use crate::hub::mqtt::{CertificateFault, check_name, check_thumbprint};

/// `skn` of a token, if it has one: the SDK for Python leaves it out.
const POLICY: &str = "registration";

/// A device that may ask.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) registration_id: String,
    pub(super) shown: Shown,
}

/// What a device proves itself by.
#[derive(Debug)]
pub(super) enum Shown {
    Token(Token),
    /// Its own certificate first.
    Certificate(Chain),
}

impl Guest {
    /// When its token ends; certificates are looked at with each registration.
    pub(super) fn expires(&self) -> Option<Timestamp> {
        match &self.shown {
            Shown::Token(token) => Some(Timestamp::from_millis(token.expiry_s.saturating_mul(1_000))),
            Shown::Certificate(_) => None,
        }
    }
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("the user name is not `idScope/registrations/registrationId/api-version=…`")]
    UserName,
    #[error("the client id is not the registration id of the user name")]
    ClientId,
    #[error("the id scope is not that of this service")]
    IdScope,
    #[error("there is a will, and no topic for one")]
    Will,
    #[error("there is neither a token nor a certificate")]
    NothingShown,
    #[error("the token is for `{0}`, not for `idScope/registrations/registrationId`")]
    Resource(String),
    #[error("the token's `skn` is another than `registration`")]
    Policy,
    #[error("{0}")]
    Token(Refusal),
    #[error("{0}")]
    Certificate(CertificateFault),
}

impl Denied {
    /// As it stands in metrics.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Denied::UserName => "user-name",
            Denied::ClientId => "client-id",
            Denied::IdScope => "id-scope",
            Denied::Will => "will",
            Denied::NothingShown => "nothing-shown",
            Denied::Resource(_) => "token-resource",
            Denied::Policy => "token-policy",
            Denied::Token(Refusal::Malformed) => "token-malformed",
            Denied::Token(Refusal::Expired { .. }) => "token-expired",
            Denied::Token(Refusal::Signature) => "token-signature",
            Denied::Certificate(fault) => fault.as_str(),
        }
    }

    /// As the device is told.
    pub(super) const fn code(&self) -> ConnectReturnCode {
        match self {
            Denied::UserName => ConnectReturnCode::BadUserNameOrPassword,
            Denied::ClientId => ConnectReturnCode::IdentifierRejected,
            _ => ConnectReturnCode::NotAuthorized,
        }
    }
}

/// Judges a CONNECT; `chain` is what the client showed in its handshake. A token counts before a certificate.
pub(super) fn admit(hello: &Hello, chain: &Chain, id_scope: &str, now: Timestamp) -> Result<Guest, Denied> {
    let user = topic::user_name(hello.user.as_deref().unwrap_or_default()).ok_or(Denied::UserName)?;
    if !hello.client_id.eq_ignore_ascii_case(user.registration_id) {
        return Err(Denied::ClientId);
    }
    if user.id_scope != id_scope {
        return Err(Denied::IdScope);
    }
    if hello.will.is_some() {
        return Err(Denied::Will);
    }
    let password = hello.password.as_ref().map(Secret::reveal).filter(|token| !token.is_empty());
    let shown = match (password, chain.first()) {
        (Some(password), _) => {
            let token = Token::parse(password).map_err(Denied::Token)?;
            let resource = format!("{id_scope}/registrations/{}", user.registration_id);
            if !token.resource.eq_ignore_ascii_case(&resource) {
                return Err(Denied::Resource(token.resource));
            }
            if token.policy.as_deref().is_some_and(|policy| policy != POLICY) {
                return Err(Denied::Policy);
            }
            let now_s = seconds(now);
            if token.expiry_s <= now_s {
                return Err(Denied::Token(Refusal::Expired { expiry_s: token.expiry_s, now_s }));
            }
            Shown::Token(token)
        }
        (None, Some(own)) => {
            check_name(own, user.registration_id).map_err(Denied::Certificate)?;
            Shown::Certificate(chain.clone())
        }
        (None, None) => return Err(Denied::NothingShown),
    };
    Ok(Guest { registration_id: user.registration_id.to_owned(), shown })
}

/// An enrolment that fits, and what its device proves itself to a hub by: the same as here, a certificate by its
/// thumbprint.
#[derive(Debug)]
pub(super) struct Attested<'a> {
    pub(super) enrolment: &'a Enrolment,
    pub(super) auth: Auth,
}

/// Finds the enrolment of a guest.
pub(super) fn attest<'a>(enrolments: &'a Enrolments, guest: &Guest, now: Timestamp) -> Result<Attested<'a>, Refused> {
    let id = &guest.registration_id;
    if let Some(enrolment) = enrolments.individual(id) {
        return prove(enrolment, guest, now).map(|auth| Attested { enrolment, auth });
    }
    let fits = |enrolment| prove(enrolment, guest, now).ok().map(|auth| Attested { enrolment, auth });
    enrolments.groups().iter().find_map(fits).ok_or(match guest.shown {
        Shown::Token(_) => Refused::Unauthorized,
        Shown::Certificate(_) => Refused::Authority,
    })
}

fn prove(enrolment: &Enrolment, guest: &Guest, now: Timestamp) -> Result<Auth, Refused> {
    match (&enrolment.proof, &guest.shown) {
        (Proof::Keys { primary, secondary }, Shown::Token(token)) => {
            let own = |key: &Secret| match enrolment.is_group {
                true => keys::of_device(key, &guest.registration_id),
                false => Some(key.clone()),
            };
            let (Some(primary_key), Some(secondary_key)) = (own(primary), own(secondary)) else {
                return Err(Refused::Unauthorized);
            };
            let signers: Vec<_> =
                [&primary_key, &secondary_key].into_iter().filter_map(|key| sas::Key::device(key.reveal())).collect();
            token.check(&signers, seconds(now)).map_err(|_| Refused::Unauthorized)?;
            Ok(Auth::Sas { primary_key, secondary_key })
        }
        (Proof::Thumbprints(known), Shown::Certificate(chain)) => {
            check_thumbprint(chain, known, now).map_err(|_| Refused::Certificate)?;
            Ok(Auth::Thumbprint(known.clone()))
        }
        (Proof::Authorities(authorities), Shown::Certificate(chain)) => {
            authorities.check(chain, &guest.registration_id, now).map_err(|_| Refused::Authority)?;
            Ok(Auth::Thumbprint(chain.first().map(|own| Thumbprint::sha256(own)).into_iter().collect()))
        }
        (Proof::Thumbprints(_) | Proof::Authorities(_), Shown::Token(_))
        | (Proof::Keys { .. }, Shown::Certificate(_)) => Err(Refused::Unauthorized),
    }
}

fn seconds(now: Timestamp) -> i64 {
    now.micros().div_euclid(1_000_000)
}
