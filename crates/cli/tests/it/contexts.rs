//! Which server, as whom.

use wharf_cli::Globals;
use wharf_domain::{Plain, Time};

use crate::peer::{Peer, json};
use crate::{User, config_of, context, logged_in};

const FAR: Time = Time::from_millis(4_000_000_000_000);

fn user(contexts: Vec<(&str, wharf_cli::config::Context)>) -> User {
    let user = User::new();
    user.store()
        .change(|c| {
            *c = config_of("one", contexts);
            Ok(())
        })
        .unwrap();
    user
}

fn url(user: &User, globals: Globals) -> String {
    user.ctx(globals).target().unwrap().url
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_context() {
    let mut u = user(vec![("one", context("http://one")), ("two", context("http://two"))]);
    assert_eq!(url(&u, Globals::default()), "http://one");
    u.env.url = Some("http://env".into());
    assert_eq!(url(&u, Globals::default()), "http://env");
    assert_eq!(url(&u, Globals { url: Some("http://flag".into()), ..Globals::default() }), "http://flag");
    assert_eq!(url(&u, Globals { context: Some("two".into()), ..Globals::default() }), "http://two");
    assert_eq!(url(&User::new(), Globals::default()), "http://127.0.0.1:7878");
}

#[test]
fn the_space_is_the_flags_the_environments_or_the_contexts_and_else_asked_for() {
    let mut one = context("http://one");
    one.space = Some("kept".into());
    let mut u = user(vec![("one", one)]);
    let space = |u: &User, flag: Option<&str>| {
        u.ctx(Globals { space: flag.map(str::to_owned), ..Globals::default() }).space_name()
    };
    assert_eq!(space(&u, None).unwrap(), "kept");
    u.env.space = Some("env".into());
    assert_eq!(space(&u, None).unwrap(), "env");
    assert_eq!(space(&u, Some("flag")).unwrap(), "flag");
    let error = space(&User::new(), None).unwrap_err();
    assert_eq!(wharf_cli::exit::code(&error), 2);
    assert!(wharf_cli::exit::describe(&error).contains("wharf space use"));
}

async fn sent(user: &User, line: &[&str], peer: &Peer) -> Option<String> {
    drop(user.run(line).await);
    peer.seen().last().and_then(|r| r.header("authorization").map(str::to_owned))
}

#[tokio::test]
async fn a_login_goes_to_its_own_server_only() {
    let home = Peer::answering(|_| json(200, &serde_json::json!({"items": []}))).await;
    let other = Peer::answering(|_| json(200, &serde_json::json!({"items": []}))).await;
    let mut u = user(vec![("one", logged_in(&home.url, "access-one", "r", FAR))]);
    assert_eq!(sent(&u, &["space", "list"], &home).await.as_deref(), Some("Bearer access-one"));
    assert_eq!(
        sent(&u, &["space", "list", "--url", &home.url], &home).await.as_deref(),
        Some("Bearer access-one")
    );
    let (code, said) = u.run(&["space", "list", "--url", &other.url]).await;
    assert_eq!((code, other.seen().len()), (4, 0), "{said}");
    let (code, _) = u.run(&["space", "list", "--context", "one", "--url", &other.url]).await;
    assert_eq!((code, other.seen().len()), (4, 0));
    u.env.token = Some(Plain::new("env-token"));
    assert_eq!(
        sent(&u, &["space", "list", "--url", &other.url], &other).await.as_deref(),
        Some("Bearer env-token")
    );
    assert_eq!(
        sent(&u, &["space", "list", "--context", "one"], &home).await.as_deref(),
        Some("Bearer access-one"),
        "a context that is named is meant"
    );
}

#[tokio::test]
async fn contexts_are_used_shown_and_forgotten() {
    let u = user(vec![("one", context("http://one")), ("two", context("http://two"))]);
    assert_eq!(u.run(&["context", "use", "two"]).await.0, 0);
    assert_eq!(u.store().read().unwrap().current.as_deref(), Some("two"));
    let (code, said) = u.run(&["context", "use", "three"]).await;
    assert_eq!(code, 3);
    assert!(said.contains("one, two"), "{said}");
    assert_eq!(u.run(&["context", "delete", "one", "two"]).await.0, 2, "two at once want a yes");
    assert_eq!(u.run(&["context", "delete", "one", "two", "--yes"]).await.0, 0);
    let config = u.store().read().unwrap();
    assert!(config.contexts.is_empty() && config.current.is_none());
}
