#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{PortHost, PortHosts};
use crate::{Name, NameOrId, SessionId};

fn hosts(text: &str) -> PortHosts {
    text.parse().unwrap()
}

#[test]
fn a_pattern_is_scheme_domain_and_port() {
    for text in ["https://*.ports.example.com", "http://*.localhost:7878", "https://*.a.b:8443"] {
        assert_eq!(hosts(text).to_string(), text);
    }
    assert_eq!(hosts("https://*.example.com:443/").to_string(), "https://*.example.com");
    for (text, why) in [
        ("ports.example.com", "http://"),
        ("ftp://*.example.com", "http://"),
        ("https://ports.example.com", "`*.`"),
        ("https://*.", "labels"),
        ("https://*.Example.com", "lower-case"),
        ("https://*.example.com:", "no port"),
        ("https://*.example.com:0", "no port"),
        ("https://*.example.com:+80", "no port"),
        ("https://*.example.com/x", "labels"),
    ] {
        let error = text.parse::<PortHosts>().unwrap_err();
        assert!(error.public.contains(why), "{text}: {}", error.public);
    }
}

#[test]
fn host_names_are_read() {
    let hosts = hosts("http://*.ports.test:7878");
    let read = |host: &str| hosts.read(host);
    let name = |text: &str| -> Name { text.parse().unwrap() };
    let wanted =
        PortHost { port: 8000, session: NameOrId::Name(name("my-web")), space: NameOrId::Name(name("lab")) };
    for host in
        ["8000-my-web.lab.ports.test", "8000-MY-web.Lab.Ports.test:7878", "8000-my-web.lab.ports.test."]
    {
        assert_eq!(read(host).as_ref(), Some(&wanted), "{host}");
    }
    for other in [
        "ports.test",
        ".ports.test",
        "lab.ports.test",
        "web.lab.ports.test",
        "0-web.lab.ports.test",
        "080-web.lab.ports.test",
        "65536-web.lab.ports.test",
        "8000-.lab.ports.test",
        "8000-a.b.lab.ports.test",
        "8000-web.lab.xports.test",
        "8000-web.labports.test",
        "8000-web.lab.ports.test.evil",
        "",
    ] {
        assert_eq!(read(other), None, "{other}");
    }
    assert!(
        hosts.covers("anything.ports.test:1") && !hosts.covers("ports.test") && !hosts.covers("xports.test")
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(port in 1..=u16::MAX, session in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        space in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
        let hosts = hosts("https://*.ports.example.com");
        let (name, id): (Name, _) = (session.parse().unwrap(), SessionId::new());
        let host = hosts.host(port, (&name, id), &space.parse().unwrap());
        prop_assert!(host.split('.').all(|label| label.len() <= 63));
        let read = hosts.read(&host).unwrap();
        prop_assert_eq!(read.port, port);
        prop_assert!(read.session == NameOrId::Name(name) || read.session == NameOrId::Id(id));
        prop_assert_eq!(read.space.to_string(), space);
    }

    #[test]
    fn whatever_stands_in_a_host_header_is_read_or_not(host in ".{0,80}(\\.ports\\.test)?") {
        let hosts = hosts("http://*.ports.test");
        if let Some(read) = hosts.read(&host) {
            prop_assert!(read.port > 0 && hosts.covers(&host));
        }
    }
}
