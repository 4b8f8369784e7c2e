//! What the session takes and where it listens, read from `/proc` when asked; nothing is sampled in between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wharf_wire::host::{Port, Ports, Stats};

use crate::egress;
use crate::fault::Result;
use crate::host::Host;
use crate::reply::{self, Reply};
use crate::tree;

pub fn stats(host: &Host) -> Result<Reply> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let page = rustix::param::page_size() as u64;
    let tick_ms = 1000 / rustix::param::clock_ticks_per_second().max(1);
    let all = tree::below(&tree::all(), own);
    let living = || all.iter().filter(|p| !p.zombie);
    reply::json(&Stats {
        processes: living().count() as u64,
        threads: living().map(|p| p.threads).sum(),
        rss_bytes: living().map(|p| p.rss_pages * page).sum(),
        host_rss_bytes: all.iter().find(|p| p.pid == own).map_or(0, |p| p.rss_pages * page),
        cpu_ms: living().map(|p| p.ticks * tick_ms).sum(),
        host_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |d| d.count() as u64),
        uptime_ms: host.started.elapsed().as_millis() as u64,
    })
}

pub fn ports() -> Result<Reply> {
    let mut ports = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        if let Ok(text) = std::fs::read_to_string(table) {
            ports.extend(
                text.lines()
                    .skip(1)
                    .filter_map(parse_listener)
                    .filter(|p| !(egress::expected() && egress::is_own(p.address, p.port))),
            );
        }
    }
    ports.sort_unstable();
    ports.dedup();
    reply::json(&Ports { ports })
}

/// A line of proc_net_tcp(5), if it is a listening socket. Addresses are in host byte order, four bytes at a time.
pub fn parse_listener(line: &str) -> Option<Port> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(Port { port: u16::from_str_radix(port, 16).ok()?, address, uid: fields.get(7)?.parse().ok()? })
}
