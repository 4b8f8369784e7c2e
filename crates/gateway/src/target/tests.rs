#![allow(clippy::unwrap_used)]

use super::*;

fn ask(method: &str, uri: &str, hosts: &[&str]) -> Result<Asked, Refusal> {
    let method: Method = method.parse().unwrap();
    let uri: Uri = uri.parse().unwrap();
    let mut headers = HeaderMap::new();
    for host in hosts {
        headers.append(HOST, host.parse().unwrap());
    }
    classify(&method, &uri, &headers)
}

fn target(text: &str) -> Target {
    Target::parse(text, None).unwrap()
}

#[test]
fn every_form_of_request_is_told_apart() {
    assert_eq!(ask("CONNECT", "pypi.org:443", &[]).unwrap(), Asked::Tunnel(target("pypi.org:443")));
    assert_eq!(ask("CONNECT", "[::1]:22", &[]).unwrap(), Asked::Tunnel(target("[::1]:22")));
    assert_eq!(ask("CONNECT", "gateway:80", &[]).unwrap(), Asked::OwnTunnel);
    assert_eq!(
        ask("GET", "http://deb.debian.org/x", &["other"]).unwrap(),
        Asked::Forward(target("deb.debian.org:80"))
    );
    assert_eq!(ask("GET", "http://a.example:8080/", &[]).unwrap(), Asked::Forward(target("a.example:8080")));
    assert_eq!(ask("POST", "http://gateway/anthropic/v1/messages", &[]).unwrap(), Asked::Own);
    assert_eq!(ask("POST", "/anthropic/v1/messages", &["gateway"]).unwrap(), Asked::Own);
    assert_eq!(ask("GET", "/", &["Gateway:80"]).unwrap(), Asked::Own);
}

#[test]
fn what_could_mean_two_things_is_refused() {
    for (method, uri, hosts, why) in [
        ("CONNECT", "pypi.org:0", &[][..], "port"),
        ("CONNECT", "gateway:443", &[], "plain HTTP on port 80"),
        ("CONNECT", "me@pypi.org:443", &[], "user names"),
        ("CONNECT", "0x7f.1:80", &[], "not an address"),
        ("CONNECT", "127.1:80", &[], "not an address"),
        ("GET", "https://pypi.org/", &[], "use CONNECT"),
        ("GET", "http://me:pw@pypi.org/", &[], "user names"),
        ("GET", "/", &[], "names no host"),
        ("GET", "/", &["pypi.org"], "this is a proxy"),
        ("GET", "/", &["gateway", "gateway"], "not one host"),
        ("GET", "/", &["gateway, pypi.org"], "letters, digits"),
    ] {
        let refusal = ask(method, uri, hosts).expect_err(uri);
        assert!(refusal.detail.contains(why), "{method} {uri} {hosts:?}: {}", refusal.detail);
    }
}

#[test]
fn a_request_inside_a_tunnel_is_for_the_tunnels_host() {
    let tunnel = target("api.example:443");
    let check = |uri: &str, host: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(HOST, host.parse().unwrap());
        }
        inside(&uri.parse().unwrap(), &headers, &tunnel)
    };
    assert!(check("/x", Some("API.example")).is_ok());
    assert!(check("/x", Some("api.example:443")).is_ok());
    assert!(check("https://api.example/x", None).is_ok());
    assert_eq!(check("/x", Some("evil.example")).unwrap_err().status, 421);
    assert_eq!(check("/x", Some("api.example:80")).unwrap_err().status, 421);
    assert_eq!(check("https://evil.example/", Some("api.example")).unwrap_err().status, 421);
    assert!(check("/x", None).is_err());
}
