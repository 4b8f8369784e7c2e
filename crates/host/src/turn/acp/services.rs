//! What an agent may ask of the host: text files and terminals of the session, all as the session's own user.
//!
//! What takes time is done beside the conversation, so that an agent may wait for a terminal and talk meanwhile.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::files;
use super::rpc::{self, Fault};
use super::terminals::{Create, Terminals};
use crate::host::Host;
use crate::turn::process::Mouth;

#[derive(Deserialize)]
struct Read {
    path: String,
    #[serde(default)]
    line: Option<usize>,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct Write {
    path: String,
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminal {
    terminal_id: String,
}

fn params<T: DeserializeOwned>(params: Value) -> Result<T, Fault> {
    serde_json::from_value(params).map_err(|e| Fault::params(e.to_string()))
}

pub fn serve(
    host: &Arc<Host>,
    mouth: &Mouth,
    terminals: &Arc<Terminals>,
    id: Value,
    method: &str,
    given: Value,
) {
    let (host, mouth, terminals, method) =
        (Arc::clone(host), mouth.clone(), Arc::clone(terminals), method.to_owned());
    tokio::spawn(async move {
        let answer = answer(&host, &terminals, &method, given).await;
        // An agent that does not read any more is found out by whoever talks with it.
        let _ = mouth.tell(&rpc::answer(id, answer));
    });
}

async fn answer(host: &Arc<Host>, terminals: &Terminals, method: &str, given: Value) -> Result<Value, Fault> {
    match method {
        "fs/read_text_file" => {
            let Read { path, line, limit } = params(given)?;
            let content = files::read(host, &path).await?;
            Ok(json!({"content": lines(content, line, limit)}))
        }
        "fs/write_text_file" => {
            let Write { path, content } = params(given)?;
            files::write(host, &path, content.as_bytes()).await?;
            Ok(Value::Null)
        }
        "terminal/create" => {
            let create: Create = params(given)?;
            Ok(json!({"terminalId": terminals.create(host, &create)?}))
        }
        "terminal/output" => terminals.output(&params::<Terminal>(given)?.terminal_id),
        "terminal/wait_for_exit" => terminals.wait(&params::<Terminal>(given)?.terminal_id).await,
        "terminal/kill" => terminals.kill(host, &params::<Terminal>(given)?.terminal_id),
        "terminal/release" => terminals.release(host, &params::<Terminal>(given)?.terminal_id),
        other => Err(Fault::new(Fault::METHOD_NOT_FOUND, format!("there is no method {other} here"))),
    }
}

/// `limit` lines from `line` on, which counts from 1.
fn lines(content: String, line: Option<usize>, limit: Option<usize>) -> String {
    if line.is_none() && limit.is_none() {
        return content;
    }
    content
        .split_inclusive('\n')
        .skip(line.unwrap_or(1).saturating_sub(1))
        .take(limit.unwrap_or(usize::MAX))
        .collect()
}
