//! Which sessions a watcher of their list is told of.

use uuid::Uuid;
use wharf_domain::labels::Selector;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, NameOrId, SessionId};
use wharf_store::Scope;
use wharf_store::sessions::SessionFilter;
use wharf_wire::api;

use super::list_watch::Watched;
use super::view;

pub(super) struct Sessions {
    pub filter: SessionFilter,
    pub labels: Selector,
}

impl Watched for Sessions {
    const RESOURCE: Resource = Resource::Sessions;
    type Object = api::Session;

    async fn find(&self, scope: &mut Scope, id: Uuid) -> Result<Option<(String, api::Session)>, Error> {
        let space = scope.space()?.name.clone();
        let id = SessionId::from_uuid(id);
        let permit = scope.sessions().permit(&NameOrId::Id(id), Verb::Watch).await?;
        let found = view::session(&space, permit.into_row())?;
        Ok(self.matches(&found).then(|| (found.name.to_string(), found)))
    }
}

impl Sessions {
    fn matches(&self, s: &api::Session) -> bool {
        self.labels.matches(&s.labels)
            && self.filter.state.is_none_or(|state| state == s.state)
            && self.filter.agent.as_deref().is_none_or(|kind| kind == s.agent.kind.as_str())
    }
}
