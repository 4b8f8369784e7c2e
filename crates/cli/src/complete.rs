//! Completion in the shell, with live names: what the server knows is asked from it, briefly.
//!
//! A completion must never hang a prompt or print an error: no answer in time is no suggestion.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::CompleteEnv;
use serde::Deserialize;
use wharf_client::List;

use crate::context::{Ctx, Globals};

/// A prompt waits no longer than this.
const BRIEFLY: Duration = Duration::from_millis(1200);

/// Answers the shell and exits, when it was the shell that asked (`COMPLETE=bash wharf …`); else returns at once. Before
/// anything is printed.
pub fn complete(command: impl Fn() -> clap::Command) {
    CompleteEnv::with_factory(command).complete();
}

/// The options on the line being completed that decide which server and space are asked.
fn globals() -> Globals {
    let mut globals = Globals::default();
    let mut args = std::env::args().skip_while(|a| a != "--").skip(2);
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((n, v)) => (n.to_owned(), Some(v.to_owned())),
            None => (arg, None),
        };
        let slot = match name.as_str() {
            "--context" => &mut globals.context,
            "--url" => &mut globals.url,
            "-s" | "--space" => &mut globals.space,
            _ => continue,
        };
        *slot = value.or_else(|| args.next());
    }
    globals
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    state: Option<String>,
}

type Ask = fn(&Ctx) -> anyhow::Result<List>;

fn live(ask: Ask) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let Some(current) = current.to_str() else { return Vec::new() };
        fetch(ask, globals())
            .into_iter()
            .filter(|n| n.name.starts_with(current))
            .map(|n| CompletionCandidate::new(n.name).help(n.state.map(Into::into)))
            .collect()
    })
}

/// Asks on a thread of its own: the binary may already run a runtime.
fn fetch(ask: Ask, globals: Globals) -> Vec<Named> {
    ask_for(ask, globals)
}

fn ask_for<T: serde::de::DeserializeOwned + Send + 'static>(ask: Ask, globals: Globals) -> Vec<T> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        let names = runtime.block_on(async {
            let ctx = Ctx::new(globals).ok()?;
            let list = ask(&ctx).ok()?.page_size(Some(200));
            tokio::time::timeout(BRIEFLY, list.page::<T>(None)).await.ok()?.ok()
        });
        drop(send.send(names.map(|p| p.items).unwrap_or_default()));
        runtime.shutdown_background();
    });
    receive.recv_timeout(BRIEFLY).unwrap_or_default()
}

pub fn spaces() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.client()?.spaces().list()))
}

pub fn sessions() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.sessions().list()))
}

/// `SESSION:` for one side of a copy, or a local path.
pub fn session_or_path() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        use clap_complete::engine::{PathCompleter, ValueCompleter as _};
        let mut found = PathCompleter::any().complete(current);
        if let Some(current) = current.to_str().filter(|c| !c.contains(['/', ':', '.'])) {
            let names = fetch(|ctx| Ok(ctx.space()?.sessions().list()), globals());
            found.extend(
                names
                    .into_iter()
                    .filter(|n| n.name.starts_with(current))
                    .map(|n| CompletionCandidate::new(format!("{}:", n.name)).help(n.state.map(Into::into))),
            );
        }
        found
    })
}

pub fn secrets() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.secrets().list()))
}

pub fn providers() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.providers().list()))
}

pub fn agents() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.agents().list()))
}

pub fn connections() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.connections().list()))
}

pub fn published() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.published().list()))
}

pub fn repos() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.repos().list()))
}

pub fn policies() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.policies().list()))
}

/// Ids of what waits.
pub fn approvals() -> ArgValueCompleter {
    #[derive(Deserialize)]
    struct Waiting {
        id: String,
        summary: String,
    }
    ArgValueCompleter::new(|current: &OsStr| {
        let Some(current) = current.to_str() else { return Vec::new() };
        let all: Vec<Waiting> =
            ask_for(|ctx| Ok(ctx.space()?.approvals(vec![("state", "pending".to_owned())])), globals());
        all.into_iter()
            .filter(|w| w.id.starts_with(current))
            .map(|w| CompletionCandidate::new(w.id).help(Some(w.summary.into())))
            .collect()
    })
}

pub fn images() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.space()?.images().list()))
}

pub fn users() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.client()?.users().list()))
}

pub fn service_accounts() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.client()?.service_accounts().list()))
}

pub fn roles() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.client()?.roles().list()))
}

pub fn bindings() -> ArgValueCompleter {
    live(|ctx| Ok(ctx.client()?.role_bindings().list()))
}

/// Contexts are local: no server is asked.
pub fn contexts() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let current = current.to_str().unwrap_or_default();
        let Ok(config) = crate::config::Store::user().read() else { return Vec::new() };
        config
            .contexts
            .into_iter()
            .filter(|(name, _)| name.starts_with(current))
            .map(|(name, c)| CompletionCandidate::new(name).help(Some(c.url.into())))
            .collect()
    })
}
