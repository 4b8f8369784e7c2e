//! Text that comes in with requests: what is accepted is shown as it was given, and means the same again.
#![no_main]

use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use wharf_domain::port_host::PortHosts;
use wharf_domain::range::{ByteRange, Part};
use wharf_domain::{Name, NameOrId, Selector, SessionId};

fuzz_target!(|text: &str| {
    if let Ok(name) = Name::from_str(text) {
        assert_eq!(name.as_str(), text);
        assert!(!text.contains(['/', '.', '\0']) && text.len() <= 63);
    }
    match NameOrId::<SessionId>::from_str(text) {
        Ok(NameOrId::Name(name)) => assert_eq!(name.as_str(), text),
        Ok(NameOrId::Id(id)) => assert!(id.to_string().eq_ignore_ascii_case(text)),
        Err(error) => assert!(error.to_string().len() < 4096),
    }
    let hosts: PortHosts = "https://*.ports.example.com".parse().expect("a pattern");
    if let Some(host) = hosts.read(text) {
        assert!(host.port > 0 && hosts.covers(text));
    }
    if let Ok(pattern) = PortHosts::from_str(text) {
        assert_eq!(PortHosts::from_str(&pattern.to_string()).ok(), Some(pattern));
    }
    if let Some(range) = ByteRange::parse(text) {
        for length in [0, 1, 1 << 20, u64::MAX] {
            if let Part::Bytes { first, last } = range.of(length) {
                assert!(first <= last && last < length);
            }
        }
    }
    if let Ok(selector) = Selector::from_str(text) {
        let _ = format!("{selector:?}");
    }
});
