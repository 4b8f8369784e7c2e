//! Which name an address of the session's own range stands for.
//!
//! An address is not used again before all the others were, so that a program that remembers one for long reaches what it
//! meant or nothing, and never somebody else.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// 198.18.0.0/15, set aside by RFC 2544 for networks that are closed in themselves.
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const SIZE: u32 = 1 << 17;
/// The network's own, and the session's.
const RESERVED: u32 = 2;
/// Names kept; the one not asked for the longest goes first.
const KEPT: usize = 8192;

#[derive(Default)]
pub struct Names {
    by_name: HashMap<Arc<str>, u32>,
    by_address: HashMap<u32, (Arc<str>, u64)>,
    by_use: BTreeMap<u64, u32>,
    uses: u64,
    handed_out: u32,
}

impl Names {
    /// The address of a name, which has to be lower case.
    pub fn address(&mut self, name: &str) -> Ipv4Addr {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None => self.enter(name),
        };
        self.touch(at);
        Ipv4Addr::from_bits(FIRST + at)
    }

    /// The name of an address, if it is one of ours and has not been forgotten.
    pub fn name(&mut self, address: Ipv4Addr) -> Option<Arc<str>> {
        let at = address.to_bits().checked_sub(FIRST)?;
        let name = Arc::clone(&self.by_address.get(&at)?.0);
        self.touch(at);
        Some(name)
    }

    pub fn is_of_range(address: Ipv4Addr) -> bool {
        address.to_bits().checked_sub(FIRST).is_some_and(|at| at < SIZE)
    }

    fn enter(&mut self, name: &str) -> u32 {
        if self.by_name.len() >= KEPT
            && let Some((_, oldest)) = self.by_use.pop_first()
            && let Some((name, _)) = self.by_address.remove(&oldest)
        {
            self.by_name.remove(&name);
        }
        let at = loop {
            // The last of the range would be its broadcast address.
            let at = RESERVED + self.handed_out % (SIZE - RESERVED - 1);
            self.handed_out = self.handed_out.wrapping_add(1);
            if !self.by_address.contains_key(&at) {
                break at;
            }
        };
        let name: Arc<str> = name.into();
        self.by_name.insert(Arc::clone(&name), at);
        self.by_address.insert(at, (name, 0));
        at
    }

    fn touch(&mut self, at: u32) {
        let Some((_, used)) = self.by_address.get_mut(&at) else { return };
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, at);
    }
}

#[cfg(test)]
mod tests;
