//! Password files in Mosquitto's format: one `user:$7$iterations$salt$hash` a line (PBKDF2 with SHA-512, Base64), as
//! `mosquitto_passwd -H sha512-pbkdf2 -c FILE USER` writes them.

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Sha512;

/// More would let a password file turn every connection into seconds of work.
const ITERATIONS_MAX: u32 = 10_000_000;
/// Work spent on an unknown user, so that the answer's delay does not tell which users exist.
const DUMMY: &str = "$7$101$c2FsdHNhbHRzYWx0$AAAA";

/// Users and the digests of their passwords.
#[derive(Clone)]
pub struct Passwords {
    users: HashMap<String, Digest>,
    dummy: Digest,
}

#[derive(Clone)]
struct Digest {
    iterations: u32,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords({} users)", self.users.len())
    }
}

/// A password file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}; write it with `mosquitto_passwd -H sha512-pbkdf2`")]
pub struct PasswordsError {
    /// 1-based.
    pub line: usize,
    /// What is wrong, without the hash.
    pub what: String,
}

impl Passwords {
    /// Reads a password file. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The first line that cannot be used.
    pub fn parse(text: &str) -> Result<Self, PasswordsError> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fault = |what: &str| PasswordsError { line: number + 1, what: what.to_owned() };
            let (user, digest) = line.split_once(':').ok_or_else(|| fault("no `:` between user and hash"))?;
            let digest = Digest::parse(digest).map_err(|what| fault(&what))?;
            if users.insert(user.to_owned(), digest).is_some() {
                return Err(fault("the user stands here twice"));
            }
        }
        let dummy = Digest::parse(DUMMY).expect("the constant is well-formed");
        Ok(Self { users, dummy })
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// True if nobody may connect.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// True if `password` is the user's. Takes as long as the digest's iterations want (milliseconds): call it off the
    /// async threads.
    pub fn admit(&self, user: &str, password: &[u8]) -> bool {
        match self.users.get(user) {
            Some(digest) => digest.fits(password),
            None => {
                let _ = self.dummy.fits(password);
                false
            }
        }
    }
}

impl Digest {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('$').collect();
        let ["", "7", iterations, salt, hash] = parts[..] else {
            return Err("the hash is not of the kind $7$iterations$salt$hash".to_owned());
        };
        let iterations = iterations.parse().map_err(|_| "the number of iterations is not a number".to_owned())?;
        if iterations == 0 || ITERATIONS_MAX < iterations {
            return Err(format!("{iterations} iterations; 1 to {ITERATIONS_MAX} are allowed"));
        }
        let salt = STANDARD.decode(salt).map_err(|_| "the salt is not Base64".to_owned())?;
        let hash = STANDARD.decode(hash).map_err(|_| "the hash is not Base64".to_owned())?;
        Ok(Self { iterations, salt, hash })
    }

    fn fits(&self, password: &[u8]) -> bool {
        let hash: [u8; 64] = pbkdf2::pbkdf2_hmac_array::<Sha512, 64>(password, &self.salt, self.iterations);
        // Looks at every byte whatever the outcome, so that time tells nothing about the hash.
        let differences = hash.iter().zip(&self.hash).fold(0, |sum, (a, b)| sum | (a ^ b));
        self.hash.len() == hash.len() && differences == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `mosquitto_passwd -b -c FILE press-3 secret` (Mosquitto 2.0.21), and a second one with 1000 iterations
    /// computed with Python's hashlib.
    const FILE: &str = include_str!("testdata/passwords");

    #[test]
    fn mosquittos_own_files_are_read() {
        let passwords = Passwords::parse(FILE).expect("well-formed");
        assert_eq!(passwords.len(), 2);
        for (user, password, admitted) in [
            ("press-3", "secret", true),
            ("press-3", "Secret", false),
            ("press-3", "", false),
            ("plc", "pass:with:colons", true),
            ("nobody", "secret", false),
        ] {
            assert_eq!(passwords.admit(user, password.as_bytes()), admitted, "{user}");
        }
    }

    #[test]
    fn a_bad_line_is_named_without_its_hash() {
        for (line, what) in [
            ("press-3", "no `:`"),
            ("press-3:secret", "not of the kind"),
            ("press-3:$6$abc$def", "not of the kind"),
            ("press-3:$7$x$YWJj$YWJj", "not a number"),
            ("press-3:$7$0$YWJj$YWJj", "iterations"),
            ("press-3:$7$101$!$YWJj", "salt"),
            ("press-3:$7$101$YWJj$!", "hash"),
            ("a:$7$101$YWJj$YWJj\na:$7$101$YWJj$YWJj", "twice"),
        ] {
            let error = Passwords::parse(line).expect_err(line).to_string();
            assert!(error.contains(what) && !error.contains("YWJj"), "{line}: {error}");
        }
        assert!(Passwords::parse("# only a comment\n\n").expect("well-formed").is_empty());
    }
}
