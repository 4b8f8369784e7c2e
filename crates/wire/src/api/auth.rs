//! Login, tokens, and who one is.

use serde::{Deserialize, Serialize};
use wharf_domain::rbac::Rule;
use wharf_domain::{Name, PrincipalId, SpaceId, Time};

use super::{PrincipalRef, Sensitive};

/// A user's name and password.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The user's name.
    pub username: Name,
    /// The user's password.
    #[schema(min_length = 1, max_length = 1024)]
    pub password: Sensitive,
}

/// A refresh token to be exchanged for new tokens.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// The newest refresh token of this login. Each works once; using one twice ends the login.
    pub refresh_token: Sensitive,
}

/// What a login or a refresh answers.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenPair {
    /// Goes into `Authorization: Bearer …`. Signed with EdDSA; `/.well-known/jwks.json` has the keys.
    pub access_token: Sensitive,
    /// Always `Bearer`.
    pub token_type: String,
    /// How long the access token works.
    pub expires_in_seconds: u32,
    /// Exchanged at `/v1/auth/token` for the next pair. Absent where the login cannot be prolonged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Sensitive>,
    /// When the refresh token stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_expires_at: Option<Time>,
}

/// Whom to become, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImpersonateRequest {
    /// The principal to act as.
    pub principal: PrincipalRef,
    /// How long the access token works; there is no refresh token. 1 to 900.
    #[schema(minimum = 1, maximum = 900)]
    pub seconds: u32,
}

/// Who the caller is and what the caller may do.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Me {
    /// The caller's id.
    pub id: PrincipalId,
    /// The caller as other requests name them.
    pub principal: PrincipalRef,
    /// Who really acts, when this is an impersonation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonator: Option<PrincipalRef>,
    /// The rights the caller has through role bindings.
    pub grants: Vec<GrantView>,
    /// The rules this credential is narrowed to; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subset: Option<Vec<Rule>>,
}

/// One role the caller has, where, and by which binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GrantView {
    /// The role binding's name.
    pub binding: String,
    /// The role's name.
    pub role: String,
    /// The space the binding is for; null means everywhere.
    pub space: Option<SpaceId>,
    /// The role's rules.
    pub rules: Vec<Rule>,
}

/// The keys that verify access tokens (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Jwks {
    /// The signing key in use and those whose tokens still live.
    pub keys: Vec<Jwk>,
}

/// One Ed25519 public key (RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Jwk {
    /// Always `OKP`.
    pub kty: String,
    /// Always `Ed25519`.
    pub crv: String,
    /// Always `EdDSA`.
    pub alg: String,
    /// Always `sig`.
    #[serde(rename = "use")]
    pub usage: String,
    /// The key's id, as in the token's header.
    pub kid: String,
    /// The public key, base64url.
    pub x: String,
}
