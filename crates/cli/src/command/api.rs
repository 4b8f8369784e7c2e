//! `wharf api METHOD PATH`: any call of the HTTP API, for scripts and for what has no command.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use wharf_client::Method;

use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::print;
use crate::prompt;

/// Call any path of the HTTP API
///
/// Prints the answer's body as it comes; event streams are followed. `{space}` in the path stands for the chosen space. A path
/// without a leading slash is below /v1/.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf api GET spaces
  wharf api POST spaces/{space}/sessions '{\"name\": \"demo\"}'
  wharf api PATCH spaces/{space}/sessions/demo - < patch.json
  wharf api GET 'spaces/{space}/sessions/demo/events'
  wharf api GET /openapi.json")]
pub struct Api {
    /// GET, POST, PUT, PATCH or DELETE
    #[arg(value_parser = method)]
    method: Method,
    /// Path with its query
    path: String,
    /// JSON body, or `-` to read it from stdin
    body: Option<String>,
    /// Idempotency key of a POST; a random one when absent
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Only change what is still at this version (If-Match)
    #[arg(long, value_name = "VERSION")]
    if_match: Option<String>,
    /// Media type to ask for (Accept)
    #[arg(long, value_name = "TYPE")]
    accept: Option<String>,
    /// Media type of the body
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: String,
    /// Print status and headers on stderr
    #[arg(short, long)]
    include: bool,
}

fn method(text: &str) -> Result<Method, String> {
    let method = text.to_ascii_uppercase();
    match method.as_str() {
        "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" => {
            method.parse().map_err(|_| "no method".to_owned())
        }
        _ => Err("it is none of GET, POST, PUT, PATCH, DELETE".to_owned()),
    }
}

impl Api {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let mut path = self.path;
        if path.contains("{space}") {
            path = path.replace("{space}", &ctx.space_name()?);
        }
        if !path.starts_with('/') {
            path = format!("/v1/{path}");
        }
        let body = match self.body.as_deref() {
            Some("-") => Some(prompt::bytes("-".as_ref())?.expose().to_vec()),
            Some(text) => Some(text.as_bytes().to_vec()),
            None => None,
        };
        if let Some(body) = &body
            && self.content_type == "application/json"
            && let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(body)
        {
            return Err(Refusal::usage(format!("the body is not JSON: {e}"), "nothing was sent").into());
        }
        let mut call =
            ctx.client()?.call_path(self.method, &path)?.limit(None).if_match(self.if_match.as_deref());
        if let Some(accept) = &self.accept {
            call = call.header("accept", accept);
        }
        if let Some(body) = body {
            call = call
                .bytes("application/octet-stream", body.into())
                .header("content-type", &self.content_type);
        }
        if let Some(key) = &self.idempotency_key {
            call = call.idempotency_key(key);
        }
        let mut answer = tokio::select! {
            answer = call.send() => answer?,
            () = hint_when_slow() => unreachable!("the hint never ends"),
        };
        if self.include {
            let mut err = std::io::stderr().lock();
            writeln!(err, "{:?} {}", answer.version(), answer.status())?;
            for (name, value) in answer.headers() {
                writeln!(err, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
            }
            writeln!(err)?;
        }
        let json = answer
            .headers()
            .get("content-type")
            .and_then(|v| v.to_str().ok())
            .is_some_and(|t| t.starts_with("application/json"));
        if json && std::io::stdout().is_terminal() {
            let bytes = answer.bytes().await.context("the answer broke off")?;
            let value: serde_json::Value =
                serde_json::from_slice(&bytes).context("the answer is not JSON")?;
            return print((serde_json::to_string_pretty(&value)? + "\n").as_bytes());
        }
        let mut last = b'\n';
        while let Some(chunk) = answer.chunk().await.context("the answer broke off")? {
            last = chunk.last().copied().unwrap_or(last);
            print(&chunk)?;
        }
        if json && last != b'\n' {
            print(b"\n")?;
        }
        Ok(())
    }
}

/// A call without a limit says after a while that it still waits.
async fn hint_when_slow() {
    tokio::time::sleep(Duration::from_secs(10)).await;
    if std::io::stderr().is_terminal() {
        crate::output::note("still waiting for an answer; Ctrl-C ends it");
    }
    std::future::pending::<()>().await;
}
