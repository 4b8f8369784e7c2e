//! A login that renews itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json as value;
use wharf_client::{Credential, Error, Login};
use wharf_domain::Plain;

use crate::peer::{Peer, json, problem};

/// Accepts only the newest access token; each refresh token works once.
async fn server() -> (Peer, Arc<AtomicUsize>) {
    let renewals = Arc::new(AtomicUsize::new(0));
    let count = renewals.clone();
    let peer = Peer::answering(move |request| {
        if request.line.starts_with("POST /v1/auth/token ") {
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let n = count.fetch_add(1, Ordering::SeqCst);
            if body["refresh_token"] != format!("r{n}") {
                return problem(401, "unauthenticated", false, vec![]);
            }
            let pair = value!({"access_token": format!("a{}", n + 1), "refresh_token": format!("r{}", n + 1),
                "token_type": "Bearer", "expires_in_seconds": 900});
            return json(200, &pair);
        }
        let newest = format!("Bearer a{}", count.load(Ordering::SeqCst));
        if request.header("authorization") == Some(&newest) && newest != "Bearer a0" {
            json(200, &value!({"name": "wharf", "version": "1", "api": "v1"}))
        } else {
            problem(401, "token_expired", false, vec![])
        }
    })
    .await;
    (peer, renewals)
}

fn login(peer: &Peer, refresh: &str) -> wharf_client::Client {
    let nobody = peer.builder().build().unwrap();
    let login = Login::new(nobody.clone(), Plain::new("a0"), Plain::new(refresh));
    nobody.speaking_as(Credential::Source(Arc::new(login)))
}

#[tokio::test]
async fn many_calls_with_an_expired_token_renew_it_once() {
    let (peer, renewals) = server().await;
    let client = login(&peer, "r0");
    let calls = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.version().await })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(renewals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_login_that_was_revoked_says_to_log_in_again() {
    let (peer, _) = server().await;
    let error = login(&peer, "stolen").version().await.unwrap_err();
    assert!(matches!(error, Error::LoggedOut(_)), "{error:?}");
}

#[tokio::test]
async fn a_plain_token_is_not_renewed() {
    let (peer, renewals) = server().await;
    let client = peer.builder().credential(Credential::token("old")).build().unwrap();
    assert!(client.version().await.unwrap_err().is(wharf_domain::Code::TokenExpired));
    assert_eq!(renewals.load(Ordering::SeqCst), 0);
}
