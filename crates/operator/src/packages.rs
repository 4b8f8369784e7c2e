//! Packages of a session's agents, unpacked into its volume before its first turn, each once.
//!
//! They belong to root there, so that an agent cannot change what it is. What a marker beside the package names is there whole;
//! anything else is removed and unpacked anew.

use std::path::Path;

use futures_util::StreamExt as _;
use serde_json::Value;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::Code;
use wharf_store::Store;
use wharf_store::sessions::SessionRow;
use wharf_wire::host::files::WriteOptions;

use crate::builds::{PACKAGES, chunks};

/// Unpacks what is missing. The error is for people.
pub(crate) async fn install(store: &Store, socket: &Path, session: &SessionRow) -> Result<(), String> {
    let one = std::slice::from_ref(&session.agent);
    let agents = if session.agents.is_empty() { one } else { &session.agents };
    let client = HostClient::new(socket);
    for agent in agents {
        let Some(built) = agent.get("built") else { continue };
        let word = |key: &str| built.get(key).and_then(Value::as_str);
        let (Some(digest), Some(at)) = (word("digest"), word("at")) else { continue };
        unpack(store, &client, digest, at).await.map_err(|why| format!("the package at {at}: {why}"))?;
    }
    Ok(())
}

async fn unpack(store: &Store, client: &HostClient, digest: &str, at: &str) -> Result<(), String> {
    let name = at.rsplit('/').next().unwrap_or(at);
    let marker = format!("{PACKAGES}/.{name}");
    if read(client, &marker).await.as_deref() == Some(digest) {
        return Ok(());
    }
    let text = |e: HostError| e.to_string();
    for path in [&marker, at] {
        match client.delete_file(path, true).await {
            Err(e) if e.code() != Code::NotFound => return Err(text(e)),
            _ => {}
        }
    }
    let blob = store.blob(digest).await.map_err(|e| e.to_string())?;
    let Some(blob) = blob else { return Err(format!("{digest} is not kept any more")) };
    client.write_tar(at, Some("root"), true, chunks(store.clone(), blob.id)).await.map_err(text)?;
    let options = WriteOptions { owner: Some("root".to_owned()), parents: true, ..WriteOptions::default() };
    client.write_bytes(&marker, &options, digest.to_owned()).await.map_err(text)?;
    Ok(())
}

async fn read(client: &HostClient, path: &str) -> Option<String> {
    let mut file = client.read_file(path, None).await.ok()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = file.bytes.next().await {
        bytes.extend_from_slice(&chunk.ok()?);
        if bytes.len() > 256 {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}
