use sqlx::Row as _;
use wharf_chassis::seal::{KeyFile, Keyring};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Labels, Plain};
use wharf_store::{Actor, NewSecret, Scope, SecretPatch};

use crate::actors::{App, at, code, name};

const CANARY: &str = "canary-7b1f0c-in-the-mine";

async fn put(app: &App, space: &str, named: &str, value: &str) {
    let mut scope = app.store.scope(&app.admin, &at(space)).await.unwrap();
    let permit = scope.secrets().allow(Verb::Create, &name(named)).await.unwrap();
    let new = NewSecret { name: name(named), value: Plain::new(value), labels: Labels::default() };
    scope.secrets().create(&permit, new).await.unwrap();
    scope.commit().await.unwrap();
}

async fn reveal(scope: &mut Scope, named: &str) -> Result<Plain, wharf_domain::Error> {
    let permit = scope.secrets().permit(&at(named), Verb::ReadValues).await?;
    scope.secrets().reveal(&permit).await
}

#[tokio::test]
async fn a_value_is_shown_to_who_may_read_values_and_every_look_is_in_the_log() {
    let app = App::new().await;
    let lab = app.space("lab").await;
    put(&app, "lab", "db", CANARY).await;
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    assert_eq!(reveal(&mut scope, "db").await.unwrap().expose_str(), Some(CANARY));
    scope.commit().await.unwrap();
    assert_eq!(app.audit("read-values").await, ["admin allowed db"]);

    let dora = app.user("dora", "developer", Some(lab.id)).await;
    let mut scope = app.store.scope(&dora, &at("lab")).await.unwrap();
    assert_eq!(code(reveal(&mut scope, "db").await), Code::Forbidden);
    assert_eq!(app.audit("read-values").await[0], "dora denied db");
}

#[tokio::test]
async fn a_new_value_is_a_new_version_and_labels_are_not() {
    let app = App::new().await;
    app.space("lab").await;
    put(&app, "lab", "db", "one").await;
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let permit = scope.secrets().permit(&at("db"), Verb::Update).await.unwrap();
    let patch = SecretPatch { value: Some(Plain::new("two")), labels: None };
    let row = scope.secrets().update(&permit, patch, Some(1)).await.unwrap();
    assert_eq!((row.version, row.resource_version), (2, 2));
    let patch = SecretPatch { value: None, labels: Some(Labels::default()) };
    let row = scope.secrets().update(&permit, patch, None).await.unwrap();
    assert_eq!((row.version, row.resource_version), (2, 3));
    assert_eq!(reveal(&mut scope, "db").await.unwrap().expose_str(), Some("two"));
}

#[tokio::test]
async fn empty_and_huge_values_and_taken_names_are_refused() {
    let app = App::new().await;
    app.space("lab").await;
    put(&app, "lab", "db", "one").await;
    for (named, value, wanted) in [
        ("a", String::new(), Code::InvalidField),
        ("b", "x".repeat(64 * 1024 + 1), Code::InvalidField),
        ("db", "again".to_owned(), Code::AlreadyExists),
    ] {
        let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
        let permit = scope.secrets().allow(Verb::Create, &name(named)).await.unwrap();
        let new = NewSecret { name: name(named), value: Plain::new(value), labels: Labels::default() };
        assert_eq!(code(scope.secrets().create(&permit, new).await), wanted, "{named}");
    }
}

#[tokio::test]
async fn rotation_rewraps_without_touching_payloads_and_old_keys_can_go() {
    let app = App::new().await;
    app.space("lab").await;
    for n in 0..5 {
        put(&app, "lab", &format!("s-{n}"), &format!("value {n}")).await;
    }
    let mut owner = app.db.owner().await;
    let payloads = "select name, payload from secrets order by name";
    let before: Vec<(String, Vec<u8>)> = sqlx::query_as(payloads).fetch_all(&mut owner).await.unwrap();

    KeyFile::rotate(&app.db.key_path()).unwrap();
    let keeper = app.store.system(Actor::Keeper);
    let mut moved = 0;
    loop {
        let n = keeper.rewrap(2).await.unwrap();
        if n == 0 {
            break;
        }
        moved += n;
    }
    assert_eq!(moved, 6, "five secrets and the signing key");
    let after: Vec<(String, Vec<u8>)> = sqlx::query_as(payloads).fetch_all(&mut owner).await.unwrap();
    assert_eq!(before, after);

    KeyFile::retire(&app.db.key_path()).unwrap();
    let store = app.db.store().await;
    let mut scope = store.scope(&app.admin, &at("lab")).await.unwrap();
    assert_eq!(reveal(&mut scope, "s-3").await.unwrap().expose_str(), Some("value 3"));
    assert_eq!(app.audit("rotate").await[0], "keeper allowed -");
}

#[tokio::test]
async fn a_value_moved_to_another_place_does_not_open() {
    let app = App::new().await;
    app.space("lab").await;
    app.space("den").await;
    put(&app, "lab", "db", CANARY).await;
    put(&app, "den", "db", "mine").await;
    let mut owner = app.db.owner().await;
    sqlx::query(
        "update secrets d set key_id = l.key_id, wrapped = l.wrapped, payload = l.payload
         from secrets l, spaces s, spaces t
         where l.space_id = s.id and s.name = 'lab' and d.space_id = t.id and t.name = 'den'",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let mut scope = app.store.scope(&app.admin, &at("den")).await.unwrap();
    assert_eq!(reveal(&mut scope, "db").await.err().unwrap().code, Code::Internal);
}

#[tokio::test]
async fn a_dump_of_every_table_holds_no_planted_value() {
    let app = App::new().await;
    app.space("lab").await;
    app.stranger("alice").await;
    let tokens = app.tokens("alice").await;
    put(&app, "lab", "db", CANARY).await;
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    reveal(&mut scope, "db").await.unwrap();
    scope.commit().await.unwrap();
    // A failing statement must not carry it into an error either.
    let mut scope = app.store.scope(&app.admin, &at("lab")).await.unwrap();
    let permit = scope.secrets().allow(Verb::Create, &name("db")).await.unwrap();
    let new = NewSecret { name: name("db"), value: Plain::new(CANARY), labels: Labels::default() };
    let error = scope.secrets().create(&permit, new).await.err().unwrap();
    assert!(!format!("{error} {error:?}").contains(CANARY));

    let mut owner = app.db.owner().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname = 'public'",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert!(tables.len() > 15);
    let planted = [
        CANARY.to_owned(),
        hex::encode(CANARY),
        crate::actors::PASSWORD.to_owned(),
        app.admin_password.expose_str().unwrap().to_owned(),
        tokens.refresh_token.expose_str().unwrap()[7..].to_owned(),
        tokens.access_token.expose_str().unwrap().to_owned(),
    ];
    let mut bytes = 0;
    for table in tables {
        let sql = sqlx::AssertSqlSafe(format!("select t::text as line from {table} t"));
        for row in sqlx::query(sql).fetch_all(&mut owner).await.unwrap() {
            let line: String = row.get("line");
            bytes += line.len();
            for secret in &planted {
                assert!(!line.contains(secret.as_str()), "{table} holds a planted value");
            }
        }
    }
    assert!(bytes > 1000, "the dump was not empty");
}

#[tokio::test]
async fn without_its_key_the_store_does_not_start() {
    let app = App::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let keyring = Keyring::load_or_create(&elsewhere.path().join("key")).unwrap();
    let clock = std::sync::Arc::new(app.db.clock.clone());
    let started = wharf_store::Store::attach(app.db.config(), keyring, clock, app.db.bus.clone()).await;
    let cause = started.err().unwrap().to_string();
    assert!(cause.contains("key"), "{cause}");
}
