//! A server of the user's own, named by `database_url`.

use std::sync::Arc;

use wharf_domain::{Code, Plain};
use wharf_store::{Database, Store, StoreConfig};

use crate::actors::{App, meta};

#[tokio::test]
async fn a_database_url_works_as_the_application_role_too() {
    let app = App::new().await;
    let config = StoreConfig::new(Database::Url(app.db.url()));
    let clock = Arc::new(app.db.clock.clone());
    let bus = Arc::new(wharf_bus::Local::new());
    let store = Store::connect(config, app.db.keyring(), clock, bus).await.unwrap();
    assert!(store.login("admin", &app.admin_password, meta()).await.is_ok());
    // Seen by the server: the session belongs to the owner, who acts as the application role.
    let mut owner = app.db.owner().await;
    let acting: Vec<String> = sqlx::query_scalar(
        "select distinct usename::text from pg_stat_activity
         where datname = current_database() and application_name = 'wharf' order by 1",
    )
    .fetch_all(&mut owner)
    .await
    .unwrap();
    assert_eq!(acting, ["wharf_app", "wharf_owner"]);
    store.close().await;
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_told_without_its_password() {
    let app = App::new().await;
    let config = StoreConfig::new(Database::Url(Plain::new("postgres://wharf:hunter2@@@:nonsense/x")));
    let clock = Arc::new(app.db.clock.clone());
    let error = Store::connect(config, app.db.keyring(), clock, app.db.bus.clone()).await.err().unwrap();
    assert_eq!(error.code, Code::InvalidField);
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_not_broken() {
    let app = App::new().await;
    let config = StoreConfig::new(Database::Url(Plain::new("postgres://wharf@127.0.0.1:9/x")));
    let clock = Arc::new(app.db.clock.clone());
    let error = Store::connect(config, app.db.keyring(), clock, app.db.bus.clone()).await.err().unwrap();
    assert_eq!(error.code, Code::Unavailable, "{error}");
}
