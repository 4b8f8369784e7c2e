#![allow(clippy::unwrap_used)]

use super::*;

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

#[test]
fn headers_of_one_hop_end_there() {
    let mut all = headers(&[
        ("connection", "keep-alive, X-Private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic aaa"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("accept", "*/*"),
        ("x-public", "2"),
    ]);
    strip(&mut all);
    let mut left: Vec<_> = all.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["accept", "x-public"]);
    let mut grpc = headers(&[("te", "trailers")]);
    strip(&mut grpc);
    assert_eq!(grpc["te"], "trailers");
}

#[test]
fn an_upgrade_counts_only_when_the_connection_says_so() {
    assert_eq!(upgrade_of(&headers(&[("upgrade", "websocket")])), None);
    assert_eq!(
        upgrade_of(&headers(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")])).unwrap(),
        "websocket"
    );
}

#[test]
fn addresses_name_a_port_only_where_it_is_not_the_schemes_own() {
    let to = |scheme: Scheme, target: &str, path: &'static str| {
        absolute(scheme, &Target::parse(target, None).unwrap(), Some(PathAndQuery::from_static(path)))
            .unwrap()
            .to_string()
    };
    assert_eq!(to(Scheme::HTTPS, "a.example:443", "/x?y"), "https://a.example/x?y");
    assert_eq!(to(Scheme::HTTP, "a.example:443", "/"), "http://a.example:443/");
    assert_eq!(to(Scheme::HTTP, "[2606:4700::1]:80", "/"), "http://[2606:4700::1]/");
}
