#![allow(clippy::unwrap_used)]

use http::header::ACCEPT;

use super::*;

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in lines {
        all.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    all
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut all: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
    all.sort();
    all
}

#[test]
fn what_is_about_the_connection_and_what_callers_claim_stays_outside() {
    let mut all = headers(&[
        ("host", "api.test"),
        ("connection", "keep-alive, X-Private"),
        ("keep-alive", "timeout=5"),
        ("x-private", "1"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("proxy-authorization", "Basic x"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "gopher"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("expect", "100-continue"),
        ("accept", "text/html"),
        ("x-custom", "stays"),
    ]);
    let came = Came {
        host: "localhost:8000".parse().unwrap(),
        asked: Some("api.test".parse().unwrap()),
        https: true,
        from: Some([127, 0, 0, 7].into()),
        prefix: Some("/v1/p"),
    };
    inward(&mut all, &came);
    assert_eq!(
        lines(&all),
        [
            "accept: text/html",
            "host: localhost:8000",
            "te: trailers",
            "x-custom: stays",
            "x-forwarded-for: 127.0.0.7",
            "x-forwarded-host: api.test",
            "x-forwarded-prefix: /v1/p",
            "x-forwarded-proto: https",
        ]
    );
}

#[test]
fn an_upgrade_is_one_only_when_the_connection_says_so() {
    let asked = |lines: &[(&str, &str)], version| upgrade_of(&headers(lines), version);
    let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    assert_eq!(asked(&websocket, Version::HTTP_11).unwrap(), "websocket");
    assert_eq!(asked(&websocket, Version::HTTP_2), None);
    assert_eq!(asked(&[("upgrade", "websocket")], Version::HTTP_11), None);
    assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", "h2c")], Version::HTTP_11), None);
}

#[test]
fn cookies_of_wharf_are_taken_out_and_the_programs_stay() {
    let mut all = headers(&[("cookie", "a=1; own=token; b=2"), ("cookie", "c=own=3")]);
    assert_eq!(cookie(&all, "own"), Some("token"));
    assert_eq!(cookie(&all, "c"), Some("own=3"));
    assert_eq!(cookie(&all, "d"), None);
    without_cookies(&mut all, &["own"]);
    assert_eq!(lines(&all), ["cookie: a=1; b=2; c=own=3"]);
    let mut only = headers(&[("cookie", "own=token")]);
    without_cookies(&mut only, &["own"]);
    assert!(only.is_empty());
    let mut both = headers(&[("cookie", "a=1"), ("authorization", "Bearer x"), ("accept", "*/*")]);
    without_credentials(&mut both);
    assert_eq!(both.len(), 1);
    assert!(both.contains_key(ACCEPT));
}

#[test]
fn an_answer_at_the_apis_address_cannot_act_on_it() {
    let mut all = headers(&[
        ("set-cookie", "session=evil"),
        ("clear-site-data", "\"*\""),
        ("strict-transport-security", "max-age=1"),
        ("alt-svc", "h3=\":443\""),
        ("service-worker-allowed", "/"),
        ("content-security-policy", "default-src 'self'"),
        ("connection", "close"),
        ("content-type", "text/html"),
    ]);
    outward_by_path(&mut all, "/p", 8000);
    let left = lines(&all);
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().any(|l| l.contains("sandbox")) && left.iter().any(|l| l.contains("default-src")));
}

#[test]
fn redirects_within_the_program_stay_within_it() {
    for (location, wanted) in [
        ("/next?x=1", Some("/p/next?x=1")),
        ("http://localhost:8000/a", Some("/p/a")),
        ("HTTP://127.0.0.1:8000", Some("/p/")),
        ("http://localhost:9000/a", None),
        ("http://example.com/a", None),
        ("https://example.com:8000/a", None),
        ("//example.com/a", None),
        ("next", None),
        ("?x", None),
    ] {
        assert_eq!(relocated(location, "/p", 8000).as_deref(), wanted, "{location}");
    }
}

#[test]
fn cookies_of_a_host_stay_with_it() {
    let mut all = headers(&[
        ("set-cookie", "a=1; Path=/; Domain=.ports.test; HttpOnly"),
        ("set-cookie", "b=2;domain=x"),
        ("set-cookie", "own=forged; Path=/"),
        ("set-cookie", "own"),
        ("set-cookie", "domain=fine"),
        ("alt-svc", "x"),
    ]);
    outward_by_host(&mut all, &["own"]);
    assert_eq!(
        lines(&all),
        ["set-cookie: a=1; Path=/; HttpOnly", "set-cookie: b=2", "set-cookie: domain=fine"]
    );
}

#[test]
fn a_page_is_framed_by_its_own_host_alone_whatever_its_program_says() {
    for (own, wanted) in [
        (vec![], vec!["content-security-policy: frame-ancestors 'self'"]),
        (
            vec![("content-security-policy", "default-src 'self'; frame-ancestors *")],
            vec![
                "content-security-policy: default-src 'self'; frame-ancestors *",
                "content-security-policy: frame-ancestors 'self'",
            ],
        ),
        (
            vec![("x-frame-options", "DENY")],
            vec!["content-security-policy: frame-ancestors 'none'", "x-frame-options: DENY"],
        ),
        (
            vec![("x-frame-options", "SAMEORIGIN")],
            vec!["content-security-policy: frame-ancestors 'self'", "x-frame-options: SAMEORIGIN"],
        ),
    ] {
        let mut all = headers(&own);
        framed_by_itself(&mut all);
        let mut said = lines(&all);
        said.sort();
        assert_eq!(said, wanted);
    }
}
