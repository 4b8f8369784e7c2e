//! Where a build runs, once its package has been read: another image, other limits. Reserved like anybody's.

use wharf_domain::quota::Resources;
use wharf_domain::rbac::Verb;
use wharf_domain::session::Desired;
use wharf_domain::{Error, Name, NameOrId};

use super::work::{BuildTask, BuildWork, held};
use crate::error::OrDomain as _;
use crate::sessions::{NewSession, SessionPatch, SessionRow};

impl BuildWork {
    /// Gives the build's computer these limits. The row as it is then.
    pub async fn resize(&self, task: &BuildTask, resources: Resources) -> Result<SessionRow, Error> {
        let mut scope = self.scope(task.build.space).await?;
        held(&mut scope, task).await?;
        let permit = scope.sessions().permit(&NameOrId::Id(task.build.session), Verb::Update).await?;
        let patch = SessionPatch { resources: Some(resources), ..SessionPatch::default() };
        let row = scope.sessions().update(&permit, patch).await?;
        scope.commit().await?;
        Ok(row)
    }

    /// Gives the build another computer in place of the one it has, which goes. Both count until that is gone.
    pub async fn replace(
        &self,
        task: &mut BuildTask,
        image: &Name,
        runtime: &str,
        resources: Resources,
    ) -> Result<(), Error> {
        let mut scope = self.scope(task.build.space).await?;
        held(&mut scope, task).await?;
        let old = scope.sessions().permit(&NameOrId::Id(task.build.session), Verb::Delete).await?;
        let new = NewSession {
            resources,
            runtime: Some(runtime.to_owned()),
            network: serde_json::from_value(old.network.clone()).map_err(Error::internal)?,
            idle_timeout_seconds: old.idle_timeout_seconds,
            metadata: old.metadata.clone(),
            ..NewSession::of(image.clone())
        };
        let allowed = scope.sessions().allow(None).await?;
        let row = scope.sessions().create(&allowed, new).await?;
        sqlx::query("update sessions set created_by = $2 where id = $1")
            .bind(row.id.uuid())
            .bind(&task.build.created_by)
            .execute(scope.tx()?)
            .await
            .or_domain()?;
        sqlx::query("update builds set session_id = $2 where id = $1")
            .bind(task.build.id.uuid())
            .bind(row.id.uuid())
            .execute(scope.tx()?)
            .await
            .or_domain()?;
        scope.sessions().desire(&old, Desired::Deleted).await?;
        scope.commit().await?;
        task.build.session = row.id;
        Ok(())
    }
}
