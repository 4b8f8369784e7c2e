//! The command line as its user sees it: help, words it refuses, the file it keeps, what it sends and how it ends.
#![allow(clippy::unwrap_used)]

mod config;
mod contexts;
mod help;
mod login;
#[allow(dead_code)] // shared with the client, whose tests use more of it
#[path = "../../../client/tests/it/peer.rs"]
mod peer;
mod rows;
mod talk;
mod work;

use clap::FromArgMatches as _;
use wharf_cli::config::{Config, Context, Store, Tokens};
use wharf_cli::context::Env;
use wharf_cli::output::{Format, Out};
use wharf_cli::{Command, Ctx, Globals};
use wharf_domain::{Plain, Time};

/// A command line with a configuration of its own.
struct User {
    dir: tempfile::TempDir,
    env: Env,
}

impl User {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), env: Env::default() }
    }

    /// Who has a token and a space at this server.
    fn at(url: &str) -> Self {
        let mut user = Self::new();
        user.env.url = Some(url.to_owned());
        user.env.token = Some(Plain::new("t0"));
        user.env.space = Some("lab".to_owned());
        user
    }

    fn store(&self) -> Store {
        Store::at(self.dir.path().join("wharf/config.toml"))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn ctx(&self, globals: Globals) -> Ctx {
        let out = Out::fixed(globals.output.unwrap_or(Format::Table), None, || {
            Time::from_millis(1_800_000_000_000)
        });
        Ctx { globals, env: self.env.clone(), store: self.store(), out }
    }

    /// Runs a line; its exit code and what it says on stderr when it fails.
    async fn run(&self, line: &[&str]) -> (u8, String) {
        let matches = match wharf_cli::command().try_get_matches_from(std::iter::once(&"wharf").chain(line)) {
            Ok(m) => m,
            Err(e) => return (u8::try_from(e.exit_code()).unwrap(), e.to_string()),
        };
        let mut globals = Globals::from_arg_matches(&matches).unwrap();
        if let Some((_, noun)) = matches.subcommand() {
            globals = globals.or(Globals::from_arg_matches(noun).unwrap());
        }
        let command = Command::from_arg_matches(&matches).unwrap();
        match command.run(&self.ctx(globals)).await {
            Ok(()) => (0, String::new()),
            Err(e) => (wharf_cli::exit::code(&e), wharf_cli::exit::describe(&e)),
        }
    }
}

fn context(url: &str) -> Context {
    Context { url: url.to_owned(), space: None, username: Some("alice".into()), token: None, login: None }
}

fn logged_in(url: &str, access: &str, refresh: &str, expires_at: Time) -> Context {
    let login = Tokens { access_token: access.into(), refresh_token: refresh.into(), expires_at };
    Context { login: Some(login), ..context(url) }
}

fn config_of(current: &str, contexts: Vec<(&str, Context)>) -> Config {
    Config {
        current: Some(current.to_owned()),
        contexts: contexts.into_iter().map(|(n, c)| (n.to_owned(), c)).collect(),
    }
}
