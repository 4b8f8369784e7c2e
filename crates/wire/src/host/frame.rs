//! The frames of an attached terminal: one byte of type, four of length (big endian), then the payload.
//!
//! A viewer sends `Data` (keys) and `Resize`; the host sends `Offset` (where the following data starts in the
//! terminal's output; first thing on every attach and again after a gap), `Data`, `Resize` (somebody else resized) and, last,
//! `Exit`. The codec is pure: bytes in, frames out, no reading of its own.

use super::exec::Exit;

/// Payload bytes of one frame. Larger data is several frames.
pub const FRAME_BYTES: usize = 256 * 1024;
const HEADER: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Data(Vec<u8>),
    Resize { cols: u16, rows: u16 },
    Offset(u64),
    Exit(Exit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    Type(u8),
    Long(u32),
    Payload(u8),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type(t) => write!(f, "there is no frame type {t}"),
            Self::Long(n) => write!(f, "a frame of {n} bytes is over the limit of {FRAME_BYTES}"),
            Self::Payload(t) => write!(f, "the payload of a frame of type {t} is malformed"),
        }
    }
}

impl std::error::Error for FrameError {}

const DATA: u8 = 0;
const RESIZE: u8 = 1;
const OFFSET: u8 = 2;
const EXIT: u8 = 3;

impl Frame {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Data(bytes) => {
                for chunk in bytes.chunks(FRAME_BYTES) {
                    header(out, DATA, chunk.len());
                    out.extend_from_slice(chunk);
                }
            }
            Self::Resize { cols, rows } => {
                header(out, RESIZE, 4);
                out.extend_from_slice(&cols.to_be_bytes());
                out.extend_from_slice(&rows.to_be_bytes());
            }
            Self::Offset(offset) => {
                header(out, OFFSET, 8);
                out.extend_from_slice(&offset.to_be_bytes());
            }
            Self::Exit(exit) => {
                let (kind, number) = match (exit.exit_code, exit.signal) {
                    (Some(code), _) => (0, code),
                    (None, Some(signal)) => (1, signal),
                    (None, None) => (2, 0),
                };
                header(out, EXIT, 5);
                out.push(kind);
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }

    /// Takes one frame off the front of `buffer`; None when it is not complete yet. A length over the limit is an
    /// error before its payload arrives.
    pub fn decode(buffer: &mut bytes::BytesMut) -> Result<Option<Self>, FrameError> {
        if buffer.len() < HEADER {
            return Ok(None);
        }
        let kind = buffer[0];
        let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]);
        if kind > EXIT {
            return Err(FrameError::Type(kind));
        }
        if length as usize > FRAME_BYTES {
            return Err(FrameError::Long(length));
        }
        if buffer.len() < HEADER + length as usize {
            return Ok(None);
        }
        let frame = buffer.split_to(HEADER + length as usize);
        let payload = &frame[HEADER..];
        Ok(Some(match kind {
            DATA => Self::Data(payload.to_vec()),
            RESIZE => {
                let p: [u8; 4] = payload.try_into().map_err(|_| FrameError::Payload(kind))?;
                Self::Resize {
                    cols: u16::from_be_bytes([p[0], p[1]]),
                    rows: u16::from_be_bytes([p[2], p[3]]),
                }
            }
            OFFSET => {
                Self::Offset(u64::from_be_bytes(payload.try_into().map_err(|_| FrameError::Payload(kind))?))
            }
            _ => {
                let p: [u8; 5] = payload.try_into().map_err(|_| FrameError::Payload(kind))?;
                let number = i32::from_be_bytes([p[1], p[2], p[3], p[4]]);
                Self::Exit(match p[0] {
                    0 => Exit { exit_code: Some(number), signal: None },
                    1 => Exit { exit_code: None, signal: Some(number) },
                    2 => Exit::default(),
                    _ => return Err(FrameError::Payload(kind)),
                })
            }
        }))
    }
}

fn header(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(&(length as u32).to_be_bytes());
}
