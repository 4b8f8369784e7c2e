#![allow(clippy::unwrap_used)]

use super::*;

fn read(text: &str) -> (String, String) {
    let remote: Remote = text.parse().unwrap();
    (remote.fetch, remote.host.to_string())
}

#[test]
fn an_address_is_fetched_as_it_stands_and_its_host_is_what_is_reached() {
    let (fetch, host) = read("https://git.example.com/team/agent.git");
    assert_eq!(
        (fetch.as_str(), host.as_str()),
        ("https://git.example.com/team/agent.git", "git.example.com:443")
    );
    let (fetch, host) = read("http://files.test:8080/git/agent.git");
    assert_eq!((fetch.as_str(), host.as_str()), ("http://files.test:8080/git/agent.git", "files.test:8080"));
}

#[test]
fn an_ssh_address_is_fetched_over_ssh_from_the_port_it_names() {
    for (text, reached) in [
        ("git@example.com:team/agent.git", "example.com:22"),
        ("example.com:/srv/agent.git", "example.com:22"),
        ("git@[2001:db8::1]:agent.git", "[2001:db8::1]:22"),
        ("ssh://git@example.com/team/agent.git", "example.com:22"),
        ("ssh://example.com:2222/~me/agent.git", "example.com:2222"),
        ("ssh://git@[2001:db8::1]:2222/agent.git", "[2001:db8::1]:2222"),
    ] {
        assert_eq!(read(text), (text.to_owned(), reached.to_owned()));
    }
}

#[test]
fn what_is_no_repository_elsewhere_or_holds_a_credential_is_refused_without_repeating_it() {
    for text in [
        "",
        "agent",
        "../agent",
        "/srv/git/agent.git",
        "./a:b",
        "file:///srv/agent.git",
        "ext::sh -c x",
        "https://",
        "https://example.com",
        "https://example.com/",
        "https:///x.git",
        "https://*.example.com/x.git",
        "https://user:geheim@example.com/x.git",
        "https://geheim@example.com/x.git",
        "ssh://user:geheim@example.com/x.git",
        "https://example.com/x.git#main",
        "https://example.com/x.git?token=geheim",
        "https://example.com/a b",
        "ftp://example.com/x.git",
        ":x",
        "ssh://git@example.com",
        "ssh://git@example.com/",
        "ssh://git@example.com:port/x.git",
        "ssh://git@*.example.com/x.git",
        "git:geheim@example.com:x.git",
        "git@[example.com:2222]:x.git",
        "ext::sh",
        "git@example.com:",
        "git@example.com:-x",
        "-oProxyCommand=geheim:x",
        "-x@example.com:x",
        "git@-example.com:x",
        "git+ssh://git@example.com/x.git",
    ] {
        let error = text.parse::<Remote>().unwrap_err();
        assert_eq!(error.code, Code::InvalidField, "{text}");
        assert!(!error.public.contains("geheim"), "{}", error.public);
    }
}

#[test]
fn refs_are_branches_tags_and_commits() {
    for text in ["main", "v1.2", "release/2026", "0a1b2c3", "HEAD"] {
        check_ref(text).unwrap();
    }
    for text in ["", "--upload-pack=x", "a b", "a..b", "main~1", "a:b", "x\n"] {
        assert!(check_ref(text).is_err(), "{text}");
    }
}
