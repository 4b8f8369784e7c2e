//! Which server a command talks to, as whom, in which space.
//!
//! Flags win over the environment, the environment over the current context. A token is never a flag: arguments of a
//! process can be read by others.

use std::sync::Arc;
use std::time::Duration;

use wharf_client::{Client, Credential, SessionApi, SpaceApi, TokenSource};
use wharf_domain::Plain;

use crate::config::{Config, Context, Store, Tokens};
use crate::exit::Refusal;
use crate::output::{Format, Out, now};

/// Where `wharf up` listens when nothing else is configured.
pub const DEFAULT_URL: &str = "http://127.0.0.1:7878";

/// Options every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Context to use instead of the current one
    #[arg(long, value_name = "NAME", add = crate::complete::contexts())]
    pub context: Option<String>,
    /// Server to use instead of the context's [env: WHARF_URL]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Space to act in [env: WHARF_SPACE]
    #[arg(short, long, value_name = "NAME", add = crate::complete::spaces())]
    pub space: Option<String>,
    /// How to write data: table (the default), json, yaml or name
    #[arg(short, long, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub output: Option<Format>,
}

impl Globals {
    /// These, and where they say nothing, those.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            context: other.context.or(self.context),
            url: other.url.or(self.url),
            space: other.space.or(self.space),
            output: other.output.or(self.output),
        }
    }
}

/// What the environment says. Empty is as good as unset.
#[derive(Clone, Default)]
pub struct Env {
    pub url: Option<String>,
    pub token: Option<Plain>,
    pub space: Option<String>,
}

impl Env {
    pub fn of_process() -> Self {
        let of = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        Self {
            url: of("WHARF_URL"),
            token: of("WHARF_TOKEN").map(|t| Plain::new(t.trim().as_bytes().to_vec())),
            space: of("WHARF_SPACE"),
        }
    }
}

/// What a command works with.
pub struct Ctx {
    pub globals: Globals,
    pub env: Env,
    pub store: Store,
    pub out: Out,
}

/// A server, and which context (if any) it was taken from.
pub struct Target {
    pub url: String,
    pub context: Option<(String, Context)>,
}

impl Ctx {
    pub fn new(globals: Globals) -> anyhow::Result<Self> {
        let out = Out::stdout(globals.output.unwrap_or_default());
        Ok(Self { globals, env: Env::of_process(), store: Store::user(), out })
    }

    /// Resolves the server.
    pub fn target(&self) -> anyhow::Result<Target> {
        self.target_in(&self.store.read()?)
    }

    fn target_in(&self, config: &Config) -> anyhow::Result<Target> {
        let named = |name: &str| config.context(name).map(|c| (name.to_owned(), c.clone()));
        if let Some(name) = &self.globals.context {
            let context = named(name)?;
            return Ok(Target {
                url: self.globals.url.clone().unwrap_or_else(|| context.1.url.clone()),
                context: Some(context),
            });
        }
        let current = config.current.as_deref().filter(|n| config.contexts.contains_key(*n));
        if let Some(url) = self.globals.url.as_ref().or(self.env.url.as_ref()) {
            // A login is used only at the very server it is for.
            let wanted = wharf_client::base_url(url)?;
            let same = |c: &Context| wharf_client::base_url(&c.url).is_ok_and(|u| u == wanted);
            let context = current
                .and_then(|n| config.contexts.get_key_value(n))
                .into_iter()
                .chain(&config.contexts)
                .find(|(_, c)| same(c))
                .map(|(n, c)| (n.clone(), c.clone()));
            return Ok(Target { url: url.clone(), context });
        }
        Ok(match current {
            Some(name) => {
                let context = named(name)?;
                Target { url: context.1.url.clone(), context: Some(context) }
            }
            None => Target { url: DEFAULT_URL.to_owned(), context: None },
        })
    }

    /// A client that speaks as nobody: for login, version and health.
    pub fn anonymous(&self, url: &str) -> anyhow::Result<Client> {
        Ok(Client::builder(url).agent(concat!("wharf/", env!("CARGO_PKG_VERSION"))).build()?)
    }

    /// A client that speaks as the user.
    pub fn client(&self) -> anyhow::Result<Client> {
        let target = self.target()?;
        let client = self.anonymous(&target.url)?;
        let credential = match (&self.env.token, &target.context) {
            (Some(token), context) if self.globals.context.is_none() || context.is_none() => {
                Credential::Token(token.clone())
            }
            (_, Some((name, context))) if same_server(&target.url, &context.url) => {
                match (&context.token, &context.login) {
                    (Some(token), _) => Credential::token(token.as_str()),
                    (None, Some(_)) => Credential::Source(Arc::new(FileLogin {
                        store: self.store.clone(),
                        context: name.clone(),
                        client: client.clone(),
                    })),
                    (None, None) => return Err(not_logged_in(&target.url)),
                }
            }
            _ => return Err(not_logged_in(&target.url)),
        };
        Ok(client.speaking_as(credential))
    }

    /// The name of the space to act in.
    pub fn space_name(&self) -> anyhow::Result<String> {
        if let Some(name) = self.globals.space.clone().or_else(|| self.env.space.clone()) {
            return Ok(name);
        }
        if let Some(space) = self.target()?.context.and_then(|(_, c)| c.space) {
            return Ok(space);
        }
        Err(Refusal::usage(
            "no space is chosen",
            "add --space NAME, or keep one with `wharf space use NAME`; `wharf space list` shows yours, `wharf space create NAME` makes one",
        )
        .into())
    }

    pub fn space(&self) -> anyhow::Result<SpaceApi> {
        // In this order: who is not logged in is told that first.
        let client = self.client()?;
        Ok(client.space(&self.space_name()?))
    }

    pub fn session(&self, name: &str) -> anyhow::Result<SessionApi> {
        Ok(self.space()?.session(name))
    }
}

fn same_server(a: &str, b: &str) -> bool {
    matches!((wharf_client::base_url(a), wharf_client::base_url(b)), (Ok(a), Ok(b)) if a == b)
}

fn not_logged_in(url: &str) -> anyhow::Error {
    Refusal::denied(format!("you are not logged in to {url}"), format!("wharf login {url}")).into()
}

/// A login kept in the configuration file.
///
/// A refresh token works once, and using one twice ends the login: so whoever renews holds the file's lock from reading the
/// old one to having written the new one, and looks first whether another did it meanwhile.
pub struct FileLogin {
    store: Store,
    context: String,
    client: Client,
}

/// Renewed this long before it ends, so that it does not end on the way.
const MARGIN: Duration = Duration::from_secs(20);

impl FileLogin {
    pub fn new(store: Store, context: impl Into<String>, client: Client) -> Self {
        Self { store, context: context.into(), client }
    }

    fn ended(&self, why: &str) -> wharf_client::Error {
        wharf_client::Error::LoggedOut(format!("the login at {} has ended: {why}", self.client.base()))
    }

    fn tokens(&self, config: &Config) -> Result<Tokens, wharf_client::Error> {
        config
            .contexts
            .get(&self.context)
            .and_then(|c| c.login.clone())
            .ok_or_else(|| self.ended("it is no longer in the configuration"))
    }
}

fn local(error: anyhow::Error) -> wharf_client::Error {
    wharf_client::Error::Io {
        what: "the configuration".into(),
        source: std::io::Error::other(format!("{error:#}")),
    }
}

#[async_trait::async_trait]
impl TokenSource for FileLogin {
    async fn token(&self) -> wharf_client::Result<Plain> {
        let tokens = self.tokens(&self.store.read().map_err(local)?)?;
        let access = Plain::new(tokens.access_token);
        if tokens.expires_at > now().plus(MARGIN) { Ok(access) } else { self.renewed(&access).await }
    }

    async fn renewed(&self, stale: &Plain) -> wharf_client::Result<Plain> {
        let store = self.store.clone();
        let locked = tokio::task::spawn_blocking(move || store.lock())
            .await
            .map_err(|e| local(e.into()))?
            .map_err(local)?;
        let mut config = locked.read().map_err(local)?;
        let tokens = self.tokens(&config)?;
        if tokens.access_token.as_bytes() != stale.expose() {
            return Ok(Plain::new(tokens.access_token));
        }
        let answer = self.client.auth().renew(&tokens.refresh_token).await;
        let Some(context) = config.contexts.get_mut(&self.context) else {
            return Err(self.ended("its context was deleted"));
        };
        match answer {
            Ok(pair) => {
                let access = Plain::new(pair.access_token.as_bytes().to_vec());
                context.login = Some(tokens_of(pair));
                locked.write(&config).map_err(local)?;
                Ok(access)
            }
            Err(e @ wharf_client::Error::LoggedOut(_)) => {
                context.login = None;
                locked.write(&config).map_err(local)?;
                Err(e)
            }
            Err(e) => Err(e),
        }
    }
}

/// Tokens of a fresh login, with the time they end.
pub fn tokens_of(pair: wharf_client::api::Pair) -> Tokens {
    Tokens {
        access_token: pair.access_token,
        refresh_token: pair.refresh_token,
        expires_at: now().plus(Duration::from_secs(u64::from(pair.expires_in_seconds))),
    }
}
