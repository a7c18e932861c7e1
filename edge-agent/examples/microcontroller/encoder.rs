//! CBOR (RFC 8949) as a microcontroller writes it: into a buffer of its own, with nothing but `core`.
//!
//! ```text
//! {"n": 17, "temperature": {"v": 21.5, "u": "Cel"}, "door": true}
//! a3 61 6e 11  6b 74 65 … 65  a2 61 76 fa 41 ac 00 00  61 75 63 43 65 6c  64 64 6f 6f 72 f5
//! ```

/// The buffer has no room for what was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Writes values one behind the other.
#[derive(Debug)]
pub struct Encoder<'b> {
    buffer: &'b mut [u8],
    at: usize,
}

impl<'b> Encoder<'b> {
    /// Begins at the start of `buffer`.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, at: 0 }
    }

    /// A map of `pairs` pairs; each is a name, written by [`Encoder::text`], and a value.
    ///
    /// # Errors
    /// There is no room.
    pub fn map(&mut self, pairs: u64) -> Result<(), Full> {
        self.head(5, pairs)
    }

    /// A text.
    ///
    /// # Errors
    /// There is no room.
    pub fn text(&mut self, text: &str) -> Result<(), Full> {
        self.head(3, text.len() as u64)?;
        self.bytes(text.as_bytes())
    }

    /// A whole number.
    ///
    /// # Errors
    /// There is no room.
    pub fn int(&mut self, number: i64) -> Result<(), Full> {
        match u64::try_from(number) {
            Ok(number) => self.head(0, number),
            Err(_) => self.head(1, !(number as u64)),
        }
    }

    /// A 32-bit float: what sensors measure in.
    ///
    /// # Errors
    /// There is no room.
    pub fn float(&mut self, number: f32) -> Result<(), Full> {
        self.bytes(&[0xfa])?;
        self.bytes(&number.to_be_bytes())
    }

    /// Yes or no.
    ///
    /// # Errors
    /// There is no room.
    pub fn bool(&mut self, on: bool) -> Result<(), Full> {
        self.bytes(&[0xf4 | u8::from(on)])
    }

    /// What was written: the payload.
    pub fn finish(self) -> &'b [u8] {
        &self.buffer[..self.at]
    }

    /// The kind of a value with its number or length, in as few bytes as it takes.
    fn head(&mut self, major: u8, number: u64) -> Result<(), Full> {
        let major = major << 5;
        let bytes = number.to_be_bytes();
        match number {
            0..=23 => self.bytes(&[major | bytes[7]]),
            24..=0xff => self.bytes(&[major | 24, bytes[7]]),
            0x100..=0xffff => self.bytes(&[major | 25, bytes[6], bytes[7]]),
            0x1_0000..=0xffff_ffff => {
                self.bytes(&[major | 26])?;
                self.bytes(&bytes[4..])
            }
            _ => {
                self.bytes(&[major | 27])?;
                self.bytes(&bytes)
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.at + bytes.len();
        self.buffer.get_mut(self.at..end).ok_or(Full)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }
}

/// One message of a device: its running number, a temperature with its unit, and a door.
///
/// # Errors
/// There is no room: 64 bytes are enough.
pub fn message(buffer: &mut [u8], n: i64, celsius: f32, door: bool) -> Result<&[u8], Full> {
    let mut cbor = Encoder::new(buffer);
    cbor.map(3)?;
    cbor.text("n")?;
    cbor.int(n)?;
    cbor.text("temperature")?;
    cbor.map(2)?;
    cbor.text("v")?;
    cbor.float(celsius)?;
    cbor.text("u")?;
    cbor.text("Cel")?;
    cbor.text("door")?;
    cbor.bool(door)?;
    Ok(cbor.finish())
}
