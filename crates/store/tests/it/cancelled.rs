//! Clients hang up, and the futures that served them are dropped wherever they stand.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wharf_domain::rbac::Verb;

use crate::actors::{App, at, name};

/// Polls once or a few times and drops what is left of it.
async fn hang_up_after(polls: usize, future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_micros(150)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_dropped_half_way_leave_no_transaction_open_and_lose_no_later_write() {
    let app = App::new().await;
    app.space("lab").await;
    for n in 0..200 {
        let (store, admin) = (app.store.clone(), app.admin.clone());
        hang_up_after(n % 12 + 1, async move {
            let Ok(mut scope) = store.scope(&admin, &at("lab")).await else { return };
            let named = name(&format!("s-{n}"));
            let Ok(permit) = scope.secrets().allow(Verb::Create, &named).await else { return };
            let value = wharf_domain::Plain::new("v");
            let new = wharf_store::NewSecret { name: named, value, labels: wharf_domain::Labels::default() };
            if scope.secrets().create(&permit, new).await.is_ok() {
                let _ = scope.commit().await;
            }
        })
        .await;
    }
    // Single statements outside of any transaction: one that landed in a forgotten one would never be committed.
    for n in 0..40 {
        let _ = app.as_bearer(&wharf_domain::Plain::new(format!("wharf_nobody-{n}"))).await;
    }
    let mut owner = app.db.owner().await;
    let noted: i64 = sqlx::query_scalar("select count(*) from audit_entries where verb = 'authenticate'")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(noted, 40);
    let mut open = 0;
    for _ in 0..100 {
        open = sqlx::query_scalar::<_, i64>(
            "select count(*) from pg_stat_activity
             where datname = current_database() and state like 'idle in transaction%'",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap();
        if open == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(open, 0, "transactions nobody will end");
}
