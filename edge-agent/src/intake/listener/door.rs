//! What all connections share: who may come in, how many, and what each may make us hold.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::clock::Clock;
use shared::config::Secret;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::pace::Pace;
use super::passwords::Passwords;
use super::rights::Rights;
use super::session::Terms;
use super::told::Told;
use super::turns::Turns;
use super::{Config, ListenerError};
use crate::intake::metrics::WayMetrics;
use crate::intake::room::Room;

/// Passwords that are checked at once. A digest costs milliseconds on purpose; those who guess wait for each other, and
/// leave processors to the devices that are in.
const CHECKS_AT_ONCE: usize = 2;
/// A packet larger than this must have a place before it is read.
pub(super) const LARGE_BYTES: usize = 16 * 1024;
/// Places are counted in so many bytes.
const PLACE_BYTES: usize = 1024;
/// Beyond it nobody counts: that is 16 GiB.
const PLACES_MAX: usize = 1 << 24;

/// What all connections share.
pub(super) struct Door {
    pub(super) terms: Terms,
    pub(super) unacked_max: usize,
    pub(super) connect_timeout: Duration,
    pub(super) packet_timeout: Duration,
    pub(super) rights: Rights,
    pub(super) pace: Pace,
    /// For publishes on their way to the disk.
    pub(super) room: Arc<Room>,
    /// For large packets on their way in, in units of [`PLACE_BYTES`].
    pub(super) large: Arc<Semaphore>,
    pub(super) clock: Clock,
    pub(super) metrics: WayMetrics,
    pub(super) told: Told,
    pub(super) stop: CancellationToken,
    pub(super) guests: Guests,
    pub(super) callers: Callers,
    /// For TLS handshakes.
    pub(super) turns: Turns,
    anonymous: bool,
    passwords: Option<Arc<Passwords>>,
    checks: Semaphore,
}

impl Door {
    pub(super) fn new(
        config: &Config,
        passwords: Option<Arc<Passwords>>,
        rights: Rights,
        clock: Clock,
        metrics: WayMetrics,
        stop: CancellationToken,
    ) -> Self {
        let bytes_max = config.bytes_max.bytes();
        Self {
            terms: Terms {
                packet_bytes_max: u32::try_from(config.max_packet.bytes()).unwrap_or(u32::MAX),
                receive_max: u16::try_from(config.unacked_max).unwrap_or(u16::MAX).max(1),
            },
            unacked_max: config.unacked_max,
            connect_timeout: config.connect_timeout.duration(),
            packet_timeout: config.packet_timeout.duration(),
            rights,
            pace: Pace::new(config.rate_messages, config.rate_bytes.map(|rate| rate.bytes())),
            room: Room::new(bytes_max),
            large: Arc::new(Semaphore::new(places(config.bytes_max.as_usize()) as usize)),
            clock,
            metrics,
            told: Told::default(),
            stop,
            guests: Guests::default(),
            callers: Callers::new(config.connections_per_address),
            turns: Turns::of_this_machine(),
            anonymous: config.anonymous,
            passwords,
            checks: Semaphore::new(CHECKS_AT_ONCE),
        }
    }

    /// Whether user and password are right, or none are given and none are needed. A given password is always checked
    /// where there is a password file.
    pub(super) async fn admits(&self, user: Option<String>, password: Option<Secret>) -> bool {
        match (&self.passwords, user) {
            (_, None) => self.anonymous,
            (None, Some(_)) => self.anonymous,
            (Some(passwords), Some(user)) => {
                let Ok(_turn) = self.checks.acquire().await else { return false };
                let passwords = passwords.clone();
                let password = password.unwrap_or_else(|| Secret::new(""));
                let check = move || passwords.admit(&user, password.reveal().as_bytes());
                tokio::task::spawn_blocking(check).await.unwrap_or(false)
            }
        }
    }
}

/// Places that a packet of so many bytes takes.
pub(super) fn places(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PLACE_BYTES).min(PLACES_MAX)).expect("few enough")
}

/// Reads the password file.
///
/// # Errors
/// It cannot be read or used.
pub(super) fn passwords(config: &Config) -> Result<Option<Arc<Passwords>>, ListenerError> {
    let Some(path) = &config.password_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|source| ListenerError::Read {
        path: path.clone(),
        setting: "password-file",
        source,
    })?;
    let passwords =
        Passwords::parse(&text).map_err(|source| ListenerError::Passwords { path: path.clone(), source })?;
    Ok(Some(Arc::new(passwords)))
}

/// Who is in, by user and client id: nobody makes another user's device leave by taking its client id.
type Name = (Option<String>, String);

/// The number of a device that is in, and what makes it leave.
type Seat = (u64, CancellationToken);

/// The devices that are in, and how many came.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<(HashMap<Name, Seat>, u64)>);

/// A device that is in. A second one of the same user with the same client id makes the first leave, as MQTT has it.
pub(super) struct Guest {
    door: Arc<Door>,
    name: Name,
    number: u64,
    pub(super) leave: CancellationToken,
}

impl Guest {
    pub(super) fn enter(door: &Arc<Door>, user: Option<String>, client_id: String) -> Self {
        let (name, leave) = ((user, client_id), CancellationToken::new());
        let mut guests = door.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        guests.1 += 1;
        let number = guests.1;
        if !name.1.is_empty()
            && let Some((_, former)) = guests.0.insert(name.clone(), (number, leave.clone()))
        {
            former.cancel();
        }
        drop(guests);
        Self { door: door.clone(), name, number, leave }
    }

    /// Different for each that enters.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.door.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if guests.0.get(&self.name).is_some_and(|(number, _)| *number == self.number) {
            guests.0.remove(&self.name);
        }
    }
}

/// How many connections each address has.
#[derive(Debug)]
pub(super) struct Callers {
    per_address_max: usize,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address, until it is dropped.
#[derive(Debug)]
pub(super) struct Caller {
    address: IpAddr,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Callers {
    fn new(per_address_max: usize) -> Self {
        Self { per_address_max, by_address: Arc::default() }
    }

    /// Counts one more connection of `address`; `None` if it has as many as it may.
    pub(super) fn one_more(&self, address: IpAddr) -> Option<Caller> {
        let address = of_one(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if self.per_address_max <= *count {
            return None;
        }
        *count += 1;
        Some(Caller { address, by_address: Arc::clone(&self.by_address) })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// One machine has one IPv4 address, or as many IPv6 addresses as it likes within its network.
fn of_one(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_connections_as_it_may_and_a_network_of_ipv6_counts_as_one() {
        let callers = Callers::new(2);
        let call = |address: &str| callers.one_more(address.parse().expect("an address"));
        let first = call("10.0.0.1").expect("one");
        let _mapped = call("::ffff:10.0.0.1").expect("two");
        assert!(call("10.0.0.1").is_none(), "three");
        let _other = call("10.0.0.2").expect("another one");
        drop(first);
        let _again = call("10.0.0.1").expect("two again");
        let _v6 = [call("2001:db8::1").expect("one"), call("2001:db8::2").expect("two")];
        assert!(call("2001:db8:0:0:1::").is_none(), "three");
        let _network = call("2001:db8:0:1::").expect("another network");
        drop((_mapped, _other, _again, _v6, _network));
        assert!(callers.by_address.lock().expect("no panic").is_empty(), "nothing is kept of who has gone");
    }
}
