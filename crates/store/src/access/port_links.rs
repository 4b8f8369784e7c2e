//! Links to a port of a session: signed, short-lived, good for that one port, and worth what their maker's credential is.
//!
//! A link says as whom, by which login or API token, and where. Nothing is kept of it: with every use the login or the token is
//! looked at again and the maker's rights are read anew, so that logging out, deleting the token or unbinding the role
//! ends it. It is none of the access tokens: neither is taken for the other.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wharf_domain::{Code, Error, Plain, SessionId, Time, TokenId};

use super::keys::Claims;
use crate::caller::{Caller, CredentialKind, RequestMeta, unauthenticated};
use crate::store::Store;

const ISSUER: &str = "wharf-port";

#[derive(Serialize, Deserialize)]
struct Link {
    iss: String,
    sub: Uuid,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    fam: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tok: Option<Uuid>,
    ses: Uuid,
    prt: u16,
    jti: Uuid,
    iat: i64,
    exp: i64,
}

/// A link that was shown, with whom it speaks for.
#[derive(Clone, Debug)]
pub struct PortGuest {
    pub caller: Caller,
    pub session: SessionId,
    pub port: u16,
}

impl Store {
    /// Signs a link for a caller that may use the port.
    pub async fn sign_port_link(
        &self,
        caller: &Caller,
        session: SessionId,
        port: u16,
        ttl: Duration,
    ) -> Result<(Plain, Time), Error> {
        let (fam, tok) = match caller.credential() {
            CredentialKind::Access { family } => (Some(family), None),
            CredentialKind::ApiToken(token) => (None, Some(token.uuid())),
            CredentialKind::Impersonation | CredentialKind::System => {
                let detail = "links are made by those they speak for; log in as the one you act for";
                return Err(Error::new(Code::Forbidden, detail));
            }
            // A link ends with the login or token it was made with, and a password alone is neither.
            CredentialKind::Password => {
                let detail = "a link is made with a login or an API token; log in first";
                return Err(Error::new(Code::Forbidden, detail));
            }
        };
        let sub = caller.identity().id.uuid();
        let claims = |iat, exp| Link {
            iss: ISSUER.to_owned(),
            sub,
            fam,
            tok,
            ses: session.uuid(),
            prt: port,
            jti: Uuid::now_v7(),
            iat,
            exp,
        };
        self.sign_claims(ttl, claims).await
    }

    /// Whom a link speaks for, now. Whether they may use the port is the scope's to judge.
    pub async fn open_port_link(&self, token: &Plain, meta: RequestMeta) -> Result<PortGuest, Error> {
        let text = token.expose_str().ok_or_else(|| unauthenticated("the link is not text"))?;
        let link: Link = self.verify_claims(text, ISSUER, |l: &Link| l.exp).await?;
        let caller = match (link.fam, link.tok) {
            (Some(fam), None) => self.by_claims(Claims::of(link.sub, fam), meta).await?,
            (None, Some(tok)) => self.by_token_id(TokenId::from_uuid(tok), meta).await?,
            _ => return Err(unauthenticated("the link names no credential")),
        };
        if caller.identity().id.uuid() != link.sub {
            return Err(unauthenticated("the link's credential is not its maker's"));
        }
        Ok(PortGuest { caller, session: SessionId::from_uuid(link.ses), port: link.prt })
    }
}
