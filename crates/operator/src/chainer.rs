//! Chains audit entries by hash, a batch at a time, soon after they were written.

use std::time::Duration;

use wharf_chassis::Stop;
use wharf_domain::Error;
use wharf_ports::{Topic, Wake};
use wharf_store::{Actor, Store};

/// Entries of a burst share a batch.
const GATHER: Duration = Duration::from_millis(200);
/// Net for wake-ups that were lost.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub async fn run(store: Store, stop: Stop) -> Result<(), Error> {
    let system = store.system(Actor::Chainer);
    let mut wakes = store.bus().subscribe();
    loop {
        match system.chain_audit().await {
            // There may be more than a batch.
            Ok(n) if n > 0 => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "audit entries were not chained; it is tried again"),
        }
        let next = async {
            let heard = tokio::time::timeout(LOOK_AGAIN, async {
                while let Some(wake) = wakes.next().await {
                    if matches!(wake, Wake::Missed | Wake::Topic(Topic::Audit)) {
                        return;
                    }
                }
                std::future::pending::<()>().await;
            });
            let _ = heard.await;
            tokio::time::sleep(GATHER).await;
        };
        if stop.or_drain(next).await.is_none() {
            // What was written until now is chained before the end.
            system.chain_audit().await?;
            return Ok(());
        }
    }
}
