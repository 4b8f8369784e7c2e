use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Labels};
use wharf_store::audit::{AuditFilter, Verdict};
use wharf_store::{Actor, NewPrincipal, System};

use crate::actors::{App, code, name};

/// Retries until everything written is chained: an entry settles when older transactions of the whole server are
/// over, and other tests run on it.
async fn chain(app: &App) -> System {
    let chainer = app.store.system(Actor::Chainer);
    for _ in 0..500 {
        while chainer.chain_audit().await.unwrap() > 0 {}
        if chainer.verify_audit().await.unwrap().unchained == 0 {
            return chainer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("entries are never chained");
}

async fn make_users(app: &App, count: usize) {
    for n in 0..count {
        let mut scope = app.global(&app.admin).await;
        let named = name(&format!("u-{n}"));
        let permit = scope.users().allow(Verb::Create, &named).await.unwrap();
        let new = NewPrincipal {
            name: named,
            display_name: String::new(),
            labels: Labels::default(),
            password: None,
        };
        scope.users().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
    }
}

#[tokio::test]
async fn the_chain_holds_and_a_second_chainer_changes_nothing() {
    let app = App::new().await;
    make_users(&app, 20).await;
    let (a, b) = (app.store.system(Actor::Chainer), app.db.store().await.system(Actor::Chainer));
    let (x, y) = tokio::join!(a.chain_audit(), b.chain_audit());
    x.unwrap();
    y.unwrap();
    let verdict = chain(&app).await.verify_audit().await.unwrap();
    assert!(verdict.ok, "{verdict:?}");
    assert!(verdict.checked >= 22);
    assert_eq!((verdict.unchained, verdict.head.as_ref().map(String::len)), (0, Some(64)));
}

/// What the owner of the database does behind the program's back, and what verify says of it.
async fn tamper(sql: &'static str) -> Verdict {
    let app = App::new().await;
    make_users(&app, 8).await;
    let chainer = chain(&app).await;
    assert!(chainer.verify_audit().await.unwrap().ok);
    let mut owner = app.db.owner().await;
    let done = sqlx::query(sql).execute(&mut owner).await.unwrap();
    assert!(done.rows_affected() > 0, "nothing was tampered with");
    chainer.verify_audit().await.unwrap()
}

#[tokio::test]
async fn an_altered_entry_is_found() {
    let verdict = tamper("update audit_entries set principal_name = 'bob' where resource_name = 'u-3'").await;
    let bad = verdict.first_bad.unwrap();
    assert!(!verdict.ok);
    assert_eq!(bad.reason, "the entry is not what was chained");
    assert_eq!(verdict.checked as i64, bad.n - 1);
}

#[tokio::test]
async fn a_removed_entry_is_found() {
    let verdict = tamper("delete from audit_entries where resource_name = 'u-5'").await;
    assert_eq!(verdict.first_bad.unwrap().reason, "the entry is missing");
}

#[tokio::test]
async fn an_entry_slipped_in_later_is_found() {
    let verdict = tamper(
        "insert into audit_entries (id, at, txid, principal_kind, principal_name, verb, resource, outcome, detail)
         select gen_random_uuid(), at, txid, 'user', 'nobody', 'delete', 'users', 'allowed', '{}'
         from audit_entries where resource_name = 'u-2'",
    )
    .await;
    // It got a new number in an old transaction: behind the end of the chain in that order.
    assert!(!verdict.ok, "{verdict:?}");
    assert_eq!(verdict.first_bad.unwrap().reason, "the entry was put behind the chain's end");
}

#[tokio::test]
async fn a_hole_in_the_chain_itself_is_found() {
    let verdict = tamper("delete from audit_chain where n = 4").await;
    let bad = verdict.first_bad.unwrap();
    assert_eq!((bad.n, verdict.checked), (5, 3));
}

#[tokio::test]
async fn a_rewritten_hash_is_found() {
    let verdict = tamper("update audit_chain set hash = sha256('x') where n = 2").await;
    assert_eq!(verdict.first_bad.unwrap().n, 2);
}

#[tokio::test]
async fn the_application_role_cannot_change_what_was_written() {
    let app = App::new().await;
    make_users(&app, 1).await;
    chain(&app).await;
    let mut owner = app.db.owner().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relkind in ('r', 'p') and relname like 'audit\\_%'",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(tables.len() >= 5, "{tables:?}");
    sqlx::query("set role wharf_app").execute(&mut owner).await.unwrap();
    for table in tables {
        for sql in [
            format!("delete from {table}"),
            format!("truncate {table}"),
            format!("drop table {table}"),
            format!("alter table {table} disable trigger all"),
        ] {
            let refused = sqlx::query(sqlx::AssertSqlSafe(sql.clone())).execute(&mut owner).await;
            let error = refused.err().unwrap_or_else(|| panic!("{sql} was allowed")).to_string();
            assert!(error.contains("permission denied") || error.contains("must be owner"), "{sql}: {error}");
        }
        let column = if table == "audit_chain" { "n" } else { "verb" };
        let sql = format!("update {table} set {column} = {column}");
        let error =
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut owner).await.err().unwrap().to_string();
        assert!(error.contains("permission denied"), "{error}");
    }
}

#[tokio::test]
async fn entries_go_to_the_partition_of_their_month() {
    let app = App::new().await;
    make_users(&app, 1).await;
    let mut owner = app.db.owner().await;
    let rest: i64 =
        sqlx::query_scalar("select count(*) from audit_entries_rest").fetch_one(&mut owner).await.unwrap();
    assert_eq!(rest, 0);
    // The chainer makes the months ahead as time goes by.
    app.db.clock.advance(std::time::Duration::from_secs(70 * 86_400));
    let later = app.db.store().await;
    let first = later.login("admin", &app.admin_password, crate::actors::meta()).await;
    assert!(first.is_ok(), "{:?}", first.err());
    let verdict = chain(&app).await.verify_audit().await.unwrap();
    assert!(verdict.ok, "{verdict:?}");
}

#[tokio::test]
async fn the_log_is_filtered_paged_and_exported_in_order() {
    let app = App::new().await;
    make_users(&app, 12).await;
    let mut scope = app.global(&app.admin).await;
    let mut filter = AuditFilter {
        verb: Some("create".into()),
        resource: Some("users".into()),
        limit: Some(5),
        ..Default::default()
    };
    let mut newest = Vec::new();
    loop {
        let page = scope.audit_list(&filter).await.unwrap();
        newest.extend(page.items.into_iter().map(|e| e.name.unwrap()));
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert_eq!(newest.len(), 13);
    assert_eq!(newest.last().map(String::as_str), Some("admin"));
    filter.ascending = true;
    filter.limit = None;
    let mut oldest: Vec<_> =
        scope.audit_list(&filter).await.unwrap().items.into_iter().map(|e| e.name.unwrap()).collect();
    oldest.reverse();
    assert_eq!(oldest, newest);

    let viewer = app.user("vera", "viewer", None).await;
    let mut scope = app.global(&viewer).await;
    assert_eq!(code(scope.audit_list(&AuditFilter::default()).await), Code::Forbidden);
    let mut scope = app.global(&viewer).await;
    assert_eq!(code(scope.verify_audit().await), Code::Forbidden);
}
