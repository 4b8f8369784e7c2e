//! Typed ids. All are UUIDv7, so they sort by creation; mixing two kinds does not compile.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, ordered after all ids made earlier on this machine.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self { Self(Uuid::now_v7()) }
            pub const fn from_uuid(id: Uuid) -> Self { Self(id) }
            pub const fn uuid(self) -> Uuid { self.0 }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self { id.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> { Uuid::try_parse(s).map(Self) }
        }
    )*};
}

ids! {
    UserId,
    ServiceAccountId,
    /// A user or a service account: what a token stands for and what audit entries name.
    PrincipalId,
    TokenId,
    RoleId,
    BindingId,
    SpaceId,
    SecretId,
    ConnectionId,
    /// Guardrails of a space.
    PolicyId,
    /// Something that waits until somebody allows or denies it.
    ApprovalId,
    /// A model provider of a space.
    ProviderId,
    /// One request to a model provider; what it used is counted under it once.
    ModelRequestId,
    ImageId,
    SessionId,
    TurnId,
    SnapshotId,
    AgentId,
    BuildId,
    /// An immutable copy of files that outlives their session.
    PublishedId,
    /// A process with the operator role; leases name it.
    OperatorId,
    /// One running (or warm) sandbox. A session gets a new one with every start from the native runtime, the same one
    /// from a runtime that keeps its sandboxes.
    JailId,
    /// A session's root filesystem as the runtime knows it; outlives its jails.
    VolumeId,
    AuditId,
    /// A line of the egress log.
    EgressId,
    RequestId,
    /// A git repository.
    RepoId,
    /// One push to a repository.
    PushId,
}
