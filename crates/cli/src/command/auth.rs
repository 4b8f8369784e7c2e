//! `wharf login`, `logout`, `whoami`.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::config::Context;
use crate::context::{Ctx, DEFAULT_URL, tokens_of};
use crate::exit::Refusal;
use crate::output::{Format, note};
use crate::prompt;

/// Log in to a server and remember it
///
/// The password is asked for, or read from a file or stdin; it is never an argument. The login renews itself until
/// `wharf logout`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf login
  wharf login https://wharf.example.com --username alice
  wharf login --username ci --password-file /run/secrets/wharf
  echo \"$TOKEN\" | wharf login https://wharf.example.com --token-file -")]
pub struct Login {
    /// Address of the server; the one in use, else http://127.0.0.1:7878
    address: Option<String>,
    /// User to log in as; asked for when absent
    #[arg(short, long, value_name = "NAME", conflicts_with = "token_file")]
    username: Option<String>,
    /// Read the password from a file (`-` is stdin)
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    password_file: Option<PathBuf>,
    /// Keep an API token (of a service account) from a file (`-` is stdin) instead of logging in with a password
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What to call this context; made from the host name when absent
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Login {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let config = ctx.store.read()?;
        let url = match &self.address {
            Some(address) => address.clone(),
            None => ctx.target().map_or_else(|_| DEFAULT_URL.to_owned(), |t| t.url),
        };
        let base = wharf_client::base_url(&url)?;
        let url = base.as_str().trim_end_matches('/').to_owned();
        let client = ctx.anonymous(&url)?;
        let name = self.name.clone().or_else(|| ctx.globals.context.clone()).unwrap_or_else(|| {
            let known = config.contexts.iter().find(|(_, c)| c.url == url).map(|(n, _)| n.clone());
            known.unwrap_or_else(|| context_name(&base, |n| config.contexts.contains_key(n)))
        });
        let before = config.contexts.get(&name).filter(|c| c.url == url).cloned();

        let mut context = Context { url: url.clone(), space: None, username: None, token: None, login: None };
        if let Some(file) = &self.token_file {
            let token = prompt::bytes(file)?;
            let token = token.expose_str().context("the token is not text")?.trim().to_owned();
            if token.is_empty() {
                return Err(Refusal::usage("the token is empty", "nothing was changed; try again").into());
            }
            context.token = Some(token);
        } else {
            let known = before.as_ref().and_then(|c| c.username.clone());
            let username = match self.username.or(known.filter(|_| self.password_file.is_some())) {
                Some(name) => name,
                None => prompt::line("Username", "add --username NAME")?,
            };
            let user: wharf_domain::Name = username.parse()?;
            let password =
                prompt::password(&format!("Password of {username} at {url}"), self.password_file.as_deref())?;
            context.login = Some(tokens_of(client.auth().login(&user, &password).await?));
            context.username = Some(username);
        }
        let credential = context.token.as_ref().or(context.login.as_ref().map(|l| &l.access_token));
        let client = client.speaking_as(
            credential
                .map_or(wharf_client::Credential::None, |t| wharf_client::Credential::token(t.as_str())),
        );
        let me = client.auth().me().await?;

        // The space stays as it was; someone who has but one space needs not choose.
        context.space = before.and_then(|c| c.space);
        if context.space.is_none() {
            let spaces = client
                .spaces()
                .list()
                .take::<wharf_wire::api::Space>(Some(2))
                .await
                .map(|(s, _)| s)
                .unwrap_or_default();
            if let [only] = spaces.as_slice() {
                context.space = Some(only.name.to_string());
            }
        }
        let space = context.space.clone();
        ctx.store.change(|config| {
            config.contexts.insert(name.clone(), context);
            config.current = Some(name.clone());
            Ok(())
        })?;
        note(format!("logged in to {url} as {} (context {name})", me.principal));
        match space {
            Some(space) => note(format!("space: {space}")),
            None => note(
                "no space is chosen: `wharf space list` shows yours, `wharf space create NAME` makes one, `wharf space use NAME` keeps it",
            ),
        }
        Ok(())
    }
}

/// `local` for this machine, else the host's name; a number behind it when that is taken.
fn context_name(url: &url::Url, taken: impl Fn(&str) -> bool) -> String {
    let host = url.host_str().unwrap_or("server");
    let base = match host {
        "localhost" | "127.0.0.1" | "[::1]" => "local".to_owned(),
        host => host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect(),
    };
    if !taken(&base) {
        return base;
    }
    (2..=u16::MAX).map(|n| format!("{base}-{n}")).find(|n| !taken(n)).unwrap_or(base)
}

/// End the login and forget its tokens
///
/// The server forgets the login too. The context stays, so that the next `wharf login` is shorter.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf logout
  wharf logout --context staging")]
pub struct Logout {}

impl Logout {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let Some((name, context)) = ctx.target()?.context else {
            return Err(Refusal::failed("you are not logged in").into());
        };
        // Forgotten here in any case: a server that is away must not keep a token on this disk.
        ctx.store.change(|config| {
            if let Some(c) = config.contexts.get_mut(&name) {
                c.login = None;
                c.token = None;
            }
            Ok(())
        })?;
        if let Some(login) = &context.login {
            let client = ctx.anonymous(&context.url)?;
            let client = client.speaking_as(wharf_client::Credential::token(login.access_token.as_str()));
            match client.auth().logout().await {
                Ok(()) => {}
                // The login had ended already.
                Err(wharf_client::Error::Problem(p)) if p.status == 401 => {}
                Err(e) => {
                    return Err(anyhow::Error::from(e).context(
                        "the tokens are gone from this machine, but the server did not hear of it",
                    ));
                }
            }
        }
        note(format!("logged out of {} (context {name})", context.url));
        Ok(())
    }
}

/// Show who you are and what you may do
#[derive(Debug, clap::Args)]
pub struct Whoami {}

impl Whoami {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let me = ctx.client()?.auth().me().await?;
        if ctx.out.format == Format::Name {
            return crate::output::print(format!("{}\n", me.principal).as_bytes());
        }
        ctx.out.value(&me)
    }
}
