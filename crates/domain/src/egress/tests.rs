#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proptest::prelude::*;

use super::address::{Exception, guard, reserved};
use super::rule::{Match, Placement, normal};
use super::{Egress, Host, Pattern, Policy, Target};

fn target(text: &str) -> Target {
    Target::parse(text, Some(443)).unwrap()
}

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

#[test]
fn patterns_match_what_they_say_and_nothing_near_it() {
    for (text, hits, misses) in [
        (
            "pypi.org",
            &["pypi.org", "PyPI.org", "pypi.org.", "pypi.org:80"][..],
            &["xpypi.org", "a.pypi.org", "pypi.org:8443"][..],
        ),
        (
            "*.debian.org",
            &["deb.debian.org", "a.b.debian.org:80"],
            &["debian.org", "evildebian.org", ".org", "debian.org.evil.example"],
        ),
        ("example.org:8443", &["example.org:8443"], &["example.org", "example.org:80"]),
        ("*.example.org:22", &["a.example.org:22"], &["a.example.org:443", "example.org:22"]),
        ("192.0.2.7", &["192.0.2.7", "[::ffff:192.0.2.7]:80"], &["192.0.2.70", "192.0.2.7:81"]),
        ("[2001:db8::1]:8080", &["[2001:DB8:0::1]:8080"], &["[2001:db8::1]:443", "[2001:db8::2]:8080"]),
        ("2001:db8::1", &["[2001:db8::1]:443"], &["[2001:db8::2]:443"]),
    ] {
        for hit in hits {
            assert!(pattern(text).matches(&target(hit)), "{text} should match {hit}");
        }
        for miss in misses {
            let Ok(miss) = Target::parse(miss, Some(443)) else { continue };
            assert!(!pattern(text).matches(&miss), "{text} should not match {miss}");
        }
    }
}

#[test]
fn what_is_no_pattern_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "empty"),
        ("*", "egress open"),
        ("*.", "empty"),
        ("a*.org", "a star stands only"),
        ("a.*.org", "a star stands only"),
        ("*.*.org", "a star stands only"),
        ("https://pypi.org", "without scheme"),
        ("pypi.org/simple", "without scheme"),
        ("me@pypi.org", "user names"),
        ("pypi.org:", "port"),
        ("pypi.org:0", "port"),
        ("pypi.org:65536", "port"),
        ("pypi.org:+80", "port"),
        ("pypi.org:*", "port"),
        ("bücher.example", "ASCII form"),
        ("a..org", "1 to 63"),
        ("pypi org", "letters, digits"),
        ("127.1", "not an address"),
        ("0x7f.1", "not an address"),
        ("0x7f000001", "not an address"),
        ("0177.0.0.1", "not an address"),
        ("2130706433", "not an address"),
        ("*.127.0.0.1", "below an address"),
        ("[::1", "bracket"),
        ("[::1]x", "bracket"),
        ("fe80::1%eth0", "IPv6"),
    ] {
        let error = text.parse::<Pattern>().expect_err(text);
        assert!(error.public.contains(why), "{text:?}: {}", error.public);
    }
}

#[test]
fn policies_say_what_to_change() {
    let none = Policy::default();
    let said = none.judge(&target("pypi.org")).unwrap_err();
    assert!(said.contains("egress is none") && said.contains("pypi.org"), "{said}");
    let some = Policy { egress: Egress::Allowlist, allow: vec![pattern("pypi.org")] };
    assert_eq!(some.judge(&target("pypi.org:443")), Ok(()));
    let said = some.judge(&target("example.org:8443")).unwrap_err();
    assert!(said.contains("add example.org:8443 to its network.allow"), "{said}");
    assert_eq!(Policy { egress: Egress::Open, allow: vec![] }.judge(&target("example.org:1")), Ok(()));
    let unread = Policy { egress: Egress::Open, allow: vec![pattern("pypi.org")] };
    assert_eq!(unread.check().unwrap_err().field.as_deref(), Some("network.allow"));
    let long = Policy { egress: Egress::Allowlist, allow: vec![pattern("pypi.org"); 257] };
    assert!(long.check().unwrap_err().public.contains("EGRESS_PATTERNS"));
}

#[test]
fn addresses_that_are_not_of_the_internet_are_refused() {
    for bad in [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "169.254.170.2",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.9",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::a00:1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:0:53aa:64c:0:fbff:6401:fe01",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "feb0::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "4000::1",
        "e000::1",
    ] {
        let address: IpAddr = bad.parse().unwrap();
        assert!(reserved(address).is_some(), "{bad} went through");
        assert!(guard(address, 443, &[], &[]).is_err(), "{bad} went through");
    }
    for good in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "151.101.0.223",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2a04:4e42::223",
        "64:ff9b::808:808",
        "::ffff:8.8.8.8",
    ] {
        assert_eq!(reserved(good.parse().unwrap()), None, "{good} was refused");
    }
}

#[test]
fn exceptions_open_what_they_name_and_no_more() {
    for (text, inside, outside) in [
        ("10.0.0.0/8", &["10.1.2.3:1"][..], &["11.0.0.1:1", "9.9.9.9:1"][..]),
        ("127.0.0.1:8443", &["127.0.0.1:8443"], &["127.0.0.1:443", "127.0.0.2:8443"]),
        ("[::1]:80", &["[::1]:80"], &["[::1]:81", "[::2]:80"]),
        ("fd00::/8", &["[fd12::1]:9"], &["[fc00::1]:9"]),
        ("[fd00::]/8:443", &["[fd12::1]:443"], &["[fd12::1]:80"]),
        ("192.168.7.7", &["192.168.7.7:5"], &["192.168.7.8:5"]),
        ("0.0.0.0/0", &["10.0.0.1:1", "[::ffff:10.0.0.1]:1"], &["[::1]:1"]),
        ("10.0.0.0/8:443", &["10.2.3.4:443"], &["10.2.3.4:80"]),
    ] {
        let exception: Exception = text.parse().unwrap();
        assert_eq!(exception.to_string(), text);
        let covers = |s: &str| {
            let at: std::net::SocketAddr = s.parse().unwrap();
            exception.covers(at.ip(), at.port())
        };
        assert!(inside.iter().all(|s| covers(s)), "{text}");
        assert!(!outside.iter().any(|s| covers(s)), "{text}");
    }
    for wrong in [
        "",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "fd00::/129",
        "host",
        "127.0.0.1:0",
        "[::1",
        "10.0.0.0/+8",
    ] {
        assert!(wrong.parse::<Exception>().is_err(), "{wrong:?} was taken");
    }
}

#[test]
fn a_path_that_could_mean_another_matches_nothing() {
    let to = |prefix: &str| Match::new(pattern("git.example"), vec![], Some(prefix.into())).unwrap();
    let acme = to("/acme");
    for hit in [
        "/acme",
        "/acme/",
        "/acme/app.git/info/refs",
        "/%61cme/x",
        "/acme/a%2Fb",
        "/acme//x",
        "/acme/..x",
        "/acme/a..b",
    ] {
        assert!(acme.covers("GET", hit), "{hit}");
    }
    for miss in [
        "/",
        "/acme-evil",
        "/other",
        "//acme",
        "/ACME",
        "/acme/../other",
        "/acme/..",
        "/acme/./x",
        "/acme/%2e%2e/other",
        "/acme/%2E./other",
        "/acme/..%2fother",
        "/acme/%252e%252e/other",
        "/acme/%25252e%25252e/x",
        "/acme\\..\\other",
        "/acme/..;/other",
        "/acme/..;a=b/other",
        "/acme/%2e%2e%5cother",
        "/acme/\u{7f}",
        "/acme/%00",
        "/acme/ä",
    ] {
        assert!(!acme.covers("GET", miss), "{miss}");
    }
    assert!(to("/acme/").covers("GET", "/acme/x") && !to("/acme/").covers("GET", "/acme"));
    for wrong in ["acme", "", "/a/../b", "/a?b", "/%61", "/a#b"] {
        let made = Match::new(pattern("git.example"), vec![], Some(wrong.into()));
        assert_eq!(made.unwrap_err().field.as_deref(), Some("match.path_prefix"), "{wrong}");
    }
}

#[test]
fn methods_narrow_and_trace_never_counts() {
    let get = Match::new(pattern("api.example"), vec!["get".into(), "GET".into()], None).unwrap();
    assert_eq!(get.methods, ["GET"]);
    assert!(get.covers("GET", "/x/../y"), "without a prefix every path is meant");
    assert!(!get.covers("POST", "/") && !get.covers("TRACE", "/"));
    assert!(Match::new(pattern("api.example"), vec!["G ET".into()], None).is_err());
    assert!(Match::new(pattern("api.example"), vec!["CONNECT".into()], None).is_err());
}

#[test]
fn credentials_stand_only_where_they_break_nothing() {
    assert!(matches!(
        Placement::header("Authorization", "Bearer ".into()),
        Ok(Placement::Header { name, .. }) if name == "authorization"
    ));
    for wrong in ["", "a b", "Host", "content-length", "Transfer-Encoding", "x\n"] {
        assert!(Placement::header(wrong, String::new()).is_err(), "{wrong:?}");
    }
    assert!(Placement::header("x-key", "a\r\nb: ".into()).is_err());
    assert!(Placement::basic("a:b".into()).is_err() && Placement::basic(String::new()).is_ok());
    assert!(Placement::query(String::new()).is_err());
}

#[test]
fn the_narrowest_connection_comes_first() {
    let of =
        |host: &str, path: Option<&str>| Match::new(pattern(host), vec![], path.map(Into::into)).unwrap();
    let mut all = [
        of("*.example.org", None),
        of("git.example.org", None),
        of("git.example.org", Some("/a")),
        of("*.a.example.org", None),
    ];
    all.sort_by_key(|m| std::cmp::Reverse(m.rank()));
    let shown: Vec<_> = all.iter().map(|m| (m.host.to_string(), m.path_prefix.is_some())).collect();
    assert_eq!(shown[0], ("git.example.org".to_owned(), true));
    assert_eq!(shown[1], ("git.example.org".to_owned(), false));
    assert_eq!(shown[2], ("*.a.example.org".to_owned(), false));
}

proptest! {
    #[test]
    fn a_host_that_is_taken_reads_the_same_again(text in ".{0,40}") {
        if let Ok(host) = text.parse::<Host>() {
            prop_assert_eq!(host.to_string().parse::<Host>().unwrap(), host);
        }
    }

    #[test]
    fn a_target_that_is_taken_reads_the_same_again(text in "[a-z0-9.:\\[\\]@-]{0,30}") {
        if let Ok(target) = Target::parse(&text, Some(80)) {
            prop_assert_eq!(Target::parse(&target.to_string(), None).unwrap(), target);
        }
    }

    #[test]
    fn a_pattern_reads_the_same_again(text in "(\\*\\.)?[a-z0-9.-]{1,20}(:[0-9]{1,6})?") {
        if let Ok(pattern) = text.parse::<Pattern>() {
            prop_assert_eq!(pattern.to_string().parse::<Pattern>().unwrap(), pattern);
        }
    }

    #[test]
    fn names_below_a_wildcard_end_in_it(name in "[a-z]{1,8}(\\.[a-z]{1,8}){0,4}") {
        let hit = pattern("*.ab.c").matches(&target(&name));
        prop_assert_eq!(hit, name.ends_with(".ab.c"));
    }

    #[test]
    fn a_normal_path_stays_normal(path in "(/[a-z%.~0-9A-F;]{0,6}){1,4}") {
        if let Some(path) = normal(&path) {
            prop_assert_eq!(normal(&path), Some(path));
        }
    }
}
