//! Which key of the X server's keyboard makes which character, and how characters that no key makes get one.
//!
//! Keys that mean nothing are given the characters that are missing, all of a text at once, and keep them: a program that is slow to
//! read its keys then never reads one with a meaning it did not have when it was struck. Only when there are no more,
//! the one not used for longest gets a new meaning.

use std::collections::BTreeMap;

/// As the server tells it: `width` keysyms for each key from `first` on.
pub struct Keymap {
    first: u8,
    width: usize,
    keysyms: Vec<u32>,
}

/// How to make a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub code: u8,
    pub shift: bool,
}

impl Keymap {
    pub fn new(first: u8, width: u8, keysyms: Vec<u32>) -> Self {
        Self { first, width: usize::from(width).max(1), keysyms }
    }

    fn keys(&self) -> impl Iterator<Item = (u8, &[u32])> {
        let first = self.first;
        self.keysyms
            .chunks_exact(self.width)
            .enumerate()
            .filter_map(move |(n, k)| Some((first.checked_add(u8::try_from(n).ok()?)?, k)))
    }

    /// The key that makes `keysym`, without shift if there is one.
    pub fn find(&self, keysym: u32) -> Option<Key> {
        let level = |level: usize| {
            self.keys()
                .find(|(_, keysyms)| keysyms.get(level) == Some(&keysym))
                .map(|(code, _)| Key { code, shift: level == 1 })
        };
        level(0).or_else(|| level(1))
    }

    /// Keys that mean nothing.
    pub fn spare(&self) -> Vec<u8> {
        self.keys().filter(|(_, keysyms)| keysyms.iter().all(|k| *k == 0)).map(|(code, _)| code).collect()
    }

    fn set(&mut self, code: u8, keysym: u32) {
        let start = usize::from(code - self.first) * self.width;
        if let Some(key) = self.keysyms.get_mut(start..start + self.width) {
            key.fill(0);
            key[0] = keysym;
            if let Some(second) = key.get_mut(1) {
                *second = keysym;
            }
        }
    }
}

/// Keys this host has given a meaning, the one not used for longest first.
#[derive(Default)]
pub struct Given(Vec<(u8, u32)>);

impl Given {
    /// The keyboard is another.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Gives keys to those of `wanted` that have none, as many as can have one at once. Answers how many of `wanted`
    /// can be typed now, and the keys to be changed.
    pub fn give(&mut self, map: &mut Keymap, wanted: &[u32]) -> (usize, BTreeMap<u8, u32>) {
        // Whatever somebody else has changed meanwhile is not ours any more.
        self.0.retain(|(code, keysym)| map.find(*keysym).is_some_and(|k| k.code == *code));
        let mut spare = map.spare();
        let mut changes = BTreeMap::new();
        let mut needed = Vec::new();
        for (n, keysym) in wanted.iter().enumerate() {
            if let Some(at) = self.0.iter().position(|(_, k)| k == keysym) {
                let known = self.0.remove(at);
                needed.push(known.0);
                self.0.push(known);
                continue;
            }
            if map.find(*keysym).is_some() {
                continue;
            }
            let oldest = || self.0.iter().position(|(code, _)| !needed.contains(code));
            let code = match spare.pop() {
                Some(code) => code,
                None => match oldest() {
                    Some(at) => self.0.remove(at).0,
                    None => return (n, changes),
                },
            };
            map.set(code, *keysym);
            changes.insert(code, *keysym);
            needed.push(code);
            self.0.push((code, *keysym));
        }
        (wanted.len(), changes)
    }
}
