//! Acting as someone else: a short token that carries both identities, and so does every audit entry made with it.

use std::time::Duration;

use serde_json::json;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Code, Error, NameOrId, Plain, PrincipalId, Time};

use crate::access::principals::{read, rights_of};
use crate::access::{cover, keys};
use crate::caller::{CredentialKind, Identity, PrincipalKind};
use crate::error::OrDomain as _;
use crate::scope::Scope;
use crate::spaces::split;

impl Scope {
    /// A token for the caller to act as `principal`, for at most 15 minutes. Commits on its own. Not from an API
    /// token or another impersonation: there must be one login behind it that can be ended.
    pub async fn impersonate(
        mut self,
        kind: PrincipalKind,
        principal: &NameOrId<PrincipalId>,
        lifetime: Duration,
    ) -> Result<(Plain, Time, Identity), Error> {
        if lifetime.is_zero() || lifetime > keys::ACCESS_TTL {
            return Err(Error::new(
                Code::InvalidField,
                format!("seconds is between 1 and {}", keys::ACCESS_TTL.as_secs()),
            )
            .field("seconds"));
        }
        let resource = if kind == PrincipalKind::User { Resource::Users } else { Resource::ServiceAccounts };
        let (id, named) = split(principal);
        let row = sqlx::query(
            "select id, kind, name, display_name, labels, disabled, resource_version, created_at, updated_at
             from principals where kind = $1 and (id = $2 or name = $3)",
        )
        .bind(kind.as_str())
        .bind(id)
        .bind(named)
        .fetch_optional(self.tx()?)
        .await
        .or_domain()?;
        let Some(row) = row.as_ref().map(read).transpose()? else {
            let word = principal.to_string();
            if !self.caller.may(None, resource, Verb::Get, Some(&word))
                && let Some(e) = self.denied(resource, Verb::Impersonate, None, Some(&word), None).await
            {
                return Err(e);
            }
            return Err(Error::not_found(kind.as_str(), word));
        };
        let target = Identity { id: row.id, kind: row.kind, name: row.name.to_string() };
        let rights = rights_of(&mut self, row.id.uuid()).await?;
        if let Err(refused) = cover::may_impersonate(&self.caller.rights, &target, &rights) {
            let known = self.caller.may(None, resource, Verb::Get, Some(&target.name));
            let (id, name) = (Some(target.id.uuid()), Some(target.name.as_str()));
            if let Some(e) = self.denied(resource, Verb::Impersonate, id, name, None).await {
                return Err(e);
            }
            return Err(if known { refused } else { Error::not_found(kind.as_str(), principal) });
        }
        let CredentialKind::Access { family } = self.caller.credential else {
            return Err(Error::new(
                Code::Forbidden,
                "acting as someone else starts from a login of your own, not from an API token or another impersonation",
            ));
        };
        if row.disabled {
            return Err(Error::new(Code::InvalidState, format!("{} is disabled", target.name)));
        }
        let detail = json!({"seconds": lifetime.as_secs()});
        self.audit(Verb::Impersonate, resource, Some(target.id.uuid()), Some(&target.name), detail);
        let (store, by) = (self.store.clone(), self.caller.identity.id.uuid());
        self.commit().await?;
        let (token, until) = store.sign(target.id.uuid(), family, Some(by), lifetime).await?;
        Ok((token, until, target))
    }
}
