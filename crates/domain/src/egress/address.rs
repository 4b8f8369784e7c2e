//! Addresses no session may reach, whatever its policy: those that mean something on the machine or in its networks
//! and nothing on the internet.
//!
//! Judged after resolution, on the very address that is dialled. The ranges are those of IANA's special-purpose address
//! registries (RFC 6890 and its updates), and the metadata services of clouds that use an address outside them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::host::port_of;
use crate::{Code, Error};

const V4: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::UNSPECIFIED, 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "a cloud's metadata service"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local, where clouds have their metadata"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relays"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// Inside the global unicast range 2000::/3, and not global all the same.
const V6: &[(Ipv6Addr, u8, &str)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "protocol assignments, Teredo among them"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation"),
];

fn in_v4(address: Ipv4Addr, net: Ipv4Addr, bits: u8) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    u32::from(address) & mask == u32::from(net) & mask
}

fn in_v6(address: Ipv6Addr, net: Ipv6Addr, bits: u8) -> bool {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    u128::from(address) & mask == u128::from(net) & mask
}

fn reserved_v4(address: Ipv4Addr) -> Option<&'static str> {
    V4.iter().find(|(net, bits, _)| in_v4(address, *net, *bits)).map(|(.., what)| *what)
}

fn reserved_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = address.to_ipv4_mapped() {
        return reserved_v4(inner);
    }
    // NAT64 (RFC 6052) carries an IPv4 address to the internet: what counts is that one.
    if in_v6(address, Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96) {
        return reserved_v4(Ipv4Addr::from(u128::from(address) as u32));
    }
    if address.is_unspecified() || address.is_loopback() {
        return Some("loopback");
    }
    if address.is_multicast() {
        return Some("multicast");
    }
    if in_v6(address, Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7) {
        return Some("unique local");
    }
    if in_v6(address, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 9) {
        return Some("link-local or site-local");
    }
    if !in_v6(address, Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3) {
        return Some("reserved");
    }
    V6.iter().find(|(net, bits, _)| in_v6(address, *net, *bits)).map(|(.., what)| *what)
}

/// What the address is, where it is not one of the internet.
pub fn reserved(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => reserved_v4(address),
        IpAddr::V6(address) => reserved_v6(address),
    }
}

/// Reserved addresses an installation lets its sessions reach all the same: an address or a network, on one port or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    net: IpAddr,
    bits: u8,
    port: Option<u16>,
}

impl Exception {
    pub fn covers(&self, address: IpAddr, port: u16) -> bool {
        let within = match (self.net, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => in_v4(address, net, self.bits),
            (IpAddr::V6(net), IpAddr::V6(address)) => in_v6(address, net, self.bits),
            _ => false,
        };
        within && self.port.is_none_or(|p| p == port)
    }
}

/// Where packets to the address end up: an IPv4-mapped or NAT64 one (RFC 6052) carries another inside.
pub fn inner(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if in_v6(v6, Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96) => {
            IpAddr::V4(Ipv4Addr::from(u128::from(v6) as u32))
        }
        other => other,
    }
}

/// Whether an address may be dialled; what it is where not. `own` are those of the machine's interfaces: public or not, what
/// listens there means the machine.
pub fn guard(
    address: IpAddr,
    port: u16,
    own: &[IpAddr],
    exceptions: &[Exception],
) -> Result<(), &'static str> {
    let ours = || own.contains(&inner(address)).then_some("one of this machine's own");
    match reserved(address).or_else(ours) {
        Some(what) if !exceptions.iter().any(|e| e.covers(address, port)) => Err(what),
        _ => Ok(()),
    }
}

fn refuse(text: &str, why: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(
        Code::InvalidField,
        format!("{shown:?}: {why}; write 10.0.0.0/8, 127.0.0.1:8443, fd00::/8 or [::1]:8443"),
    )
}

impl FromStr for Exception {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (body, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) =
                    rest.split_once(']').ok_or_else(|| refuse(text, "its bracket is not closed"))?;
                let (bits, port) = after.split_once(':').map_or((after, None), |(b, p)| (b, Some(p)));
                (format!("{inner}{bits}"), port)
            }
            None if text.matches(':').count() == 1 => {
                let (body, port) = text.split_once(':').unwrap_or((text, ""));
                (body.to_owned(), Some(port))
            }
            None => (text.to_owned(), None),
        };
        let port = match port {
            Some(digits) => {
                Some(port_of(digits).ok_or_else(|| refuse(text, "its port is not one of 1 to 65535"))?)
            }
            None => None,
        };
        let (net, bits) = body.split_once('/').map_or((body.as_str(), None), |(n, b)| (n, Some(b)));
        let net: IpAddr = net.parse().map_err(|_| refuse(text, "it does not begin with an address"))?;
        let most = if net.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) if !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit()) => {
                bits.parse::<u8>()
                    .ok()
                    .filter(|b| *b <= most)
                    .ok_or_else(|| refuse(text, &format!("an address of its kind has up to {most} bits")))?
            }
            Some(_) => return Err(refuse(text, "what follows its slash is not a number of bits")),
        };
        let whole = match net {
            IpAddr::V4(a) => {
                in_v4(a, a, bits)
                    && u32::from(a) & !u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0) == 0
            }
            IpAddr::V6(a) => u128::from(a) & !u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0) == 0,
        };
        if !whole {
            return Err(refuse(
                text,
                &format!("bits behind the first {bits} are set; a network ends in zeros"),
            ));
        }
        Ok(Self { net, bits, port })
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.net.is_ipv4() { 32 } else { 128 };
        let bits = if self.bits == most { String::new() } else { format!("/{}", self.bits) };
        match (self.port, self.net.is_ipv6()) {
            (Some(port), true) => write!(f, "[{}]{bits}:{port}", self.net),
            (Some(port), false) => write!(f, "{}{bits}:{port}", self.net),
            (None, _) => write!(f, "{}{bits}", self.net),
        }
    }
}
