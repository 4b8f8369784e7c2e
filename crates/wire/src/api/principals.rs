//! Users, service accounts and their API tokens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use wharf_domain::rbac::Rule;
use wharf_domain::{Code, Error, Labels, Name, ServiceAccountId, Time, TokenId, UserId};

use super::{LabelsPatch, Sensitive};

/// The two kinds of principals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalKind {
    /// A person.
    User,
    /// A program.
    ServiceAccount,
}

impl PrincipalKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ServiceAccount => "service-account",
        }
    }
}

/// A principal by kind and name: `user/alice` or `service-account/ci`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrincipalRef {
    pub kind: PrincipalKind,
    pub name: Name,
}

impl utoipa::PartialSchema for PrincipalRef {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("A principal by kind and name: `user/alice` or `service-account/ci`."))
            .pattern(Some("^(user|service-account)/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"))
            .examples([serde_json::json!("user/alice")])
            .into()
    }
}

impl utoipa::ToSchema for PrincipalRef {}

impl PrincipalRef {
    pub fn user(name: &Name) -> Self {
        Self { kind: PrincipalKind::User, name: name.clone() }
    }

    pub fn service_account(name: &Name) -> Self {
        Self { kind: PrincipalKind::ServiceAccount, name: name.clone() }
    }
}

impl FromStr for PrincipalRef {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let kind = |kind, name: &str| Ok(Self { kind, name: name.parse::<Name>()? });
        match s.split_once('/') {
            Some(("user", name)) => kind(PrincipalKind::User, name),
            Some(("service-account", name)) => kind(PrincipalKind::ServiceAccount, name),
            _ => Err(Error::new(
                Code::InvalidField,
                format!(
                    "{:?} is not a principal: write user/NAME or service-account/NAME",
                    s.chars().take(80).collect::<String>()
                ),
            )),
        }
    }
}

impl TryFrom<String> for PrincipalRef {
    type Error = Error;
    fn try_from(s: String) -> Result<Self, Error> {
        s.parse()
    }
}

impl From<PrincipalRef> for String {
    fn from(p: PrincipalRef) -> Self {
        p.to_string()
    }
}

impl fmt::Display for PrincipalRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

/// A person who may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The name the user logs in with.
    pub name: Name,
    /// What people call the user.
    pub display_name: String,
    /// Labels to find it by.
    pub labels: Labels,
    /// A disabled user cannot log in, and tokens given out before stop working.
    pub disabled: bool,
    /// When the user was made.
    pub created_at: Time,
    /// When the user was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A user to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// The name to log in with.
    pub name: Name,
    /// At least 8 characters.
    #[schema(min_length = 8, max_length = 1024)]
    pub password: Sensitive,
    /// What people call the user; the name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub display_name: Option<String>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to a user, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchUser {
    /// A new password; ends all logins of the user. At least 8 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 8, max_length = 1024)]
    pub password: Option<Sensitive>,
    /// What people call the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub display_name: Option<String>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
    /// True shuts the user out at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// A program's identity. It has no password, only API tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ServiceAccount {
    /// The service account's id.
    pub id: ServiceAccountId,
    /// The service account's name.
    pub name: Name,
    /// What it is for.
    pub description: String,
    /// Labels to find it by.
    pub labels: Labels,
    /// Tokens of a disabled service account do not work.
    pub disabled: bool,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A service account to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateServiceAccount {
    /// The service account's name.
    pub name: Name,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to a service account, as JSON merge patch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchServiceAccount {
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
    /// True stops all its tokens at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
}

/// An API token, without its secret part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiToken {
    /// The token's id.
    pub id: TokenId,
    /// The token's name.
    pub name: Name,
    /// When it stops working.
    pub expires_at: Time,
    /// The rules it is narrowed to; null means all of its owner's rights.
    pub rules: Option<Vec<Rule>>,
    /// When it was made.
    pub created_at: Time,
    /// When it was used last, to the minute; null means never.
    pub last_used_at: Option<Time>,
}

/// An API token to be made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// The token's name, unique for its owner.
    pub name: Name,
    /// How long it works: up to 10 years; 90 days when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 315_360_000)]
    pub expires_in_seconds: Option<u32>,
    /// Narrows the token to these rules; it never may more than its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
}

/// A new API token. Its secret part is shown here and never again.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NewToken {
    /// The token's id.
    pub id: TokenId,
    /// The token's name.
    pub name: Name,
    /// `wharf_…`; goes into `Authorization: Bearer …`. Only a hash of it is kept.
    pub token: Sensitive,
    /// When it stops working.
    pub expires_at: Time,
    /// When it was made.
    pub created_at: Time,
}
