//! PostgreSQL as the single truth: everything that is written or read of it goes through here.
//!
//! - [`Store`] is the door; there is no public pool.
//! - [`Store::authenticate`] makes a [`Caller`], [`Store::scope`] and [`Store::global`] open a transaction as that
//!   caller, the nouns on a [`Scope`] hand out [`Permit`]s, and writes take a permit.
//! - Background work enters through [`Store::system`] with an [`Actor`], a row of the same matrix of rights.
//! - A change, its event and its audit entry are one transaction; wake-ups leave after the commit.
//!
//! Refuses to let SQL, row types or connections out.

mod access;
pub mod agents;
pub mod audit;
mod caller;
pub mod cluster;
mod config;
mod error;
mod events;
mod gateway;
mod guard;
mod idempotency;
mod migrate;
pub mod models;
mod notify;
mod page;
mod permit;
mod providers;
pub mod published;
pub mod quota;
pub mod repos;
mod retention;
mod scope;
mod secrets;
pub mod sessions;
mod spaces;
mod store;
mod system;

pub use access::bindings::{Binding, BindingPatch, NewBinding};
pub use access::bootstrap::Bootstrapped;
pub use access::keys::Jwks;
pub use access::login::Tokens;
pub use access::port_links::PortGuest;
pub use access::principals::{NewPrincipal, Principal, PrincipalPatch, ServiceAccount, User};
pub use access::review::{Review, ReviewAnswer};
pub use access::roles::{NewRole, Role, RolePatch};
pub use access::tokens::{ApiToken, IssuedToken, NewApiToken};
pub use caller::{Caller, Credential, CredentialKind, Identity, PrincipalKind, RequestMeta};
pub use cluster::{Cluster, ClusterConfig};
pub use config::{Database, StoreConfig};
pub use error::OrDomain;
pub use events::{Event, EventPage, EventRecord, Position};
pub use gateway::{
    Connection, ConnectionPatch, Connections, EGRESS_OPEN, EgressEntry, EgressFilter, EgressRow, JailOwner,
    LiveConnection, NewConnection,
};
pub use guard::{Approval, ApprovalFilter, Asked, NewApproval, NewPolicy, Policy, PolicyPatch};
pub use idempotency::{Begin, IdempotencyHandle, IdempotencyRequest};
pub use migrate::schema_fingerprint;
pub use page::{Page, PageRequest};
pub use permit::{New, Permit};
pub use providers::{NewProvider, Provider, ProviderPatch};
pub use retention::Swept;
pub use scope::{Scope, SpaceRef};
pub use secrets::{NewSecret, Secret, SecretPatch};
pub use spaces::{NewSpace, Space, SpacePatch, Usage};
pub use store::Store;
pub use system::{Actor, System};
