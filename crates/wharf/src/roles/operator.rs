//! The operator: the reconciler and its turn driver, the end of approvals, and the chainer of the audit log.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use wharf_chassis::{Settings, Stop};
use wharf_domain::Result;
use wharf_operator::{HttpHost, Operator, approvals, chainer};
use wharf_ports::SandboxRuntime;

use crate::control::Parts;

/// First pause before a jailer that is not there is asked again; a jailer that starts with us takes less.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub fn run(parts: &Parts, stop: Stop) -> impl Future<Output = Result<()>> + Send + use<> {
    let (store, runtimes) = (parts.store.clone(), parts.runtimes.clone());
    let operator = Operator::new(&store, runtimes.clone(), Arc::new(HttpHost), told(&parts.settings));
    async move {
        let reconciler = async {
            // Sessions elsewhere wait for their runtime one by one.
            if let Some(first) = runtimes.all().first()
                && !jailer(&**first, &stop).await
            {
                return Ok(());
            }
            operator.run(stop.clone()).await
        };
        let expiry = approvals::run(store.clone(), stop.clone());
        tokio::try_join!(reconciler, expiry, chainer::run(store, stop.clone())).map(|_| ())
    }
}

fn told(settings: &Settings) -> wharf_operator::Settings {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    wharf_operator::Settings {
        warm: settings.warm.iter().map(|(image, count)| (image.clone(), *count)).collect(),
        builds: wharf_operator::Builds {
            parallel: settings.builds.parallel as usize,
            per_space: settings.builds.per_space,
            max_seconds: settings.builds.max_seconds,
            max_resources: settings.sessions.max_resources,
        },
        keep_deleted: Duration::from_secs(u64::from(settings.retention.deleted_sessions_days) * 86_400),
        // One data directory is used by one installation at a time, so this names the operator over its restarts.
        ..wharf_operator::Settings::of(format!("{host}:{}", settings.data_dir.display()))
    }
}

/// Waits for the jailer; without one there is nothing to reconcile. Answers whether it came before the drain.
async fn jailer(runtime: &dyn SandboxRuntime, stop: &Stop) -> bool {
    let mut pause = PAUSE;
    while let Err(fault) = runtime.capabilities().await {
        if pause < LONGEST_PAUSE && pause * 2 >= LONGEST_PAUSE {
            tracing::info!(%fault, "no jailer yet: sessions wait for one");
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        if stop.or_drain(tokio::time::sleep(pause)).await.is_none() {
            return false;
        }
    }
    true
}
