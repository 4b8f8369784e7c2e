//! Netlink messages, put together and sent without a library: a jail's network is a dozen fixed messages.
//!
//! It only builds, sends and reads acknowledgements; it never parses what the kernel tells about its state.

use std::io;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
pub const EXCL: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
/// `NLMSG_ERROR`: an acknowledgement is one with the number 0.
const ERROR: u16 = 2;
const HEADER: usize = 16;

/// Messages that travel together; each is numbered by its place.
#[derive(Clone, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
    /// Which of them are answered even when all is well.
    acknowledged: u32,
}

impl Batch {
    /// A message that is acknowledged.
    pub fn asked(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) {
        self.acknowledged += 1;
        self.message(kind, flags | ACK, body);
    }

    /// A message that only answers when it was refused.
    pub fn told(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) {
        self.message(kind, flags, body);
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) {
        let at = self.bytes.len();
        self.bytes.extend(0u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0u32.to_ne_bytes());
        body(&mut Body(&mut self.bytes));
        let length = (self.bytes.len() - at) as u32;
        self.bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
        pad(&mut self.bytes);
        self.count += 1;
    }

    /// Sends all and answers which message was refused first, and why. Those after it may have been carried out.
    pub fn send(&self, protocol: Option<Protocol>) -> Result<(), (u32, io::Error)> {
        let before = |error: rustix::io::Errno| (0, error.into());
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                .map_err(before)?;
        rustix::net::send(&socket, &self.bytes, SendFlags::empty()).map_err(before)?;
        let mut missing = self.acknowledged;
        let mut buffer = [0u8; 4096];
        while missing > 0 {
            // The kernel has answered before the call above returned.
            let (n, _) = rustix::net::recv(&socket, &mut buffer, RecvFlags::DONTWAIT).map_err(before)?;
            let mut rest = &buffer[..n];
            while rest.len() >= HEADER + 4 {
                let word =
                    |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
                let (length, number, error) = (word(0) as usize, word(8), word(HEADER) as i32);
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                if kind == ERROR {
                    if error != 0 {
                        return Err((number, io::Error::from_raw_os_error(-error)));
                    }
                    missing = missing.saturating_sub(1);
                }
                rest = rest.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What follows a message's header: its own structure, then attributes.
pub struct Body<'a>(&'a mut Vec<u8>);

impl Body<'_> {
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.0.extend(((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        pad(self.0);
        self
    }

    /// A number in the order of the network, as the packet filter has them.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Body<'_>)) -> &mut Self {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        inside(&mut Body(self.0));
        let length = (self.0.len() - at) as u16;
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        pad(self.0);
        self
    }
}
