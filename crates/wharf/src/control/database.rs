//! Which PostgreSQL: the one the settings name, or a private one run as a child of this process.

use anyhow::{Context as _, Result};
use wharf_chassis::Settings;
use wharf_domain::Plain;
use wharf_store::cluster::ClusterError;
use wharf_store::{Cluster, ClusterConfig, Database, StoreConfig};

/// The name the cluster makes its database under.
const DATABASE: &str = "wharf";

pub struct Opened {
    database: Database,
    /// Ours to stop.
    cluster: Option<Cluster>,
    /// Whether other processes may write to the same database.
    shared: bool,
}

/// Starts the private cluster, where none is named.
pub async fn open(settings: &Settings) -> Result<Opened> {
    if let Some(url) = &settings.database_url {
        let database = Database::Url(Plain::new(url.expose().as_bytes()));
        return Ok(Opened { database, cluster: None, shared: true });
    }
    let cluster = Cluster::start(ClusterConfig::new(settings.postgres_dir()))
        .await
        .context("the private PostgreSQL")?;
    Ok(Opened { database: cluster.database(), cluster: Some(cluster), shared: false })
}

/// The same beside a control plane that may be running: its cluster is used where it is up, started where not.
pub async fn join(settings: &Settings) -> Result<Opened> {
    if settings.database_url.is_some() {
        return open(settings).await;
    }
    let config = ClusterConfig::new(settings.postgres_dir());
    let database = config.database(DATABASE);
    match Cluster::start(config).await {
        Ok(cluster) => Ok(Opened { database, cluster: Some(cluster), shared: true }),
        Err(ClusterError::Taken(_)) => Ok(Opened { database, cluster: None, shared: true }),
        Err(error) => Err(error).context("the private PostgreSQL"),
    }
}

impl Opened {
    pub fn config(&self) -> StoreConfig {
        let mut config = StoreConfig::new(self.database.clone());
        config.bridge = self.shared;
        config
    }

    pub async fn stop(self) {
        if let Some(cluster) = self.cluster
            && let Err(error) = cluster.stop().await
        {
            tracing::error!(%error, "PostgreSQL was not stopped cleanly; it recovers at the next start");
        }
    }
}
