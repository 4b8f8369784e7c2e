//! Packages of a session's agents, unpacked into its volume before its first turn, each once.
//!
//! Their bytes are what the version's digest names: that is checked while they are unpacked. There they belong to root, which keeps
//! an agent from changing itself by accident and no more than that: who may use sudo in a session is root of it. What is changed is
//! changed in that session and its forks; the version and everybody else's sessions stay. What a marker beside the package
//! names is there whole; anything else is removed and unpacked anew.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use serde_json::Value;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::Code;
use wharf_store::Store;
use wharf_store::agents::blobs::Hasher;
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
    let seen = Arc::new(Mutex::new(Hasher::default()));
    let hashing = chunks(store.clone(), blob.id).inspect({
        let seen = seen.clone();
        move |chunk| {
            if let Ok(chunk) = chunk {
                seen.lock().unwrap_or_else(PoisonError::into_inner).update(chunk);
            }
        }
    });
    client.write_tar(at, Some("root"), true, hashing).await.map_err(text)?;
    let hasher = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    if hasher.digest() != digest {
        // Without a marker it is begun anew the next time.
        client.delete_file(at, true).await.map_err(text)?;
        return Err(format!("what is kept as {digest} is not what was built; build the agent again"));
    }
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
