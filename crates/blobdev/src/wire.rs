//! The device's two messages: the 56-byte request and the 12-byte response, VSP protocol "V1" (version 0 on the wire).
//!
//! Source: spec/azure-blob-device.md §2 and §3. `parse` only reads; `validate` holds every check that the lengths and
//! offsets must pass before anything is touched, and says with which status a request is refused.

use std::fmt;

use crate::hresult;

/// Bytes of a request payload.
pub const REQUEST_SIZE: usize = 56;
/// Bytes of a response payload, its padding to 16 aside.
pub const RESPONSE_SIZE: usize = 12;
/// The one operation that exists: a user's request.
pub const USER_REQUEST: u32 = 0x100;
/// Largest buffer, and largest sum of the three in whole pages (spec §2.5).
pub const BYTES_MAX: u32 = 8192 * PAGE;

const PAGE: u32 = 4096;

/// The request as it stands in a GPA-direct packet's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    /// Protocol version: 0.
    pub version: u32,
    /// Milliseconds until the host gives up; 0 = its maximum.
    pub timeout_ms: u32,
    /// Offset of the data buffer from the start of the range; 0 if there is none.
    pub data_buffer_offset: u32,
    /// Its length; 0 = none.
    pub data_buffer_length: u32,
    /// Bytes of it that are content for the host; > 0 makes it read-only for the host (design §3).
    pub data_buffer_valid: u32,
    /// What to do.
    pub operation_type: u32,
    /// Offset of the request buffer from the start of the range.
    pub request_buffer_offset: u32,
    /// Its length.
    pub request_buffer_length: u32,
    /// Offset of the response buffer from the start of the range.
    pub response_buffer_offset: u32,
    /// Its capacity.
    pub response_buffer_length: u32,
    /// The user's 16 bytes (not the VMBus transaction id).
    pub guid: [u8; 16],
}

/// What is wrong with a request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// The payload is shorter than the message (H23).
    Short {
        /// Bytes there.
        length: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// A version we do not speak.
    Version(u32),
    /// An operation we do not know.
    Operation(u32),
    /// The request or the response buffer has no bytes.
    Empty,
    /// More content than the data buffer holds.
    Valid {
        /// Bytes said to be content.
        valid: u32,
        /// Bytes of the buffer.
        length: u32,
    },
    /// A buffer, or all three in pages, beyond 32 MiB.
    TooLarge,
    /// A buffer that does not lie in the range.
    Outside {
        /// Its offset.
        offset: u32,
        /// Its length.
        length: u32,
    },
    /// Two buffers share bytes: writing one would change what was read from the other.
    Overlap,
}

impl DeviceError {
    /// The device status that tells it to the guest.
    pub fn status(&self) -> u32 {
        match self {
            Self::Operation(_) => hresult::UNKNOWN_OPERATION,
            _ => hresult::MALFORMED,
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { length, needed } => write!(f, "a payload of {length} bytes where {needed} are needed"),
            Self::Version(version) => write!(f, "protocol version {version}; only 0 is spoken"),
            Self::Operation(operation) => write!(f, "unknown operation type {operation:#x}"),
            Self::Empty => write!(f, "an empty request or response buffer"),
            Self::Valid { valid, length } => write!(f, "{valid} valid bytes in a data buffer of {length}"),
            Self::TooLarge => write!(f, "buffers of more than {BYTES_MAX} bytes"),
            Self::Outside { offset, length } => write!(f, "a buffer of {length} bytes at {offset} outside the range"),
            Self::Overlap => write!(f, "two buffers share bytes"),
        }
    }
}

impl std::error::Error for DeviceError {}

/// Where the buffers lie within the range: (offset, length) in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The data buffer; length 0 if there is none.
    pub data: (usize, usize),
    /// The request buffer.
    pub request: (usize, usize),
    /// The response buffer.
    pub response: (usize, usize),
}

impl DeviceRequest {
    /// Reads the first 56 bytes of a private copy of the payload.
    pub fn parse(payload: &[u8]) -> Result<Self, DeviceError> {
        let short = DeviceError::Short { length: payload.len(), needed: REQUEST_SIZE };
        let bytes: &[u8; REQUEST_SIZE] = payload.first_chunk().ok_or(short)?;
        let word = |index: usize| u32::from_le_bytes(bytes[4 * index..4 * index + 4].try_into().expect("4 bytes"));
        Ok(Self {
            version: word(0),
            timeout_ms: word(1),
            data_buffer_offset: word(2),
            data_buffer_length: word(3),
            data_buffer_valid: word(4),
            operation_type: word(5),
            request_buffer_offset: word(6),
            request_buffer_length: word(7),
            response_buffer_offset: word(8),
            response_buffer_length: word(9),
            guid: bytes[40..].try_into().expect("16 bytes"),
        })
    }

    /// Writes the 56 bytes.
    pub fn encode(&self) -> [u8; REQUEST_SIZE] {
        let words = [
            self.version,
            self.timeout_ms,
            self.data_buffer_offset,
            self.data_buffer_length,
            self.data_buffer_valid,
            self.operation_type,
            self.request_buffer_offset,
            self.request_buffer_length,
            self.response_buffer_offset,
            self.response_buffer_length,
        ];
        let mut bytes = [0; REQUEST_SIZE];
        for (index, word) in words.into_iter().enumerate() {
            bytes[4 * index..4 * index + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes[40..].copy_from_slice(&self.guid);
        bytes
    }

    /// Checks everything that can be checked before a byte is touched; `byte_count` is the GPA range's.
    ///
    /// Buffers may share a page (spec §2.4) but no byte: the host's writes to one would change what it has judged in
    /// another (design rule 1).
    pub fn validate(&self, byte_count: u32) -> Result<Layout, DeviceError> {
        if self.version != 0 {
            return Err(DeviceError::Version(self.version));
        }
        if self.operation_type != USER_REQUEST {
            return Err(DeviceError::Operation(self.operation_type));
        }
        if self.request_buffer_length == 0 || self.response_buffer_length == 0 {
            return Err(DeviceError::Empty);
        }
        if self.data_buffer_length != 0 && self.data_buffer_valid > self.data_buffer_length {
            return Err(DeviceError::Valid { valid: self.data_buffer_valid, length: self.data_buffer_length });
        }
        let data = match self.data_buffer_length {
            0 => (0, 0),
            length => (self.data_buffer_offset, length),
        };
        let request = (self.request_buffer_offset, self.request_buffer_length);
        let response = (self.response_buffer_offset, self.response_buffer_length);
        let buffers = [data, request, response];
        if buffers.iter().any(|buffer| buffer.1 > BYTES_MAX) || buffers.iter().map(pages).sum::<u64>() > 8192 {
            return Err(DeviceError::TooLarge);
        }
        for (offset, length) in buffers {
            if u64::from(offset) + u64::from(length) > u64::from(byte_count) {
                return Err(DeviceError::Outside { offset, length });
            }
        }
        if overlap(data, request) || overlap(data, response) || overlap(request, response) {
            return Err(DeviceError::Overlap);
        }
        let size = |(offset, length): (u32, u32)| (offset as usize, length as usize);
        Ok(Layout { data: size(data), request: size(request), response: size(response) })
    }

    /// Bytes of content: with no data buffer the field is ignored (spec §1.4).
    pub fn content_length(&self) -> u32 {
        if self.data_buffer_length == 0 { 0 } else { self.data_buffer_valid }
    }
}

fn pages(buffer: &(u32, u32)) -> u64 {
    (u64::from(buffer.0 % PAGE) + u64::from(buffer.1)).div_ceil(u64::from(PAGE))
}

fn overlap(one: (u32, u32), other: (u32, u32)) -> bool {
    let end = |buffer: (u32, u32)| u64::from(buffer.0) + u64::from(buffer.1);
    one.1 > 0 && other.1 > 0 && u64::from(one.0) < end(other) && u64::from(other.0) < end(one)
}

/// The response as it stands in a completion packet's payload; its length field is always 12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceResponse {
    /// Device status.
    pub error: u32,
    /// Bytes the host put into the response buffer, or with 0x8007007A the bytes it needs.
    pub response_len: u32,
}

impl DeviceResponse {
    /// Reads the first 12 bytes of a private copy of the payload (H23).
    pub fn parse(payload: &[u8]) -> Result<Self, DeviceError> {
        let short = DeviceError::Short { length: payload.len(), needed: RESPONSE_SIZE };
        let bytes: &[u8; RESPONSE_SIZE] = payload.first_chunk().ok_or(short)?;
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        Ok(Self { error: word(4), response_len: word(8) })
    }

    /// Writes the 12 bytes.
    pub fn encode(&self) -> [u8; RESPONSE_SIZE] {
        let mut bytes = [0; RESPONSE_SIZE];
        bytes[0..4].copy_from_slice(&(RESPONSE_SIZE as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.error.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.response_len.to_le_bytes());
        bytes
    }
}
