//! Who a client speaks as.
//!
//! A token is held as [`Plain`], so that it cannot end in a debug line. Where tokens are kept and how a fresh one
//! is had belongs to the caller, through [`TokenSource`]; [`Login`] is the one for a single process.

use std::sync::Arc;

use wharf_domain::Plain;

use crate::error::Result;
use crate::{Client, Error};

/// Hands out access tokens and replaces the expired.
#[async_trait::async_trait]
pub trait TokenSource: Send + Sync {
    /// The token to use now; renewed first where it is known to be expired.
    async fn token(&self) -> Result<Plain>;

    /// The server refused `stale`: a token that is not `stale`, or an error that says to log in again. Called by
    /// several at once, it must renew only once.
    async fn renewed(&self, stale: &Plain) -> Result<Plain>;
}

/// What goes into `Authorization`.
#[derive(Clone)]
pub enum Credential {
    /// Nothing: for login, health and version.
    None,
    /// A token that cannot be renewed (an API token, or one from the environment).
    Token(Plain),
    /// A login that renews itself.
    Source(Arc<dyn TokenSource>),
}

impl Credential {
    pub fn token(text: impl Into<Vec<u8>>) -> Self {
        Self::Token(Plain::new(text))
    }

    pub(crate) async fn current(&self) -> Result<Option<Plain>> {
        match self {
            Self::None => Ok(None),
            Self::Token(t) => Ok(Some(t.clone())),
            Self::Source(s) => s.token().await.map(Some),
        }
    }

    pub(crate) async fn renewed(&self, stale: Option<&Plain>) -> Result<Option<Plain>> {
        match (self, stale) {
            (Self::Source(s), Some(stale)) => s.renewed(stale).await.map(Some),
            _ => Ok(None),
        }
    }
}

/// A login of this process alone: the pair of tokens lives in memory and is renewed one caller at a time.
pub struct Login {
    client: Client,
    pair: tokio::sync::Mutex<(Plain, Plain)>,
}

impl Login {
    /// `client` needs no credential; it is only asked to renew.
    pub fn new(client: Client, access: Plain, refresh: Plain) -> Self {
        Self { client, pair: tokio::sync::Mutex::new((access, refresh)) }
    }
}

#[async_trait::async_trait]
impl TokenSource for Login {
    async fn token(&self) -> Result<Plain> {
        Ok(self.pair.lock().await.0.clone())
    }

    async fn renewed(&self, stale: &Plain) -> Result<Plain> {
        let mut pair = self.pair.lock().await;
        if pair.0 != *stale {
            return Ok(pair.0.clone());
        }
        let refresh =
            pair.1.expose_str().ok_or_else(|| Error::Invalid("the refresh token is no text".into()))?;
        let fresh = self.client.auth().renew(refresh).await?;
        *pair = (Plain::new(fresh.access_token), Plain::new(fresh.refresh_token));
        Ok(pair.0.clone())
    }
}
