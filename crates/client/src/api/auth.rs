//! Login, renewal, logout, impersonation, who one is.

use reqwest::Method;
use wharf_wire::api::{self, Sensitive};

use crate::client::Client;
use crate::error::{Error, Result};

/// `/auth/…`
pub struct AuthApi {
    client: Client,
}

/// A pair of tokens, as a login that renews itself needs it.
pub struct Pair {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in_seconds: u32,
}

impl Pair {
    fn of(pair: api::TokenPair) -> Result<Self> {
        let refresh = pair
            .refresh_token
            .ok_or_else(|| Error::LoggedOut("the server gave no way to prolong this login".into()))?;
        Ok(Self {
            access_token: pair.access_token.into_inner(),
            refresh_token: refresh.into_inner(),
            expires_in_seconds: pair.expires_in_seconds,
        })
    }
}

impl AuthApi {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub async fn login(&self, username: &wharf_domain::Name, password: &str) -> Result<Pair> {
        let body = api::LoginRequest { username: username.clone(), password: Sensitive::new(password) };
        Pair::of(self.client.call(Method::POST, ["auth", "login"]).json(&body).send_json().await?)
    }

    /// Exchanges the refresh token. Each works once: whoever calls this keeps the answer before anything else.
    pub async fn renew(&self, refresh_token: &str) -> Result<Pair> {
        let body = api::RefreshRequest { refresh_token: Sensitive::new(refresh_token) };
        let answer = self.client.call(Method::POST, ["auth", "token"]).json(&body).send_json().await;
        Pair::of(answer.map_err(|e| match e {
            Error::Problem(p) if p.status == 401 || p.status == 403 => {
                Error::LoggedOut(format!("the login has ended: {}", p.detail))
            }
            other => other,
        })?)
    }

    /// Ends the login the access token came from.
    pub async fn logout(&self) -> Result<()> {
        self.client.call(Method::POST, ["auth", "logout"]).send_unit().await
    }

    pub async fn me(&self) -> Result<api::Me> {
        self.client.call(Method::GET, ["auth", "me"]).send_json().await
    }

    /// A token that acts as somebody else; both identities are in the audit log.
    pub async fn impersonate(&self, principal: &api::PrincipalRef, seconds: u32) -> Result<api::TokenPair> {
        let body = api::ImpersonateRequest { principal: principal.clone(), seconds };
        self.client.call(Method::POST, ["auth", "impersonate"]).json(&body).send_json().await
    }
}
