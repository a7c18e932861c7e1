//! An I2C bus that is opened when it is needed, and anew after it failed.

use embedded_hal::i2c::{Error, ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};
use linux_embedded_hal::I2cdev;
use linux_embedded_hal::i2cdev::linux::LinuxI2CError;

use super::unopened;
use super::wire::{self, Wire};
use crate::sensors::config::Place;
use crate::sensors::driver::Fault;

/// errno: a driver of the kernel has the address; nobody moved in time; the Raspberry Pi's adapters for "not acknowledged".
const EBUSY: i32 = 16;
const ETIMEDOUT: i32 = 110;
const EREMOTEIO: i32 = 121;

/// One bus.
#[derive(Debug)]
pub(crate) struct Bus {
    place: Place,
    open: Option<Open>,
}

enum Open {
    Kernel(I2cdev),
    Socket(Wire),
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Open::Kernel(_) => "Kernel",
            Open::Socket(_) => "Socket",
        })
    }
}

/// A transaction failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BusError(Fault);

impl From<BusError> for Fault {
    fn from(error: BusError) -> Self {
        error.0
    }
}

impl Error for BusError {
    fn kind(&self) -> ErrorKind {
        match self.0 {
            Fault::NoAnswer => ErrorKind::NoAcknowledge(NoAcknowledgeSource::Unknown),
            Fault::Arbitration => ErrorKind::ArbitrationLoss,
            Fault::Bus(_) => ErrorKind::Bus,
            _ => ErrorKind::Other,
        }
    }
}

impl Bus {
    /// The bus there; it need not be there yet.
    pub(crate) const fn new(place: Place) -> Self {
        Self { place, open: None }
    }

    fn transact(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Fault> {
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(open(&self.place)?),
        };
        match open {
            Open::Kernel(bus) => bus.transaction(address, operations).map_err(|error| of_kernel(&error)),
            Open::Socket(wire) => over_socket(wire, address, operations),
        }
    }
}

fn open(place: &Place) -> Result<Open, Fault> {
    match place {
        Place::Kernel(path) => match I2cdev::new(path) {
            Ok(bus) => Ok(Open::Kernel(bus)),
            Err(LinuxI2CError::Io(error)) => Err(unopened(path, &error)),
            Err(LinuxI2CError::Errno(errno)) => Err(unopened(path, &std::io::Error::from_raw_os_error(errno))),
        },
        Place::Socket(path) => Wire::connect(path).map(Open::Socket).map_err(|error| unopened(path, &error)),
    }
}

fn of_kernel(error: &linux_embedded_hal::I2CError) -> Fault {
    let errno = match error.inner() {
        LinuxI2CError::Errno(errno) => Some(*errno),
        LinuxI2CError::Io(error) => error.raw_os_error(),
    };
    match (errno, error.kind()) {
        (Some(EBUSY), _) => Fault::Bus("a driver of the kernel has this address; unload it".to_owned()),
        (Some(ETIMEDOUT), _) => Fault::Timeout("a transaction"),
        (Some(EREMOTEIO), _) | (_, ErrorKind::NoAcknowledge(_)) => Fault::NoAnswer,
        (_, ErrorKind::ArbitrationLoss) => Fault::Arbitration,
        _ => Fault::Bus(error.to_string()),
    }
}

fn over_socket(wire: &mut Wire, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Fault> {
    let short = |length: usize| u16::try_from(length).map_err(|_| Fault::Bus("a transaction is too long".to_owned()));
    let mut request = vec![address, u8::try_from(operations.len()).unwrap_or(u8::MAX)];
    let mut wanted = 0;
    for operation in operations.iter() {
        match operation {
            Operation::Write(bytes) => {
                request.push(b'w');
                request.extend(short(bytes.len())?.to_be_bytes());
                request.extend(*bytes);
            }
            Operation::Read(buffer) => {
                request.push(b'r');
                request.extend(short(buffer.len())?.to_be_bytes());
                wanted += buffer.len();
            }
        }
    }
    let mut answer = vec![0; wanted];
    match wire.ask(&request, &mut answer) {
        Ok(0) => {}
        Ok(1) => return Err(Fault::NoAnswer),
        Ok(2) => return Err(Fault::Arbitration),
        Ok(status) => return Err(Fault::Bus(format!("it says {status}"))),
        Err(error) if wire::is_timeout(&error) => return Err(Fault::Timeout("a transaction")),
        Err(error) => return Err(Fault::Bus(error.to_string())),
    }
    let mut rest = answer.as_slice();
    for operation in operations {
        if let Operation::Read(buffer) = operation {
            let (bytes, behind) = rest.split_at(buffer.len());
            buffer.copy_from_slice(bytes);
            rest = behind;
        }
    }
    Ok(())
}

impl ErrorType for Bus {
    type Error = BusError;
}

impl I2c for Bus {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), BusError> {
        let done = self.transact(address, operations);
        // An adapter that was pulled out and back is another file. Silence at one address is no fault of the bus.
        if let Err(fault) = &done
            && !matches!(fault, Fault::NoAnswer | Fault::Arbitration)
        {
            self.open = None;
        }
        done.map_err(BusError)
    }
}
