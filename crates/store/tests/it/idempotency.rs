use std::time::Duration;

use serde_json::json;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, Labels};
use wharf_store::{Begin, Caller, IdempotencyHandle, IdempotencyRequest, NewSpace, Scope, Store};

use crate::actors::{App, code, name};

fn request(key: &str, body: u8) -> IdempotencyRequest<'_> {
    IdempotencyRequest { route: "POST /v1/spaces", key, body_hash: [body; 32] }
}

async fn begin(store: &Store, caller: &Caller, key: &str, body: u8) -> Result<Begin, Error> {
    store.idempotency_begin(caller, request(key, body)).await
}

fn fresh(begin: Result<Begin, Error>) -> IdempotencyHandle {
    match begin.unwrap() {
        Begin::Fresh(handle) => handle,
        Begin::Replay { body, .. } => panic!("a replay of {body}"),
    }
}

async fn make_space(scope: &mut Scope, named: &str) {
    let permit = scope.spaces().allow(Verb::Create, &name(named)).await.unwrap();
    let new = NewSpace {
        name: name(named),
        labels: Labels::default(),
        quotas: Default::default(),
        defaults: json!({}),
    };
    scope.spaces().create(&permit, new).await.unwrap();
}

#[tokio::test]
async fn a_repeat_gets_the_same_answer_and_nothing_happens_twice() {
    let app = App::new().await;
    let mut scope = app.global(&app.admin).await;
    scope.idempotent(fresh(begin(&app.store, &app.admin, "k1", 1).await));
    make_space(&mut scope, "lab").await;
    scope.commit_reply(201, &json!({"name": "lab"})).await.unwrap();

    let Begin::Replay { status, body } = begin(&app.store, &app.admin, "k1", 1).await.unwrap() else {
        panic!("it would run again")
    };
    assert_eq!((status, body), (201, json!({"name": "lab"})));
    assert_eq!(code(begin(&app.store, &app.admin, "k1", 2).await), Code::IdempotencyMismatch);
    // Another principal's key is another key.
    let bob = app.user("bob", "viewer", None).await;
    fresh(begin(&app.store, &bob, "k1", 2).await).abandon().await.unwrap();
}

#[tokio::test]
async fn while_the_first_runs_a_second_is_told_to_wait_and_a_failure_frees_the_key() {
    let app = App::new().await;
    let handle = fresh(begin(&app.store, &app.admin, "k", 1).await);
    assert_eq!(code(begin(&app.store, &app.admin, "k", 1).await), Code::InProgress);
    assert_eq!(code(begin(&app.store, &app.admin, "k", 2).await), Code::IdempotencyMismatch);
    drop(handle);
    for _ in 0..200 {
        match begin(&app.store, &app.admin, "k", 1).await {
            Ok(Begin::Fresh(_)) => return,
            Ok(Begin::Replay { .. }) => panic!("there is nothing to replay"),
            Err(e) => assert_eq!(e.code, Code::InProgress),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the key was never freed");
}

#[tokio::test]
async fn a_claim_whose_process_died_is_taken_over_and_the_dead_one_cannot_commit() {
    let app = App::new().await;
    let dead = fresh(begin(&app.store, &app.admin, "k", 1).await);
    let mut late = app.global(&app.admin).await;
    late.idempotent(dead);
    make_space(&mut late, "lab").await;

    app.db.clock.advance(Duration::from_secs(61));
    let mut scope = app.global(&app.admin).await;
    scope.idempotent(fresh(begin(&app.store, &app.admin, "k", 1).await));
    assert_eq!(code(late.commit_reply(201, &json!({})).await), Code::LeaseLost);
    make_space(&mut scope, "lab").await;
    scope.commit_reply(201, &json!({"by": "second"})).await.unwrap();
    let Begin::Replay { body, .. } = begin(&app.store, &app.admin, "k", 1).await.unwrap() else {
        panic!("runs again")
    };
    assert_eq!(body, json!({"by": "second"}));
}

#[tokio::test]
async fn long_work_holds_its_key() {
    let app = App::new().await;
    let handle = fresh(begin(&app.store, &app.admin, "k", 1).await);
    handle.extend(Duration::from_secs(600)).await.unwrap();
    app.db.clock.advance(Duration::from_secs(120));
    assert_eq!(code(begin(&app.store, &app.admin, "k", 1).await), Code::InProgress);
    handle.abandon().await.unwrap();
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day() {
    let app = App::new().await;
    let mut scope = app.global(&app.admin).await;
    scope.idempotent(fresh(begin(&app.store, &app.admin, "k", 1).await));
    make_space(&mut scope, "lab").await;
    scope.commit_reply(201, &json!({})).await.unwrap();
    app.db.clock.advance(Duration::from_secs(25 * 3600));
    fresh(begin(&app.store, &app.admin, "k", 2).await).abandon().await.unwrap();
}

#[tokio::test]
async fn of_many_at_once_one_runs() {
    let app = App::new().await;
    let tries: Vec<_> = (0..20)
        .map(|_| {
            let (store, caller) = (app.store.clone(), app.admin.clone());
            tokio::spawn(async move { begin(&store, &caller, "k", 1).await })
        })
        .collect();
    let mut handles = Vec::new();
    for t in tries {
        match t.await.unwrap() {
            Ok(Begin::Fresh(h)) => handles.push(h),
            Ok(Begin::Replay { .. }) => panic!("nothing to replay yet"),
            Err(e) => assert_eq!(e.code, Code::InProgress),
        }
    }
    assert_eq!(handles.len(), 1);
}

#[tokio::test]
async fn an_answer_with_any_character_comes_back_as_it_was() {
    let app = App::new().await;
    let odd = json!({"stdout": "a\u{0}b \u{1F600} \u{FFFF}", "z": 1, "a": 2});
    let mut scope = app.global(&app.admin).await;
    scope.idempotent(fresh(begin(&app.store, &app.admin, "k", 1).await));
    make_space(&mut scope, "lab").await;
    scope.commit_reply(200, &odd).await.unwrap();
    let Begin::Replay { body, .. } = begin(&app.store, &app.admin, "k", 1).await.unwrap() else {
        panic!("runs again")
    };
    assert_eq!(body, odd);
}

#[tokio::test]
async fn a_key_has_a_length() {
    let app = App::new().await;
    assert_eq!(code(begin(&app.store, &app.admin, "", 1).await), Code::InvalidField);
    assert_eq!(code(begin(&app.store, &app.admin, &"k".repeat(256), 1).await), Code::InvalidField);
}
