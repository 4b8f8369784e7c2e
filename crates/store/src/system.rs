//! The way in for background work: an actor is a row of the same matrix of rights.

use std::sync::Arc;

use uuid::Uuid;
use wharf_domain::rbac::{Grant, Rights, Rule};
use wharf_domain::{Error, NameOrId, PrincipalId, RequestId, SpaceId};

use crate::caller::{Caller, CredentialKind, Identity, PrincipalKind, RequestMeta};
use crate::scope::Scope;
use crate::store::Store;

/// A part of Wharf that acts on its own behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Reconcilers and the turn driver.
    Operator,
    /// Appends to the audit chain and verifies it.
    Chainer,
    /// Removes what has outlived its time.
    Retention,
    /// Rewraps secrets and rotates signing keys.
    Keeper,
    /// `wharf` itself at start: the first admin, images known to the runtime.
    Setup,
    /// The way out of sessions: reads what they may reach, and opens the secrets it adds to requests.
    Gateway,
    /// The git server: writes down what became of pushes.
    Git,
}

impl Actor {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Chainer => "chainer",
            Self::Retention => "retention",
            Self::Keeper => "keeper",
            Self::Setup => "setup",
            Self::Gateway => "gateway",
            Self::Git => "git",
        }
    }

    fn rules(self) -> Vec<Rule> {
        let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| {
            let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
            Rule { groups: own(groups), resources: own(resources), names: Vec::new(), verbs: own(verbs) }
        };
        match self {
            Self::Operator => vec![
                rule(&["sessions"], &["*"], &["*"]),
                rule(
                    &["core"],
                    &["spaces", "images", "events", "usage"],
                    &["get", "list", "watch", "update"],
                ),
                rule(&["core"], &["images"], &["create", "delete"]),
                rule(&["core"], &["secrets"], &["get", "read-values"]),
            ],
            Self::Chainer => vec![rule(&["access"], &["audit"], &["get", "list", "create"])],
            Self::Retention => vec![rule(&["core", "sessions"], &["*"], &["get", "list", "delete"])],
            Self::Keeper => vec![rule(&["core"], &["secrets"], &["get", "list", "update"])],
            Self::Setup => vec![rule(&["*"], &["*"], &["*"])],
            Self::Gateway => vec![
                rule(&["sessions"], &["sessions", "egress", "approvals"], &["get", "list", "create"]),
                rule(
                    &["core"],
                    &["spaces", "connections", "providers", "policies", "events", "usage"],
                    &["get", "list", "update"],
                ),
                rule(&["core"], &["secrets"], &["get", "read-values"]),
            ],
            Self::Git => vec![
                rule(&["work"], &["repos"], &["get", "list", "update", "delete"]),
                rule(&["core"], &["spaces"], &["get", "list"]),
            ],
        }
    }
}

/// Opens scopes as an actor.
#[derive(Clone)]
pub struct System {
    pub(crate) store: Store,
    pub(crate) caller: Caller,
}

impl System {
    pub(crate) fn new(store: Store, actor: Actor) -> Self {
        let grant = Grant {
            binding: "built-in".to_owned(),
            role: actor.name().to_owned(),
            space: None,
            rules: actor.rules(),
        };
        let caller = Caller {
            identity: Identity {
                id: PrincipalId::from_uuid(Uuid::nil()),
                kind: PrincipalKind::System,
                name: actor.name().to_owned(),
            },
            impersonator: None,
            rights: Arc::new(Rights { grants: vec![grant], subset: None }),
            meta: RequestMeta { request_id: RequestId::new(), address: None },
            credential: CredentialKind::System,
        };
        Self { store, caller }
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub async fn scope(&self, space: SpaceId) -> Result<Scope, Error> {
        self.store.scope(&self.caller, &NameOrId::Id(space)).await
    }

    pub async fn global(&self) -> Result<Scope, Error> {
        self.store.global(&self.caller).await
    }
}
