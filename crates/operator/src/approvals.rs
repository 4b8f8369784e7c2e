//! Ends approvals that nobody decided in time, when their time comes.
//!
//! The nearest time is known: nothing is looked at before it but what a wake-up says may be nearer.

use std::time::Duration;

use wharf_chassis::Stop;
use wharf_domain::Error;
use wharf_ports::{Topic, Wake};
use wharf_store::{Actor, Store};

/// Ended in one look.
const BATCH: i64 = 200;
/// Net for wake-ups that were lost.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Wake-ups of a burst share a look.
const GATHER: Duration = Duration::from_millis(200);

pub async fn run(store: Store, stop: Stop) -> Result<(), Error> {
    let system = store.system(Actor::Operator);
    let mut wakes = store.bus().subscribe();
    loop {
        let wait = match system.expire_approvals(BATCH).await {
            Ok(Some(next)) => next.since(store.now()).min(LOOK_AGAIN),
            Ok(None) => LOOK_AGAIN,
            Err(error) => {
                tracing::warn!(%error, "approvals whose time is over were not ended; it is tried again");
                Duration::from_secs(1)
            }
        };
        let next = async {
            let heard = tokio::time::timeout(wait, async {
                while let Some(wake) = wakes.next().await {
                    if matches!(wake, Wake::Missed | Wake::Topic(Topic::Space(_))) {
                        return;
                    }
                }
                std::future::pending::<()>().await;
            });
            if heard.await.is_ok() {
                tokio::time::sleep(GATHER).await;
            }
        };
        if stop.or_drain(next).await.is_none() {
            return Ok(());
        }
    }
}
