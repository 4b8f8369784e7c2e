//! The first admin: made once, with a random password that is answered once and stored nowhere else.

use serde_json::json;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{BindingId, Error, Plain, PrincipalId};

use crate::access::password;
use crate::error::OrDomain as _;
use crate::system::System;

/// What `wharf up` shows at the first start.
pub struct Bootstrapped {
    pub username: &'static str,
    pub password: Plain,
}

impl System {
    /// `None` when there are principals already. Concurrent starters take turns; one makes it.
    pub async fn bootstrap(&self) -> Result<Option<Bootstrapped>, Error> {
        self.bootstrap_shown(|_| Ok(())).await
    }

    /// The same, with `show` called before the commit: a crash between the two leaves a password that opens nothing
    /// and makes another at the next start. The other order would leave an admin whose password nobody has seen.
    pub async fn bootstrap_shown(
        &self,
        show: impl FnOnce(&Bootstrapped) -> Result<(), Error> + Send,
    ) -> Result<Option<Bootstrapped>, Error> {
        const NAME: &str = "admin";
        let mut scope = self.global().await?;
        let now = scope.now();
        sqlx::query("select pg_advisory_xact_lock(hashtext('wharf/bootstrap'))")
            .execute(scope.tx()?)
            .await
            .or_domain()?;
        let some: bool = sqlx::query_scalar("select exists (select from principals)")
            .fetch_one(scope.tx()?)
            .await
            .or_domain()?;
        if some {
            return Ok(None);
        }
        let password = password::random()?;
        let id = PrincipalId::new();
        sqlx::query(
            "with p as (
                insert into principals (id, kind, name, display_name, password_hash, password_changed_at, created_at, updated_at)
                values ($1, 'user', $2, 'Administrator', $3, $4, $4, $4) returning id
             )
             insert into role_bindings (id, name, role_id, principal_id, created_at, updated_at)
             select $5, 'admin', r.id, p.id, $4, $4 from p, roles r where r.name = 'admin'",
        )
        .bind(id.uuid())
        .bind(NAME)
        .bind(password::hash(&password).await?)
        .bind(now.to_utc())
        .bind(BindingId::new().uuid())
        .execute(scope.tx()?)
        .await
        .or_domain()?;
        scope.audit(Verb::Create, Resource::Users, Some(id.uuid()), Some(NAME), json!({"first": true}));
        let first = Bootstrapped { username: NAME, password };
        show(&first)?;
        scope.commit().await?;
        Ok(Some(first))
    }
}
