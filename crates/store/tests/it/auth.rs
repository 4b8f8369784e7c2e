use std::time::Duration;

use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Plain};
use wharf_store::{Actor, PrincipalPatch};

use crate::actors::{App, PASSWORD, at, code, from, meta};

#[tokio::test]
async fn the_first_admin_is_made_once_with_a_random_password() {
    let app = App::new().await;
    assert!(app.admin_password.len() >= 20);
    assert!(app.store.system(Actor::Setup).bootstrap().await.unwrap().is_none());
    assert_eq!(app.admin.identity().name, "admin");
}

#[tokio::test]
async fn a_wrong_password_an_unknown_and_a_disabled_account_look_alike() {
    let app = App::new().await;
    app.stranger("alice").await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.users().permit(&at("alice"), Verb::Update).await.unwrap();
    let off = PrincipalPatch { disabled: Some(true), ..Default::default() };
    scope.users().update(&permit, off, None).await.unwrap();
    scope.commit().await.unwrap();

    let wrong = app.store.login("admin", &Plain::new("not it at all"), meta()).await.err().unwrap();
    let unknown = app.store.login("nobody-here", &Plain::new("whatever"), meta()).await.err().unwrap();
    let disabled = app.store.login("alice", &Plain::new(PASSWORD), meta()).await.err().unwrap();
    assert_eq!(wrong.code, Code::Unauthenticated);
    assert_eq!(wrong.public, unknown.public);
    assert_eq!(wrong.public, disabled.public);
}

#[tokio::test]
async fn an_access_token_ends_after_fifteen_minutes_and_a_forged_one_never_begins() {
    let app = App::new().await;
    app.stranger("alice").await;
    let tokens = app.tokens("alice").await;
    assert!(app.as_bearer(&tokens.access_token).await.is_ok());
    app.db.clock.advance(Duration::from_secs(14 * 60));
    assert!(app.as_bearer(&tokens.access_token).await.is_ok());
    app.db.clock.advance(Duration::from_secs(61));
    assert_eq!(code(app.as_bearer(&tokens.access_token).await), Code::TokenExpired);

    let fresh = app.tokens("alice").await.access_token;
    let text = fresh.expose_str().unwrap();
    let (head, signature) = text.rsplit_once('.').unwrap();
    let flipped: String = signature.chars().rev().collect();
    for forged in [format!("{head}.{flipped}"), format!("{head}."), "x.y.z".to_owned(), String::new()] {
        assert_eq!(code(app.as_bearer(&Plain::new(forged)).await), Code::Unauthenticated);
    }
    // `alg: none` with the same claims.
    let claims = head.split_once('.').unwrap().1;
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
    assert_eq!(code(app.as_bearer(&Plain::new(none)).await), Code::Unauthenticated);
}

#[tokio::test]
async fn a_refresh_token_works_once_and_a_second_use_ends_the_whole_login() {
    let app = App::new().await;
    app.stranger("alice").await;
    let first = app.tokens("alice").await;
    let second = app.store.refresh(&first.refresh_token, meta()).await.unwrap();
    assert!(app.as_bearer(&second.access_token).await.is_ok());

    // Someone copied the first one.
    assert_eq!(code(app.store.refresh(&first.refresh_token, meta()).await), Code::Unauthenticated);
    // Nobody can tell who: the honest one is out too, at once.
    assert_eq!(code(app.store.refresh(&second.refresh_token, meta()).await), Code::Unauthenticated);
    assert_eq!(code(app.as_bearer(&second.access_token).await), Code::Unauthenticated);
    assert_eq!(app.audit("refresh").await[0], "alice denied alice");
    // A new login is a new family.
    assert!(app.as_bearer(&app.tokens("alice").await.access_token).await.is_ok());
}

#[tokio::test]
async fn of_many_refreshes_at_once_at_most_one_wins() {
    let app = App::new().await;
    app.stranger("alice").await;
    let first = app.tokens("alice").await;
    let tries = (0..8).map(|_| {
        let (store, token) = (app.store.clone(), first.refresh_token.clone());
        tokio::spawn(async move { store.refresh(&token, meta()).await.is_ok() })
    });
    let mut won = 0;
    for t in tries.collect::<Vec<_>>() {
        won += u32::from(t.await.unwrap());
    }
    assert!(won <= 1, "{won} refreshes won");
}

#[tokio::test]
async fn logging_out_ends_this_login_at_once_and_no_other() {
    let app = App::new().await;
    app.stranger("alice").await;
    let (here, there) = (app.tokens("alice").await, app.tokens("alice").await);
    let caller = app.as_bearer(&here.access_token).await.unwrap();
    app.store.logout(&caller).await.unwrap();
    assert_eq!(code(app.as_bearer(&here.access_token).await), Code::Unauthenticated);
    assert_eq!(code(app.store.refresh(&here.refresh_token, meta()).await), Code::Unauthenticated);
    assert!(app.as_bearer(&there.access_token).await.is_ok());
    assert!(app.store.refresh(&there.refresh_token, meta()).await.is_ok());
}

#[tokio::test]
async fn disabling_a_user_counts_at_once_for_every_token() {
    let app = App::new().await;
    app.stranger("alice").await;
    let tokens = app.tokens("alice").await;
    let mut scope = app.global(&app.admin).await;
    let permit = scope.users().permit(&at("alice"), Verb::Update).await.unwrap();
    let off = PrincipalPatch { disabled: Some(true), ..Default::default() };
    scope.users().update(&permit, off, None).await.unwrap();
    scope.commit().await.unwrap();
    assert_eq!(code(app.as_bearer(&tokens.access_token).await), Code::Unauthenticated);
    assert_eq!(code(app.store.refresh(&tokens.refresh_token, meta()).await), Code::Unauthenticated);
}

#[tokio::test]
async fn changing_a_password_ends_every_login_and_needs_the_present_one() {
    let app = App::new().await;
    app.stranger("alice").await;
    let tokens = app.tokens("alice").await;
    let alice = app.as_bearer(&tokens.access_token).await.unwrap();

    let mut scope = app.global(&alice).await;
    let guess = scope.change_own_password(&Plain::new("wrong guess"), &Plain::new("new password 1")).await;
    assert_eq!(code(guess), Code::InvalidField);
    drop(scope);
    let mut scope = app.global(&alice).await;
    assert_eq!(
        code(scope.change_own_password(&Plain::new(PASSWORD), &Plain::new("short")).await),
        Code::InvalidField
    );
    drop(scope);
    let mut scope = app.global(&alice).await;
    scope.change_own_password(&Plain::new(PASSWORD), &Plain::new("new password 1")).await.unwrap();
    scope.commit().await.unwrap();

    assert_eq!(code(app.as_bearer(&tokens.access_token).await), Code::Unauthenticated);
    assert_eq!(code(app.store.login("alice", &Plain::new(PASSWORD), meta()).await), Code::Unauthenticated);
    assert!(app.store.login("alice", &Plain::new("new password 1"), meta()).await.is_ok());
}

#[tokio::test]
async fn keys_rotate_without_ending_what_is_out() {
    let app = App::new().await;
    app.stranger("alice").await;
    let old = app.tokens("alice").await;
    let before = app.store.jwks().await.unwrap();
    // Another process of the installation, with a copy of the keys of its own.
    let other = app.db.store().await;

    let kid = app.store.system(Actor::Keeper).rotate_signing_key().await.unwrap();
    let during = app.store.jwks().await.unwrap();
    assert_eq!((before.keys.len(), during.keys.len()), (1, 2));
    assert!(during.keys.iter().any(|k| k.kid == kid));

    let fresh = app.tokens("alice").await;
    assert!(app.as_bearer(&old.access_token).await.is_ok(), "the old token still verifies");
    assert!(app.as_bearer(&fresh.access_token).await.is_ok());
    app.db.clock.advance(Duration::from_secs(2));
    let seen = other.authenticate(wharf_store::Credential::Bearer(fresh.access_token), meta()).await;
    assert!(seen.is_ok(), "the other process looks the new key up");

    app.db.clock.advance(Duration::from_secs(20 * 60));
    assert_eq!(app.store.jwks().await.unwrap().keys.len(), 1, "the old key is gone with its last token");
    assert_eq!(code(app.as_bearer(&old.access_token).await), Code::TokenExpired);
}

#[tokio::test]
async fn the_log_says_who_came_from_where() {
    let app = App::new().await;
    app.stranger("alice").await;
    app.store.login("alice", &Plain::new(PASSWORD), from("203.0.113.9")).await.unwrap();
    let _ = app.store.login("alice", &Plain::new("wrong one"), from("203.0.113.66")).await;
    let mut scope = app.global(&app.admin).await;
    let filter = wharf_store::audit::AuditFilter { verb: Some("login".into()), ..Default::default() };
    let entries = scope.audit_list(&filter).await.unwrap().items;
    assert_eq!(entries[0].outcome, "denied");
    assert_eq!(entries[0].address.as_deref(), Some("203.0.113.66"));
    assert_eq!(entries[1].outcome, "allowed");
    assert_eq!(entries[1].principal, "alice");
    let text = serde_json::to_string(&entries).unwrap();
    assert!(!text.contains("wrong one") && !text.contains(PASSWORD), "no password in the log");
}

#[tokio::test]
async fn tokens_nobody_gave_out_are_noted_and_a_flood_of_them_is_braked() {
    let app = App::new().await;
    for n in 0..1100 {
        assert_eq!(
            code(app.as_bearer(&Plain::new(format!("wharf_forged-{n}"))).await),
            Code::Unauthenticated
        );
    }
    let mut owner = app.db.owner().await;
    let count = "select count(*) from audit_entries where verb = 'authenticate'";
    let noted: i64 = sqlx::query_scalar(count).fetch_one(&mut owner).await.unwrap();
    assert_eq!(noted, 1000, "a burst, and no more while the clock stands still");
    app.db.clock.advance(Duration::from_secs(1));
    let _ = app.as_bearer(&Plain::new("wharf_one-more")).await;
    let left_out: i64 = sqlx::query_scalar(
        "select (detail ->> 'denials_left_out')::bigint from audit_entries where verb = 'authenticate'
         order by seq desc limit 1",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(left_out, 100, "the log says how many are missing");
}

#[tokio::test]
async fn a_first_password_that_could_not_be_shown_makes_no_admin() {
    let db = wharf_testkit::TestDb::new().await;
    let setup = db.store().await.system(Actor::Setup);
    let mut lost = None;
    let shown = setup
        .bootstrap_shown(|first| {
            lost = Some(first.password.clone());
            Err(wharf_domain::Error::unavailable("the terminal", "it went away"))
        })
        .await;
    assert_eq!(code(shown), Code::Unavailable);
    let store = db.store().await;
    assert_eq!(code(store.login("admin", &lost.unwrap(), meta()).await), Code::Unauthenticated);
    assert!(store.system(Actor::Setup).bootstrap().await.unwrap().is_some(), "the next start makes another");
}

#[tokio::test]
async fn a_character_the_database_cannot_hold_is_told_and_no_defect() {
    let app = App::new().await;
    let login = app.store.login("ad\u{0}min", &Plain::new(PASSWORD), meta()).await;
    assert_eq!(code(login), Code::InvalidField);
    let mut scope = app.global(&app.admin).await;
    let filter = wharf_store::audit::AuditFilter { principal: Some("\u{0}".into()), ..Default::default() };
    assert_eq!(code(scope.audit_list(&filter).await), Code::InvalidField);
}
