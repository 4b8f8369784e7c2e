//! Who may do what: groups, resources, verbs, rules, and the built-in roles.
//!
//! A rule grants; nothing denies, so the answer never depends on order. A binding gives a role's rules to a
//! principal in one space or everywhere.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::SpaceId;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum $name { $(#[serde(rename = $text)] $variant),* }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text),* } }
        }
        impl std::str::FromStr for $name {
            type Err = crate::Error;
            fn from_str(s: &str) -> Result<Self, crate::Error> {
                match s {
                    $($text => Ok(Self::$variant),)*
                    other => Err(crate::Error::new(crate::Code::InvalidField, format!(
                        "{:?} is none of {}", other.chars().take(80).collect::<String>(), [$($text),*].join(", ")))),
                }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

words! {
    /// API groups of rules.
    Group { Core = "core", Sessions = "sessions", Work = "work", Workers = "workers", Access = "access" }
}

words! {
    /// Kinds of things rules speak of.
    Resource {
        Spaces = "spaces", Secrets = "secrets", Images = "images", Events = "events", Usage = "usage",
        Connections = "connections", Providers = "providers", Policies = "policies",
        Sessions = "sessions", Messages = "messages", Files = "files", Processes = "processes",
        Snapshots = "snapshots", Egress = "egress", Agents = "agents", Builds = "builds", Published = "published",
        Repos = "repos", Approvals = "approvals",
        Users = "users", ServiceAccounts = "service-accounts", Tokens = "tokens", Roles = "roles",
        RoleBindings = "role-bindings", Audit = "audit",
    }
}

impl Resource {
    pub const fn group(self) -> Group {
        match self {
            Self::Spaces
            | Self::Secrets
            | Self::Connections
            | Self::Providers
            | Self::Policies
            | Self::Images
            | Self::Events
            | Self::Usage => Group::Core,
            Self::Sessions
            | Self::Messages
            | Self::Files
            | Self::Processes
            | Self::Snapshots
            | Self::Egress
            | Self::Agents
            | Self::Builds
            | Self::Published
            | Self::Approvals => Group::Sessions,
            Self::Repos => Group::Work,
            Self::Users
            | Self::ServiceAccounts
            | Self::Tokens
            | Self::Roles
            | Self::RoleBindings
            | Self::Audit => Group::Access,
        }
    }

    /// Whether things of this kind live in a space; the others are global.
    pub const fn spaced(self) -> bool {
        !matches!(
            self,
            Self::Users
                | Self::ServiceAccounts
                | Self::Tokens
                | Self::Roles
                | Self::RoleBindings
                | Self::Audit
        )
    }
}

words! {
    /// What may be done.
    Verb {
        Get = "get", List = "list", Watch = "watch", Create = "create", Update = "update", Delete = "delete",
        Exec = "exec", ReadValues = "read-values", Impersonate = "impersonate", Publish = "publish",
        Approve = "approve",
    }
}

/// One grant. `*` in a list stands for all; an empty `names` means every name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// Resources, or `*`.
    pub resources: Vec<String>,
    /// Names the rule is narrowed to; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
}

fn holds(list: &[String], word: &str) -> bool {
    list.iter().any(|w| w == "*" || w == word)
}

impl Rule {
    pub fn allows(&self, resource: Resource, verb: Verb, name: Option<&str>) -> bool {
        holds(&self.groups, resource.group().as_str())
            && holds(&self.resources, resource.as_str())
            && holds(&self.verbs, verb.as_str())
            && (self.names.is_empty() || name.is_some_and(|n| holds(&self.names, n)))
    }

    /// Refuses words that are in none of the vocabularies: a rule that cannot match is a mistake.
    pub fn validate(&self) -> crate::Result<()> {
        fn all<T: std::str::FromStr<Err = crate::Error>>(field: &str, list: &[String]) -> crate::Result<()> {
            if list.is_empty() {
                return Err(crate::Error::new(
                    crate::Code::InvalidField,
                    format!("a rule needs at least one of {field}"),
                )
                .field(field));
            }
            for word in list.iter().filter(|w| *w != "*") {
                word.parse::<T>().map_err(|e| e.field(field))?;
            }
            Ok(())
        }
        all::<Group>("groups", &self.groups)?;
        all::<Resource>("resources", &self.resources)?;
        all::<Verb>("verbs", &self.verbs)
    }

    fn new(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Self {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Self { groups: own(groups), resources: own(resources), names: Vec::new(), verbs: own(verbs) }
    }
}

/// A role's rules as bound to a principal: in one space, or everywhere when `space` is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The binding's name, so that an access review can say which one allowed it.
    pub binding: String,
    pub role: String,
    pub space: Option<SpaceId>,
    pub rules: Vec<Rule>,
}

/// Everything a caller may do. A token's `subset` narrows it: both must allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub grants: Vec<Grant>,
    /// `Some` for a scoped token: the rules it was narrowed to.
    pub subset: Option<Vec<Rule>>,
}

impl Rights {
    /// Which grant allows it, or `None`. `space: None` asks for a global thing (or for "in every space").
    pub fn allowing(
        &self,
        space: Option<SpaceId>,
        resource: Resource,
        verb: Verb,
        name: Option<&str>,
    ) -> Option<&Grant> {
        if let Some(subset) = &self.subset
            && !subset.iter().any(|r| r.allows(resource, verb, name))
        {
            return None;
        }
        // What lives in no space is never reached by a grant in one, wherever the question is asked.
        let space = space.filter(|_| resource.spaced());
        self.grants
            .iter()
            .filter(|g| g.space.is_none() || g.space == space)
            .find(|g| g.rules.iter().any(|r| r.allows(resource, verb, name)))
    }

    pub fn allows(&self, space: Option<SpaceId>, resource: Resource, verb: Verb, name: Option<&str>) -> bool {
        self.allowing(space, resource, verb, name).is_some()
    }

    /// Spaces the caller may know of: those any grant names; `None` means all of them.
    pub fn known_spaces(&self) -> Option<BTreeSet<SpaceId>> {
        let mut spaces = BTreeSet::new();
        for g in &self.grants {
            match g.space {
                Some(s) => {
                    spaces.insert(s);
                }
                None if g.rules.iter().any(|r| r.allows(Resource::Spaces, Verb::Get, None)) => return None,
                None => {}
            }
        }
        Some(spaces)
    }
}

/// The roles every installation has; they cannot be changed or deleted.
pub fn built_in_roles() -> Vec<(&'static str, Vec<Rule>)> {
    vec![
        ("admin", vec![Rule::new(&["*"], &["*"], &["*"])]),
        (
            "operator",
            vec![Rule::new(
                &["core", "sessions", "work", "workers"],
                &["*"],
                &["get", "list", "watch", "create", "update", "delete", "exec", "publish", "approve"],
            )],
        ),
        (
            "developer",
            vec![
                Rule::new(
                    &["sessions", "work", "workers"],
                    &["*"],
                    &["get", "list", "watch", "create", "update", "delete", "exec", "publish", "approve"],
                ),
                Rule::new(
                    &["core"],
                    &[
                        "spaces",
                        "secrets",
                        "connections",
                        "providers",
                        "policies",
                        "images",
                        "events",
                        "usage",
                    ],
                    &["get", "list", "watch"],
                ),
                Rule::new(&["core"], &["secrets"], &["create", "update", "delete"]),
            ],
        ),
        (
            "viewer",
            vec![Rule::new(&["core", "sessions", "work", "workers"], &["*"], &["get", "list", "watch"])],
        ),
        (
            "agent",
            vec![
                Rule::new(
                    &["sessions"],
                    &["sessions", "messages", "files", "processes"],
                    &["get", "list", "watch"],
                ),
                Rule::new(&["sessions"], &["messages"], &["create"]),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests;
