//! One call: what is repeated, what is not, and what an error says.

use std::time::{Duration, Instant};

use serde_json::{Value, json as value};
use wharf_client::{Error, FileTarget, Method, Patience};
use wharf_domain::Code;
use wharf_wire::api;

use crate::peer::{Answer, Peer, json, problem, quick};

#[tokio::test]
async fn a_problem_arrives_with_its_code_detail_and_request_id() {
    let peer = Peer::script(vec![problem(404, "not_found", false, vec![])]).await;
    let error = peer.client().spaces().get("lab").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(error.request_id(), Some("req-1"));
    assert_eq!(error.to_string(), "what is wrong");
    assert_eq!(peer.seen().len(), 1, "a lasting problem is not asked about twice");
}

#[tokio::test]
async fn a_code_of_a_newer_server_and_a_bare_answer_of_a_proxy_are_problems_too() {
    let peer = Peer::script(vec![
        problem(418, "brand_new", false, vec![]),
        Answer::Plain(404, vec![("x-request-id", "r9".into())], b"<html>nope</html>".to_vec()),
    ])
    .await;
    match peer.client().spaces().get("a").await.unwrap_err() {
        Error::Problem(p) => assert_eq!((p.code, p.code_text.as_str(), p.status), (None, "brand_new", 418)),
        other => panic!("{other:?}"),
    }
    let error = peer.client().spaces().get("b").await.unwrap_err();
    assert_eq!((error.code(), error.request_id()), (Some(Code::NotFound), Some("r9")));
    assert!(error.to_string().contains("404") && !error.to_string().contains("html"), "{error}");
}

#[tokio::test]
async fn a_read_is_repeated_while_a_dependency_is_away_and_waits_as_long_as_asked() {
    let peer = Peer::script(vec![
        problem(503, "unavailable", true, vec![("retry-after", "1".into())]),
        json(200, &value!({"name": "wharf", "version": "1", "api": "v1"})),
    ])
    .await;
    let began = Instant::now();
    assert_eq!(peer.client().version().await.unwrap().version, "1");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_wait_longer_than_patience_is_the_callers_to_see() {
    let peer =
        Peer::script(vec![problem(429, "rate_limited", true, vec![("retry-after", "3600".into())])]).await;
    match peer.client().version().await.unwrap_err() {
        Error::Problem(p) => assert_eq!(p.retry_after, Some(Duration::from_secs(3600))),
        other => panic!("{other:?}"),
    }
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn a_post_is_repeated_with_the_same_key_and_body() {
    let peer = Peer::script(vec![
        Answer::Cut(Vec::new()),
        problem(409, "in_progress", true, vec![]),
        json(200, &value!({"allowed": true, "reason": "r"})),
    ])
    .await;
    let body = value!({"verb": "get", "group": "core", "resource": "spaces"});
    let review = peer.client().access_review(&serde_json::from_value(body.clone()).unwrap()).await.unwrap();
    assert!(review.allowed);
    let seen = peer.seen();
    assert_eq!(seen.len(), 3);
    let keys: std::collections::BTreeSet<_> =
        seen.iter().map(|r| r.header("idempotency-key").unwrap()).collect();
    assert_eq!(keys.len(), 1);
    assert!(seen.iter().all(|r| serde_json::from_slice::<Value>(&r.body).unwrap() == body));
    let other = peer.client().auth().login(&"a".parse().unwrap(), "p").await;
    assert!(other.is_err());
    assert!(
        !keys.contains(peer.seen()[3].header("idempotency-key").unwrap()),
        "each call has a key of its own"
    );
}

#[tokio::test]
async fn what_has_no_key_is_sent_once() {
    for method in [Method::PATCH, Method::DELETE, Method::PUT] {
        let peer = Peer::script(vec![Answer::Cut(Vec::new()), json(200, &value!({}))]).await;
        let error =
            peer.client().call(method.clone(), ["x"]).json(&value!({})).send_unit().await.unwrap_err();
        assert!(matches!(error, Error::Broken { .. }), "{method} {error:?}");
        assert_eq!(peer.seen().len(), 1, "{method}");
    }
}

#[tokio::test]
async fn retries_end() {
    let peer = Peer::answering(|_| problem(503, "unavailable", true, vec![])).await;
    let client = peer.builder().patience(Patience { attempts: 3, ..quick() }).build().unwrap();
    assert!(client.version().await.unwrap_err().is(Code::Unavailable));
    assert_eq!(peer.seen().len(), 3);
}

#[tokio::test]
async fn nobody_listening_is_said_with_the_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client =
        wharf_client::Client::builder(&url).patience(Patience { attempts: 2, ..quick() }).build().unwrap();
    match client.version().await.unwrap_err() {
        Error::Unreachable { url: at, reason } => {
            assert_eq!(at, url);
            assert!(reason.contains("refused"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_time_out() {
    let peer = Peer::script(vec![Answer::Silence(Duration::from_secs(30))]).await;
    let call = peer.client().call(Method::GET, ["x"]).limit(Some(Duration::from_millis(100)));
    assert!(matches!(call.send_unit().await.unwrap_err(), Error::Timeout { .. }));
}

#[tokio::test]
async fn an_upload_may_take_longer_than_a_stream_may_be_silent() {
    let late = Answer::Late(Duration::from_millis(400));
    let peer = Peer::script(vec![late.clone(), late]).await;
    let patience = Patience { silence: Duration::from_millis(100), ..quick() };
    let client = peer.builder().patience(patience).build().unwrap();
    let call = || client.call(Method::PUT, ["x"]).limit(None);
    assert!(matches!(call().send_unit().await.unwrap_err(), Error::Timeout { .. }));
    call().stream("text/plain", "all of it".into(), Some(9)).send_unit().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"name\":"
        .to_vec();
    let peer = Peer::script(vec![Answer::Cut(half)]).await;
    let error = peer.client().version().await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_refused_because_it_would_take_the_token_along() {
    let peer =
        Peer::script(vec![Answer::Plain(302, vec![("location", "http://elsewhere/".into())], vec![])]).await;
    let error = peer.client().version().await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn names_cannot_leave_their_place_in_the_path() {
    let peer = Peer::answering(|_| problem(404, "not_found", false, vec![])).await;
    for (name, sent) in [
        ("a/b", "/v1/spaces/a%2Fb"),
        ("a?x=1#y", "/v1/spaces/a%3Fx=1%23y"),
        ("ä %", "/v1/spaces/%C3%A4%20%25"),
    ] {
        drop(peer.client().spaces().get(name).await);
        assert_eq!(peer.seen().last().unwrap().line, format!("GET {sent} HTTP/1.1"));
    }
}

#[tokio::test]
async fn the_token_is_sent_and_is_in_no_error() {
    let peer = Peer::answering(|_| problem(403, "forbidden", false, vec![])).await;
    let client = peer.builder().credential(wharf_client::Credential::token("s3cret-token")).build().unwrap();
    let error = client.users().get("x").await.unwrap_err();
    assert_eq!(peer.seen()[0].header("authorization"), Some("Bearer s3cret-token"));
    assert!(!format!("{error:?} {error}").contains("s3cret"));
    let bad = peer.builder().credential(wharf_client::Credential::token("bad\ntoken")).build().unwrap();
    let error = bad.users().get("x").await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && !format!("{error:?}").contains("bad"), "{error:?}");
}

#[tokio::test]
async fn a_conditional_change_names_its_version() {
    let peer = Peer::script(vec![problem(412, "precondition_failed", false, vec![])]).await;
    let error = peer.client().spaces().patch("lab", &api::PatchSpace::default(), Some(7)).await.unwrap_err();
    assert!(error.is(Code::PreconditionFailed));
    assert_eq!(peer.seen()[0].header("if-match"), Some("\"7\""));
}

#[test]
fn addresses_are_read_as_people_write_them_and_the_rest_is_refused() {
    let read = |s: &str| wharf_client::base_url(s).map(|u| u.to_string());
    assert_eq!(read("localhost:7878").unwrap(), "http://localhost:7878/");
    assert_eq!(read("https://h.example/wharf/").unwrap(), "https://h.example/wharf");
    for bad in ["", "ftp://x", "http://", "http://user:pw@x", "http://x?a=b", "http://x#f"] {
        let error = read(bad).unwrap_err().to_string();
        assert!(!error.contains("pw"), "{error}");
    }
}

#[test]
fn a_file_path_that_a_url_would_rewrite_is_refused() {
    for bad in ["x", "", "/a/../b", "/..", "/a\0b"] {
        assert!(bad.parse::<FileTarget>().is_err(), "{bad:?}");
    }
    assert_eq!("//a/./b//".parse::<FileTarget>().unwrap().to_string(), "/a/b");
    assert_eq!("/".parse::<FileTarget>().unwrap().file_name(), None);
}
