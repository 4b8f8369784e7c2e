//! Sessions in the tables: transitions, admission, rights, lists, and what is locked in which order.

use serde_json::json;
use sqlx::Connection as _;
use wharf_domain::quota::{Quotas, Resources};
use wharf_domain::rbac::Verb;
use wharf_domain::session::{Desired, State};
use wharf_domain::{Code, NameOrId, OperatorId, SessionId};
use wharf_ports::runtime::ImageInfo;
use wharf_store::sessions::work::{Owner, Work};
use wharf_store::sessions::{NewSession, SessionPatch, SessionRow};
use wharf_store::{Actor, Caller};

use crate::actors::{App, at, code, name};

async fn ready(quotas: Quotas) -> App {
    let app = App::new().await;
    app.space_with("lab", quotas).await;
    let image = wharf_domain::image::ImageRef { name: name("base"), digest: "d".repeat(64) };
    let image = ImageInfo { image, size_bytes: 1, created_ms: 1, used_by: 0 };
    work(&app).sync_images("native", &[image]).await.unwrap();
    app
}

fn work(app: &App) -> Work {
    let owner = Owner { operator: OperatorId::new(), machine: "here".to_owned() };
    app.store.system(Actor::Operator).work(owner)
}

async fn create(app: &App, caller: &Caller, new: NewSession) -> Result<SessionRow, wharf_domain::Error> {
    let mut scope = app.store.scope(caller, &at("lab")).await?;
    let permit = scope.sessions().allow(new.name.as_ref()).await?;
    let row = scope.sessions().create(&permit, new).await?;
    scope.commit().await?;
    Ok(row)
}

fn plain() -> NewSession {
    NewSession::of(name("base"))
}

#[tokio::test]
async fn the_database_and_the_code_agree_on_every_transition() {
    let app = App::new().await;
    let mut owner = app.db.owner().await;
    for from in State::ALL {
        for to in State::ALL {
            let allowed: bool = sqlx::query_scalar("select session_may_become($1, $2)")
                .bind(from.as_str())
                .bind(to.as_str())
                .fetch_one(&mut owner)
                .await
                .unwrap();
            assert_eq!(allowed, from.may_become(*to), "{from:?} to {to:?}");
        }
    }
    owner.close().await.unwrap();
}

#[tokio::test]
async fn every_refused_transition_names_what_was_refused_and_changes_nothing() {
    let app = ready(Quotas::default()).await;
    let row = create(&app, &app.admin, plain()).await.unwrap();
    let mut owner = app.db.owner().await;
    for from in State::ALL {
        for to in State::ALL {
            sqlx::query("update sessions set state = $1, desired = 'closed'")
                .bind(from.as_str())
                .execute(&mut owner)
                .await
                .unwrap();
            let (outcome, was): (String, String) =
                sqlx::query_as("select outcome, was from session_move($1, null, $2, null, now(), false)")
                    .bind(row.id.uuid())
                    .bind(to.as_str())
                    .fetch_one(&mut owner)
                    .await
                    .unwrap();
            assert_eq!(was, from.as_str());
            let expected = if from == to {
                "same"
            } else if from.may_become(*to) {
                "moved"
            } else {
                "illegal"
            };
            assert_eq!(outcome, expected, "{from:?} to {to:?}");
            let state: String =
                sqlx::query_scalar("select state from sessions").fetch_one(&mut owner).await.unwrap();
            assert_eq!(state, if outcome == "moved" { to.as_str() } else { from.as_str() });
        }
    }
}

#[tokio::test]
async fn a_hundred_creates_at_once_never_pass_the_quota() {
    let app = ready(Quotas { sessions: Some(7), ..Quotas::default() }).await;
    let all = (0..30).map(|_| create(&app, &app.admin, plain()));
    let done = futures_util::future::join_all(all).await;
    assert_eq!(done.iter().filter(|r| r.is_ok()).count(), 7);
    for refused in done.into_iter().filter(Result::is_err) {
        assert_eq!(code(refused), Code::QuotaExceeded);
    }
}

#[tokio::test]
async fn a_larger_session_must_fit_and_a_smaller_one_gives_back() {
    let app = ready(Quotas { memory_mib: Some(2048), ..Quotas::default() }).await;
    let row = create(&app, &app.admin, plain()).await.unwrap();
    let resize = async |memory_mib| {
        let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
        let permit = scope.sessions().permit(&NameOrId::Id(row.id), Verb::Update).await.unwrap();
        let resources = Some(Resources { memory_mib, ..Resources::default() });
        scope.sessions().update(&permit, SessionPatch { resources, ..SessionPatch::default() }).await?;
        scope.commit().await
    };
    assert_eq!(code(resize(4096).await), Code::QuotaExceeded);
    assert_eq!(code(resize(3).await), Code::InvalidField);
    resize(512).await.unwrap();
    create(&app, &app.admin, plain()).await.unwrap();
    assert_eq!(code(resize(2048).await), Code::QuotaExceeded);
}

#[tokio::test]
async fn what_one_may_do_with_a_session_follows_the_role() {
    let app = ready(Quotas::default()).await;
    let lab = app.store.scope(&app.admin, &at("lab")).await.unwrap().space_id();
    let vera = app.user("vera", "viewer", lab).await;
    let dora = app.user("dora", "developer", lab).await;
    let stranger = app.user("sam", "viewer", None).await;
    assert_eq!(code(create(&app, &vera, plain()).await), Code::Forbidden);
    let row = create(&app, &dora, NewSession { name: Some(name("mine")), ..plain() }).await.unwrap();
    for (caller, verb, allowed) in [
        (&vera, Verb::Get, true),
        (&vera, Verb::Exec, false),
        (&vera, Verb::Delete, false),
        (&dora, Verb::Exec, true),
        (&dora, Verb::Delete, true),
        (&stranger, Verb::Get, true),
    ] {
        let mut scope = app.store.scope(caller, &at("lab")).await.unwrap();
        let permit = scope.sessions().permit(&at("mine"), verb).await;
        assert_eq!(permit.is_ok(), allowed, "{verb}");
    }
    let mut scope = app.store.scope(&vera, &at("lab")).await.unwrap();
    assert_eq!(code(scope.sessions().permit_messages(&at("mine"), Verb::Create).await), Code::Forbidden);
    let mut scope = app.store.scope(&dora, &at("lab")).await.unwrap();
    let permit = scope.sessions().permit_messages(&NameOrId::Id(row.id), Verb::Create).await.unwrap();
    scope.sessions().post_message(&permit, &json!([{"type": "text", "text": "hi"}]), None).await.unwrap();
    scope.commit().await.unwrap();
    assert!(app.audit("create").await.contains(&"dora allowed mine".to_owned()));
}

#[tokio::test]
async fn a_message_and_a_close_at_the_same_moment_do_not_wait_for_each_other_for_ever() {
    let app = ready(Quotas::default()).await;
    let id: SessionId = create(&app, &app.admin, plain()).await.unwrap().id;
    let post = async || {
        let mut scope = app.store.scope(&app.admin, &at("lab")).await?;
        let permit = scope.sessions().permit_messages(&NameOrId::Id(id), Verb::Create).await?;
        let seq = scope.sessions().post_message(&permit, &json!([]), None).await?.seq;
        scope.commit().await.map(|()| seq)
    };
    let close = async |desired| {
        let mut scope = app.store.scope(&app.admin, &at("lab")).await?;
        let permit = scope.sessions().permit(&NameOrId::Id(id), Verb::Update).await?;
        scope.sessions().desire(&permit, desired).await?;
        scope.commit().await
    };
    let mut seqs = Vec::new();
    for _ in 0..20 {
        let (a, b, c, d) = tokio::join!(post(), close(Desired::Closed), post(), close(Desired::Running));
        seqs.extend([a.unwrap(), c.unwrap()]);
        b.unwrap();
        d.unwrap();
    }
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 40, "every message has a number of its own");
}

#[tokio::test]
async fn a_caller_that_goes_away_at_any_moment_leaves_no_transaction_open() {
    let app = ready(Quotas::default()).await;
    for micros in (0..4000).step_by(40) {
        let gone = create(&app, &app.admin, plain());
        let _ = tokio::time::timeout(std::time::Duration::from_micros(micros), gone).await;
    }
    let mut owner = app.db.owner().await;
    let mut open = 1;
    for _ in 0..200 {
        open = sqlx::query_scalar(
            "select count(*)::int from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap();
        if open == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(open, 0);
    let row = create(&app, &app.admin, plain()).await.unwrap();
    let kept: bool = sqlx::query_scalar("select exists (select from sessions where id = $1)")
        .bind(row.id.uuid())
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert!(kept);
}
