//! Who is calling: made by authentication alone, carried by every scope.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;
use wharf_domain::rbac::{Resource, Rights, Rule, Verb};
use wharf_domain::{Code, Error, Plain, PrincipalId, RequestId, SpaceId, TokenId};

/// What came with the request.
#[derive(Clone)]
pub enum Credential {
    /// The token of `Authorization: Bearer`: an access token or an API token, told apart by its shape.
    Bearer(Plain),
    /// `Authorization: Basic`, for programs that know no other: a user and the password, or any name and an API token.
    Basic { username: String, password: Plain },
}

/// What an audit entry says about where a call came from.
#[derive(Clone, Copy, Debug)]
pub struct RequestMeta {
    pub request_id: RequestId,
    pub address: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    User,
    ServiceAccount,
    /// A role of Wharf itself.
    System,
    /// Nobody: a call without a valid credential, in the audit log only.
    Anonymous,
}

impl PrincipalKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service-account",
            Self::System => "system",
            Self::Anonymous => "anonymous",
        }
    }

    pub(crate) fn read(text: &str) -> Result<Self, Error> {
        match text {
            "user" => Ok(Self::User),
            "service-account" => Ok(Self::ServiceAccount),
            other => Err(Error::internal(format!("principal kind {other:?} in the database"))),
        }
    }
}

/// One principal as audit entries name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub id: PrincipalId,
    pub kind: PrincipalKind,
    pub name: String,
}

/// What the caller showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// An access token of this login.
    Access {
        family: Uuid,
    },
    /// A short token by which someone acts as someone else.
    Impersonation,
    ApiToken(TokenId),
    /// The password itself, with every request.
    Password,
    System,
}

/// An authenticated caller with the rights it has right now.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(crate) identity: Identity,
    pub(crate) impersonator: Option<Identity>,
    pub(crate) rights: Arc<Rights>,
    pub(crate) meta: RequestMeta,
    pub(crate) credential: CredentialKind,
}

/// Which names of a kind the caller may see in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Visible {
    All,
    Names(Vec<String>),
    Nothing,
}

impl Visible {
    /// For `($n::text[] is null or name = any($n))`.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::All => None,
            Self::Names(names) => Some(names.clone()),
            Self::Nothing => Some(Vec::new()),
        }
    }
}

impl Caller {
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn impersonator(&self) -> Option<&Identity> {
        self.impersonator.as_ref()
    }

    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    pub fn meta(&self) -> RequestMeta {
        self.meta
    }

    pub fn credential(&self) -> CredentialKind {
        self.credential
    }

    /// Whether it may, without a word in the audit log: for choices of presentation, never instead of a permit.
    pub fn may(&self, space: Option<SpaceId>, resource: Resource, verb: Verb, name: Option<&str>) -> bool {
        self.rights.allows(space, resource, verb, name)
    }

    /// Whether the caller may know that the space exists: some grant reaches into it.
    pub(crate) fn knows(&self, space: SpaceId) -> bool {
        let reaches = |rules: &[Rule]| rules.iter().any(reaches_into_spaces);
        self.rights.grants.iter().any(|g| match g.space {
            Some(s) => s == space,
            None => reaches(&g.rules),
        }) && self.rights.subset.as_ref().is_none_or(|s| reaches(s))
    }

    /// Names of `resource` that lists show to this caller. `space: None` is for global kinds.
    pub(crate) fn visible(&self, space: Option<SpaceId>, resource: Resource, verb: Verb) -> Visible {
        let space = space.filter(|_| resource.spaced());
        let granted = self.rights.grants.iter().filter(|g| g.space.is_none() || g.space == space);
        let granted = names(granted.flat_map(|g| &g.rules), resource, verb);
        let Some(subset) = &self.rights.subset else { return granted };
        match (granted, names(subset.iter(), resource, verb)) {
            (Visible::Nothing, _) | (_, Visible::Nothing) => Visible::Nothing,
            (Visible::All, other) | (other, Visible::All) => other,
            (Visible::Names(a), Visible::Names(b)) => {
                Visible::Names(a.into_iter().filter(|n| b.contains(n)).collect())
            }
        }
    }
}

fn names<'a>(rules: impl Iterator<Item = &'a Rule>, resource: Resource, verb: Verb) -> Visible {
    let mut seen = BTreeSet::new();
    for rule in rules {
        // Whether the rule is about this kind at all is asked with one of its own names.
        if rule.allows(resource, verb, None) {
            return Visible::All;
        }
        for name in &rule.names {
            if rule.allows(resource, verb, Some(name)) {
                if name == "*" {
                    return Visible::All;
                }
                seen.insert(name.clone());
            }
        }
    }
    if seen.is_empty() { Visible::Nothing } else { Visible::Names(seen.into_iter().collect()) }
}

fn reaches_into_spaces(rule: &Rule) -> bool {
    let any_name = rule.names.first().map(String::as_str);
    Resource::ALL
        .iter()
        .filter(|r| r.spaced())
        .any(|r| Verb::ALL.iter().any(|v| rule.allows(*r, *v, any_name)))
}

pub(crate) fn unauthenticated(why: &str) -> Error {
    Error::new(
        Code::Unauthenticated,
        format!("{why}; log in or send a valid token as `Authorization: Bearer …`"),
    )
}
