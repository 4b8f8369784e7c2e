#![allow(clippy::unwrap_used)]

use http::Request;

use super::*;

fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn a_header_replaces_what_the_client_sent() {
    let mut head =
        head("https://api.example/", &[("authorization", "Bearer mine"), ("authorization", "again")]);
    let placement = Placement::header("Authorization", "Bearer ".into()).unwrap();
    put(&placement, &Plain::new("s3cret-value\n"), &mut head).unwrap();
    let all: Vec<_> = head.headers.get_all(AUTHORIZATION).iter().collect();
    assert_eq!(all, ["Bearer s3cret-value"]);
    assert!(all[0].is_sensitive());
    assert!(!format!("{:?}", head.headers).contains("s3cret"));
}

#[test]
fn a_secret_that_no_header_can_hold_is_refused_and_not_shown() {
    let mut head = head("https://api.example/", &[]);
    let placement = Placement::header("x-key", String::new()).unwrap();
    let why = put(&placement, &Plain::new("one\r\ntwo: three"), &mut head).err().unwrap();
    assert!(!why.contains("one"), "{why}");
    assert!(head.headers.is_empty());
}

#[test]
fn basic_is_user_and_secret() {
    let mut head = head("https://git.example/", &[]);
    put(&Placement::basic("x-access-token".into()).unwrap(), &Plain::new("tok"), &mut head).unwrap();
    let expected = format!("Basic {}", STANDARD.encode("x-access-token:tok"));
    assert_eq!(head.headers[AUTHORIZATION], expected.as_str());
}

#[test]
fn a_parameter_stands_once_whatever_the_client_wrote() {
    for (before, after) in [
        ("https://h/p", "/p?a%2Fkey=s%26%3D"),
        ("https://h/p?x=1&a%2fkey=mine&y", "/p?x=1&y&a%2Fkey=s%26%3D"),
        ("https://h/p?a/key&a%2Fkey=2", "/p?a%2Fkey=s%26%3D"),
        ("https://h", "/?a%2Fkey=s%26%3D"),
    ] {
        let mut head = head(before, &[]);
        put(&Placement::query("a/key".into()).unwrap(), &Plain::new("s&="), &mut head).unwrap();
        assert_eq!(head.uri.path_and_query().unwrap(), after, "{before}");
        assert_eq!(head.uri.host(), Some("h"));
    }
}

#[test]
fn an_answer_that_repeats_the_credential_is_cleaned() {
    let mut request = head("https://h/p", &[]);
    let hidden =
        put(&Placement::query("key".into()).unwrap(), &Plain::new("se/cret/1"), &mut request).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("location", HeaderValue::from_static("/p/?key=se%2Fcret%2F1&x=2"));
    headers.insert("x-echo", HeaderValue::from_static("se/cret/1se/cret/1"));
    headers.insert("x-other", HeaderValue::from_static("untouched"));
    hidden.clean(&mut headers);
    assert_eq!(headers["location"], "/p/?key=hidden&x=2");
    assert_eq!(headers["x-echo"], "hiddenhidden");
    assert_eq!(headers["x-other"], "untouched");
}
