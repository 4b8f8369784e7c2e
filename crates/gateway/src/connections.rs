//! Connections of a space, kept for a moment; and putting a credential into a request.
//!
//! The secret stays sealed until it is put in. It replaces whatever the client put in its place, and is taken out of the
//! answer's headers should the upstream repeat it there.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use wharf_domain::egress::Target;
use wharf_domain::egress::rule::Placement;
use wharf_domain::{Error, Plain, SpaceId};
use wharf_ports::{Topic, Wake};
use wharf_store::{LiveConnection, System};

use crate::kept::Kept;
use crate::problem::Refusal;
use crate::sessions::Session;

const FRESH: Duration = Duration::from_secs(1);
const MOST: usize = 4096;
/// Credentials shorter than this are not looked for in answers: they would be found everywhere.
const TELLING: usize = 6;

type All = Arc<Vec<Arc<LiveConnection>>>;

/// What there is for a repository at an ssh server.
pub(crate) enum Found {
    Covers(Arc<LiveConnection>),
    /// Names of those that are for other paths there.
    OtherPaths(Vec<String>),
    Nothing,
}

/// A credential that a request under way carries, and what of the request it was given for.
pub(crate) struct Used {
    pub live: Arc<LiveConnection>,
    pub method: String,
    pub path: String,
}

pub(crate) struct Connections {
    system: System,
    kept: Kept<SpaceId, All>,
}

impl Connections {
    pub fn new(system: System) -> Self {
        let kept = Kept::of(system.store(), FRESH, MOST);
        Self { system, kept }
    }

    pub fn hear(&self, wake: Wake) {
        match wake {
            Wake::Topic(Topic::Space(id)) => self.kept.forget(|space, _| *space == id),
            Wake::Topic(_) => {}
            Wake::Missed => self.kept.forget(|_, _| true),
        }
    }

    /// Those of the session's space, no older than what is known of the session.
    async fn of(&self, session: &Session) -> Result<All, Error> {
        let space = session.space;
        if let Some(all) = self.kept.get_since(&space, session.read) {
            return Ok(all);
        }
        let begun = self.kept.begin();
        let all: All =
            Arc::new(self.system.live_connections(space).await?.into_iter().map(Arc::new).collect());
        self.kept.put(begun, space, all.clone());
        Ok(all)
    }

    /// Whether requests to the target may get a credential, so that its TLS has to end here.
    pub async fn concern(&self, session: &Session, target: &Target) -> Result<bool, Error> {
        let web = |c: &LiveConnection| c.connection.placement.as_ssh().is_none();
        Ok(self.of(session).await?.iter().any(|c| web(c) && c.connection.rule.host_matches(target)))
    }

    /// The connection whose credential a request gets: the narrowest that covers it.
    pub async fn covering(
        &self,
        session: &Session,
        target: &Target,
        method: &str,
        path: &str,
    ) -> Result<Option<Arc<LiveConnection>>, Error> {
        let all = self.of(session).await?;
        let found = all.iter().find(|c| {
            let rule = &c.connection.rule;
            c.connection.placement.as_ssh().is_none()
                && rule.host_matches(target)
                && rule.covers(method, path)
        });
        Ok(found.cloned())
    }

    /// The connection whose key logs in at an ssh server, for one repository there.
    pub async fn ssh(&self, session: &Session, target: &Target, path: &str) -> Result<Found, Error> {
        let all = self.of(session).await?;
        let here = all
            .iter()
            .filter(|c| c.connection.placement.as_ssh().is_some() && c.connection.rule.matches_ssh(target));
        let here: Vec<_> = here.collect();
        Ok(match here.iter().find(|c| c.connection.rule.covers_repository(path)) {
            Some(live) => Found::Covers(Arc::clone(live)),
            None if here.is_empty() => Found::Nothing,
            None => Found::OtherPaths(here.iter().map(|c| c.connection.name.to_string()).collect()),
        })
    }

    /// The secret of a connection, for what does not put it into a request.
    pub fn open(&self, live: &LiveConnection) -> Result<Plain, Error> {
        self.system.open_connection(live)
    }

    /// Whether a request that got a connection's credential would get the same one now.
    pub async fn still(&self, session: &Session, target: &Target, used: &Used) -> Result<bool, Error> {
        let was = &used.live.connection;
        let all = self.of(session).await?;
        let now = all.iter().map(|c| &c.connection).find(|c| c.id == was.id);
        Ok(now.is_some_and(|now| {
            let same = now.secret_id == was.secret_id && now.placement == was.placement;
            same && if now.placement.as_ssh().is_some() {
                now.rule.matches_ssh(target) && now.rule.covers_repository(&used.path)
            } else {
                now.rule.host_matches(target) && now.rule.covers(&used.method, &used.path)
            }
        }))
    }

    /// Puts the credential in; answers what must not come back.
    pub fn inject(&self, live: &LiveConnection, head: &mut Parts) -> Result<Hidden, Refusal> {
        let secret = self.system.open_connection(live)?;
        let name = &live.connection.name;
        put(&live.connection.placement, &secret, head).map_err(|why| {
            Refusal::upstream(
                "credential",
                format!("the credential of connection {name} could not be added: {why}"),
            )
        })
    }
}

/// Without the line's end that files and here-documents leave behind a secret.
fn trimmed(secret: &Plain) -> &[u8] {
    let bytes = secret.expose();
    let end = bytes.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |at| at + 1);
    &bytes[..end]
}

pub(crate) fn put(placement: &Placement, secret: &Plain, head: &mut Parts) -> Result<Hidden, &'static str> {
    let secret = trimmed(secret);
    let mut hidden = Hidden::default();
    hidden.add(secret);
    let header = |bytes: &[u8]| {
        let mut value =
            HeaderValue::from_bytes(bytes).map_err(|_| "it holds characters that no header can have")?;
        value.set_sensitive(true);
        Ok::<_, &'static str>(value)
    };
    match placement {
        Placement::Header { name, prefix } => {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "its header has no name")?;
            let value = Plain::new([prefix.as_bytes(), secret].concat());
            head.headers.insert(name, header(value.expose())?);
        }
        Placement::Basic { user } => {
            let pair = Plain::new([user.as_bytes(), b":", secret].concat());
            let encoded = Plain::new(STANDARD.encode(pair.expose()));
            hidden.add(encoded.expose());
            let value = Plain::new([b"Basic ", encoded.expose()].concat());
            head.headers.insert(AUTHORIZATION, header(value.expose())?);
        }
        Placement::Ssh(_) => return Err("it is the key of an ssh server"),
        Placement::Query { name } => {
            let encoded = Plain::new(percent_encode(secret, NON_ALPHANUMERIC).to_string());
            hidden.add(encoded.expose());
            head.uri = with_parameter(&head.uri, name, encoded.expose_str().unwrap_or_default())?;
        }
    }
    Ok(hidden)
}

/// The URI with one parameter of that name, last.
fn with_parameter(uri: &Uri, name: &str, value: &str) -> Result<Uri, &'static str> {
    let same = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default().replace('+', " ");
        percent_decode_str(&key).collect::<Vec<u8>>() != name.as_bytes()
    };
    let mut query: Vec<&str> =
        uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty()).filter(same).collect();
    let ours = format!("{}={value}", percent_encode(name.as_bytes(), NON_ALPHANUMERIC));
    query.push(&ours);
    let text = format!("{}?{}", uri.path(), query.join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query =
        Some(PathAndQuery::try_from(text).map_err(|_| "the request's address takes no query")?);
    Uri::from_parts(parts).map_err(|_| "the request's address takes no query")
}

/// What must not come back to the session.
#[derive(Default)]
pub(crate) struct Hidden(Vec<Plain>);

impl Hidden {
    fn add(&mut self, bytes: &[u8]) {
        if bytes.len() >= TELLING {
            self.0.push(Plain::new(bytes));
        }
    }

    /// Takes it out of an answer's headers, as a redirect to the same address with the query repeats it.
    pub fn clean(&self, headers: &mut HeaderMap) {
        for value in headers.values_mut() {
            for hidden in &self.0 {
                if let Some(cleaned) = without(value.as_bytes(), hidden.expose()) {
                    *value = HeaderValue::from_bytes(&cleaned)
                        .unwrap_or_else(|_| HeaderValue::from_static("hidden"));
                }
            }
        }
    }
}

/// `text` with `hidden` replaced; `None` where it is not in it.
fn without(text: &[u8], hidden: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut found = false;
    while let Some(at) = rest.windows(hidden.len()).position(|w| w == hidden) {
        found = true;
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(b"hidden");
        rest = &rest[at + hidden.len()..];
    }
    out.extend_from_slice(rest);
    found.then_some(out)
}

#[cfg(test)]
mod tests;
