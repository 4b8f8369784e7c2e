//! The steps of one build, in the computer it has to itself, and its log, which has an end.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;
use wharf_chassis::host_client::{HostClient, HostError};
use wharf_domain::manifest::{self, Egress, Manifest};
use wharf_domain::remote::Remote;
use wharf_domain::{Code, Error, limits};
use wharf_store::agents::blobs::Hasher;
use wharf_store::agents::work::{BuildTask, BuildWork};
use wharf_wire::host::Env;
use wharf_wire::host::exec::{ExecEvent, ExecRequest, Stream as Which};
use wharf_wire::host::files::MakeDirectory;

use super::{Trouble, cache, chunks};

/// Fetches one commit and leaves nothing of the repository but its files. A server tells no commit by the beginning of its
/// number, and some none that is no branch's newest: then everything is fetched and the commit looked for.
const CLONE: &str = r#"set -e
git init -q .
git remote add origin "$WHARF_GIT_URL"
if git fetch -q --depth 1 origin "$WHARF_GIT_REF" 2>/tmp/wharf-fetch; then
    git checkout -q FETCH_HEAD
elif printf %s "$WHARF_GIT_REF" | grep -qE '^[0-9a-f]{7,64}$'; then
    git fetch -q origin '+refs/heads/*:refs/remotes/origin/*' '+refs/tags/*:refs/tags/*'
    git checkout -q "$WHARF_GIT_REF^{commit}"
else
    cat /tmp/wharf-fetch >&2
    exit 1
fi
commit=$(git rev-parse HEAD)
rm -rf .git /tmp/wharf-fetch
echo "at commit $commit"
"#;

pub(super) struct Site<'a> {
    pub work: &'a BuildWork,
    pub task: &'a mut BuildTask,
    pub client: HostClient,
    /// Where the package lies.
    pub dir: String,
    /// Names of the files at its top, once its source is there.
    pub top: Vec<String>,
    logged: usize,
}

impl<'a> Site<'a> {
    pub(super) fn new(work: &'a BuildWork, task: &'a mut BuildTask, client: HostClient, dir: String) -> Self {
        Self { work, task, client, dir, top: Vec::new(), logged: 0 }
    }

    pub(super) async fn say(&mut self, stream: &str, text: &str) -> Result<(), Trouble> {
        if self.logged > limits::BUILD_LOG_BYTES {
            return Ok(());
        }
        self.logged += text.len();
        if self.logged > limits::BUILD_LOG_BYTES {
            let most = limits::BUILD_LOG_BYTES;
            let cut = format!("[the log goes on, and is cut at {most} bytes (limit BUILD_LOG_BYTES)]\n");
            return Ok(self.work.say(self.task, "wharf", &cut).await?);
        }
        Ok(self.work.say(self.task, stream, text).await?)
    }

    /// An empty directory, and the source in it.
    pub(super) async fn source(&mut self) -> Result<(), Trouble> {
        match self.client.delete_file(&self.dir, true).await {
            Err(e) if e.code() != Code::NotFound => return Err(e.into()),
            _ => {}
        }
        if let Some(blob) = self.task.build.blob {
            self.say("wharf", "unpacking the upload\n").await?;
            let chunks = chunks(self.work.store().clone(), blob);
            let unpacked = self.client.write_tar(&self.dir, None, true, chunks).await;
            unpacked.map_err(|e| match e {
                HostError::Refused(fault) => Trouble::Failed(format!("the upload: {}", fault.detail)),
                other => other.into(),
            })?;
            return Ok(());
        }
        let source = self.task.build.source.get("git").cloned().unwrap_or_default();
        let word = |key: &str| source.get(key).and_then(Value::as_str).map(str::to_owned);
        let Some(url) = word("url") else {
            return Err(Trouble::Failed("its upload is not there any more".to_owned()));
        };
        let remote: Remote = url.parse().map_err(|e: Error| Trouble::Failed(e.public))?;
        let reference = word("ref").unwrap_or_else(|| "HEAD".to_owned());
        self.client
            .make_directory(&MakeDirectory { path: self.dir.clone(), parents: true, mode: None, owner: None })
            .await?;
        self.say("wharf", &format!("fetching {reference} of {url}\n")).await?;
        let env = Env::from([
            ("WHARF_GIT_URL", remote.fetch),
            ("WHARF_GIT_REF", reference),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
        ]);
        let printed = self.run("git fetch", CLONE, env, limits::BUILD_SOURCE_SECONDS).await?;
        let commit = printed.trim().rsplit(' ').next().unwrap_or_default();
        if commit.len() >= 40 && commit.bytes().all(|b| b.is_ascii_hexdigit()) {
            self.work.found(self.task, commit).await?;
        }
        Ok(())
    }

    pub(super) async fn manifest(&mut self) -> Result<Manifest, Trouble> {
        let mut top: BTreeMap<String, Option<String>> = BTreeMap::new();
        let list = self.client.list_files(&self.dir, None, Some(1000)).await?;
        for entry in list.entries {
            top.insert(entry.name, None);
        }
        self.top = top.keys().cloned().collect();
        for name in [manifest::FILE, "Cargo.toml", "pyproject.toml", "package.json"] {
            if top.contains_key(name) {
                let text = self.read(name).await?;
                top.insert(name.to_owned(), text);
            }
        }
        let found = match top.get(manifest::FILE) {
            Some(Some(text)) => Manifest::parse(text, &top),
            Some(None) => return Err(Trouble::Failed(format!("{} is no text", manifest::FILE))),
            None => manifest::detect(&top),
        };
        let found = found.map_err(|e| Trouble::Failed(e.public))?;
        if found.kind.is_built_in() {
            return Err(Trouble::Failed(format!(
                "an agent of kind {} is part of Wharf: it needs no package, and this has nothing else to run",
                found.kind
            )));
        }
        let seen = format!("an agent of kind {}, by its {}\n", found.kind, found.recognised.file());
        self.say("wharf", &seen).await?;
        Ok(found)
    }

    async fn read(&self, name: &str) -> Result<Option<String>, Trouble> {
        let mut file = self.client.read_file(&format!("{}/{name}", self.dir), None).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = file.bytes.next().await {
            bytes.extend_from_slice(&chunk?);
            let most = limits::MANIFEST_SOURCE_BYTES;
            if bytes.len() > most {
                let why = format!("{name} is larger than {most} bytes (limit MANIFEST_SOURCE_BYTES)");
                return Err(Trouble::Failed(why));
            }
        }
        Ok(String::from_utf8(bytes).ok())
    }

    /// `most` is what a build of this server may take.
    pub(super) async fn commands(&mut self, manifest: &Manifest, most: u32) -> Result<(), Trouble> {
        let asked = manifest.build.timeout_seconds;
        if asked > most && asked != limits::BUILD_SECONDS {
            return Err(Trouble::Failed(format!(
                "build.timeout_seconds is {asked}; a build of this server may take up to {most} (builds.max_seconds)"
            )));
        }
        let whole = asked.min(most);
        let end = Instant::now() + Duration::from_secs(u64::from(whole));
        for command in &manifest.build.commands {
            self.say("command", &format!("$ {command}\n")).await?;
            let left = end.saturating_duration_since(Instant::now()).as_secs();
            if left == 0 {
                return Err(Trouble::Failed(format!("it took longer than its {whole} s")));
            }
            let mut env = Env(manifest.env.clone());
            env.0.entry("CI".to_owned()).or_insert_with(|| "1".to_owned());
            for (name, value) in cache::VARIABLES {
                env.0.entry((*name).to_owned()).or_insert_with(|| (*value).to_owned());
            }
            self.run(command, command, env, u32::try_from(left).unwrap_or(u32::MAX)).await?;
        }
        Ok(())
    }

    /// Answers the last line it printed.
    async fn run(&mut self, called: &str, script: &str, env: Env, seconds: u32) -> Result<String, Trouble> {
        let request = ExecRequest {
            cwd: Some(self.dir.clone()),
            env,
            timeout_seconds: Some(seconds),
            ..ExecRequest::command(script)
        };
        let mut events = self.client.exec_stream(&request).await?;
        let shown: String = called.chars().take(200).collect();
        let mut printed = Tail::default();
        while let Some(event) = events.next().await {
            match event? {
                ExecEvent::Output { stream, piece, .. } => {
                    let name = if stream == Which::Stderr { "stderr" } else { "stdout" };
                    let bytes = piece.into_bytes();
                    self.say(name, &String::from_utf8_lossy(&bytes)).await?;
                    if stream == Which::Stdout {
                        printed.take(&bytes);
                    }
                }
                ExecEvent::Exit { timed_out: true, .. } => {
                    return Err(Trouble::Failed(format!("`{shown}` took longer than {seconds} s")));
                }
                ExecEvent::Exit { exit, .. } => {
                    return match (exit.exit_code, exit.signal) {
                        (Some(0), _) => Ok(printed.line()),
                        (Some(code), _) => {
                            Err(Trouble::Failed(format!("`{shown}` ended with exit code {code}")))
                        }
                        (None, signal) => Err(Trouble::Failed(format!(
                            "`{shown}` was ended by signal {}",
                            signal.map_or_else(|| "?".to_owned(), |s| s.to_string())
                        ))),
                    };
                }
                _ => {}
            }
        }
        Err(Trouble::Broken("the build's computer went away".to_owned()))
    }

    pub(super) async fn pack(&mut self, manifest: &Manifest) -> Result<(), Trouble> {
        let mut writer = self.work.store().blob_writer(limits::LAYER_BYTES).await?;
        let mut hasher = Hasher::default();
        let mut archive = self.client.read_tar(&self.dir).await?;
        while let Some(chunk) = archive.next().await {
            let chunk = chunk?;
            hasher.update(&chunk);
            writer.write(&chunk).await.map_err(|e| match e.code {
                Code::TooLarge => Trouble::Failed(format!("the package: {}", e.public)),
                _ => Trouble::Store(e),
            })?;
        }
        let layer = writer.finish(&hasher.digest()).await?;
        self.say("wharf", &format!("packed {} bytes as {}\n", layer.bytes, layer.digest)).await?;
        let version =
            self.work.succeed(self.task, &layer, &shown(manifest)).await.map_err(|e| match e.code {
                Code::QuotaExceeded => Trouble::Failed(e.public),
                _ => Trouble::Store(e),
            })?;
        tracing::info!(build = %self.task.build.id, agent = %self.task.build.agent, version, "built");
        Ok(())
    }
}

/// The end of what is printed, in whatever pieces it comes.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    const BYTES: usize = 4096;

    fn take(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
        let old = self.0.len().saturating_sub(Self::BYTES);
        self.0.drain(..old);
    }

    /// The last line that says something.
    fn line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
    }
}

/// The network of a session as its row has it; none where it is none anyway.
pub(super) fn network(egress: &Egress) -> Option<Value> {
    match egress {
        Egress::None => None,
        Egress::Open => Some(json!({"egress": "open"})),
        Egress::Allow(hosts) => Some(json!({"egress": "allowlist", "allow": hosts})),
    }
}

/// The manifest as versions keep it.
fn shown(m: &Manifest) -> Value {
    json!({
        "name": m.name,
        "description": m.description,
        "kind": m.kind,
        "entry": m.entry,
        "image": m.image,
        "env": m.env,
        "secrets": m.secrets,
        "network": network(&m.egress),
        "resources": m.resources,
        "instructions": m.instructions,
        "build": m.build.commands,
    })
}

#[cfg(test)]
mod tests;
