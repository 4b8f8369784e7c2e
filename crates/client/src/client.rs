//! The client itself: an address, a credential, and how patient it is.

use std::sync::{Arc, Once};
use std::time::Duration;

use url::Url;

use crate::call::Call;
use crate::credential::Credential;
use crate::error::{Error, Result};

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until a plain call is answered in full.
    pub call: Duration,
    /// Until the next byte of a stream; the server sends a comment every 15 s, so silence for longer is a dead peer.
    pub silence: Duration,
    /// Attempts of a call that is safe to repeat; 1 means no retry.
    pub attempts: u32,
    /// Pause before the second attempt; doubled after each, with jitter, up to `pause_max`.
    pub pause: Duration,
    /// No pause is longer, whatever `Retry-After` asks: past that the error is the caller's to see.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(60),
            silence: Duration::from_secs(45),
            attempts: 5,
            pause: Duration::from_millis(200),
            pause_max: Duration::from_secs(10),
        }
    }
}

struct Inner {
    http: reqwest::Client,
    /// For bodies that are streamed: an upload, and the work on it, take as long as they take, and no byte comes back meanwhile.
    uploads: reqwest::Client,
    base: Url,
    patience: Patience,
}

/// A typed client of the HTTP API. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    credential: Credential,
}

/// What a [`Client`] is made of.
pub struct Builder {
    base: String,
    credential: Credential,
    patience: Patience,
    agent: String,
}

impl Builder {
    #[must_use]
    pub fn credential(mut self, credential: Credential) -> Self {
        self.credential = credential;
        self
    }

    #[must_use]
    pub fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// What the server's log calls this program.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = agent.into();
        self
    }

    /// Refuses an address that is no `http(s)` URL or carries a password, a query or a fragment.
    pub fn build(self) -> Result<Client> {
        let base = base_url(&self.base)?;
        crypto();
        let (patience, agent) = (self.patience, self.agent);
        let made = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|e| Error::Invalid(format!("no HTTP client could be made: {e}")))
        };
        let http = made(common(&base, &patience, &agent).read_timeout(patience.silence))?;
        let uploads = made(
            common(&base, &patience, &agent)
                .tcp_keepalive(patience.silence / 3)
                .tcp_keepalive_interval(patience.silence / 6)
                .tcp_keepalive_retries(4),
        )?;
        Ok(Client { inner: Arc::new(Inner { http, uploads, base, patience }), credential: self.credential })
    }
}

fn common(base: &Url, patience: &Patience, agent: &str) -> reqwest::ClientBuilder {
    let mut builder = reqwest::Client::builder();
    if base.scheme() == "http" {
        // Redirects are not followed, so TLS is never spoken: reading the machine's certificates would cost a command
        // more time than its call.
        let none = rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty());
        builder = builder.tls_backend_preconfigured(none.with_no_client_auth());
    }
    builder
        .connect_timeout(patience.connect)
        .redirect(reqwest::redirect::Policy::none()) // a redirect would take the token along
        .user_agent(agent)
        .tcp_nodelay(true)
}

/// Which cryptography TLS uses, once for the process. Another library may have chosen already; that one stays.
/// Whoever builds a bare `reqwest` client calls it first.
pub fn crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// Reads a base address. `localhost:7474` gets its scheme; a path is kept as prefix.
pub fn base_url(text: &str) -> Result<Url> {
    let text = text.trim();
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let refuse = |why: &str| Error::Invalid(format!("{text:?} is not a server address: {why}"));
    let mut url = Url::parse(&with_scheme).map_err(|e| refuse(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("use http:// or https://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Invalid("a server address carries no user or password; log in instead".into()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it ends with a query or fragment"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

impl Client {
    pub fn builder(base: impl Into<String>) -> Builder {
        Builder {
            base: base.into(),
            credential: Credential::None,
            patience: Patience::default(),
            agent: concat!("wharf-client/", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// The server's address, as read.
    pub fn base(&self) -> &Url {
        &self.inner.base
    }

    /// The same connections, speaking as someone else.
    #[must_use]
    pub fn speaking_as(&self, credential: Credential) -> Self {
        Self { inner: self.inner.clone(), credential }
    }

    pub fn patience(&self) -> &Patience {
        &self.inner.patience
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.inner.http
    }

    pub(crate) fn uploads(&self) -> &reqwest::Client {
        &self.inner.uploads
    }

    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Begins a call to `/v1/…`; `segments` are percent-encoded one by one.
    pub fn call<'a>(&self, method: reqwest::Method, segments: impl IntoIterator<Item = &'a str>) -> Call {
        Call::new(self.clone(), method, self.url(std::iter::once("v1").chain(segments)))
    }

    /// Begins a call to a path as it stands, query included (`/v1/spaces?limit=3`, `/livez`).
    pub fn call_path(&self, method: reqwest::Method, path: &str) -> Result<Call> {
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let mut url = self.inner.base.clone();
        url.set_path(&format!(
            "{}/{}",
            self.inner.base.path().trim_end_matches('/'),
            path.trim_start_matches('/')
        ));
        url.set_query(query);
        Ok(Call::new(self.clone(), method, url))
    }

    /// Begins a call outside `/v1` (health, version).
    pub fn call_root<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Call {
        Call::new(self.clone(), reqwest::Method::GET, self.url(segments))
    }

    fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
        /// What a path segment cannot hold as it is (RFC 3986 `pchar`, and `%` itself).
        const SEGMENT: &AsciiSet = &CONTROLS
            .add(b' ')
            .add(b'"')
            .add(b'#')
            .add(b'%')
            .add(b'<')
            .add(b'>')
            .add(b'?')
            .add(b'`')
            .add(b'{')
            .add(b'}')
            .add(b'/')
            .add(b'\\')
            .add(b'^')
            .add(b'[')
            .add(b']')
            .add(b'|');
        let mut path = self.inner.base.path().trim_end_matches('/').to_owned();
        for s in segments {
            path.push('/');
            path.extend(utf8_percent_encode(s, SEGMENT));
        }
        let mut url = self.inner.base.clone();
        url.set_path(&path);
        url
    }
}
