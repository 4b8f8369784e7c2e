//! What package managers have fetched, kept from build to build of one agent.
//!
//! What is kept is their own caches and not what they install, so that a build with it ends as one without it would, only sooner. It is
//! found by the image and the lockfiles; where they changed, the agent's newest one is better than none. An agent sees no
//! other agent's: whoever writes a cache decides what the next build finds in it.

use uuid::Uuid;
use wharf_chassis::host_client::HostError;
use wharf_domain::{Code, limits, manifest};
use wharf_store::agents::blobs::Hasher;
use wharf_store::agents::cache::Kept;
use wharf_wire::host::exec::ExecRequest;
use wharf_wire::host::files::MakeDirectory;

use super::site::Site;
use super::{Trouble, chunks};

/// Where it lies in the build's computer.
const PLACE: &str = "/var/cache/wharf-build";
/// What leads package managers there: pip, uv, poetry, yarn and others follow the first; npm, pnpm and cargo have their own.
pub(super) const VARIABLES: &[(&str, &str)] = &[
    ("XDG_CACHE_HOME", "/var/cache/wharf-build"),
    ("npm_config_cache", "/var/cache/wharf-build/npm"),
    ("npm_config_store_dir", "/var/cache/wharf-build/pnpm"),
    ("CARGO_HOME", "/var/cache/wharf-build/cargo"),
];

impl Site<'_> {
    /// Brings the cache, where the package has lockfiles. Answers the key to keep it by, unless it is kept already.
    pub(super) async fn restore(&mut self, image: &str) -> Result<Option<String>, Trouble> {
        self.clear().await?;
        let place = MakeDirectory { path: PLACE.to_owned(), parents: true, mode: None, owner: None };
        self.client.make_directory(&place).await?;
        let Some(key) = self.key(image).await? else { return Ok(None) };
        let kept = self.work.cache(self.task, &key).await?;
        let Some(Kept { blob, is_exact }) = kept else { return Ok(Some(key)) };
        let of = if is_exact { "these lockfiles" } else { "other lockfiles" };
        match self.unpack(blob).await {
            Ok(()) => self.say("wharf", &format!("the cache of a build with {of} is there\n")).await?,
            Err(HostError::Refused(fault)) => {
                self.clear().await?;
                let why = fault.detail;
                self.say("wharf", &format!("the cache of a build with {of} does not unpack: {why}\n"))
                    .await?;
                return Ok(Some(key));
            }
            Err(away) => return Err(away.into()),
        }
        Ok((!is_exact).then_some(key))
    }

    async fn unpack(&self, blob: Uuid) -> Result<(), HostError> {
        let chunks = chunks(self.work.store().clone(), blob);
        self.client.write_tar(PLACE, None, true, chunks).await.map(drop)
    }

    async fn clear(&self) -> Result<(), Trouble> {
        match self.client.delete_file(PLACE, true).await {
            Err(e) if e.code() != Code::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Names what the build installs from: image and lockfiles. None without lockfiles: then nothing says when it is stale.
    async fn key(&mut self, image: &str) -> Result<Option<String>, Trouble> {
        let known = |f: &&str| self.top.iter().any(|name| name == f);
        let files: Vec<&str> = manifest::lockfiles().iter().copied().filter(known).collect();
        if files.is_empty() {
            return Ok(None);
        }
        let sums = ExecRequest {
            cwd: Some(self.dir.clone()),
            timeout_seconds: Some(60),
            ..ExecRequest::command(format!("sha256sum -- {}", files.join(" ")))
        };
        let sums = self.client.exec(&sums).await?;
        if sums.exit.exit_code != Some(0) {
            // One of them is a directory, say: no reason not to build.
            return Ok(None);
        }
        let mut hash = Hasher::default();
        hash.update(image.as_bytes());
        hash.update(sums.stdout.as_bytes());
        Ok(Some(hash.digest()))
    }

    /// Keeps what the build left in the cache. What is wrong with it is said and does not fail the build.
    pub(super) async fn keep(&mut self, key: Option<String>) -> Result<(), Trouble> {
        let Some(key) = key else { return Ok(()) };
        let Ok(list) = self.client.list_files(PLACE, None, Some(1)).await else { return Ok(()) };
        if list.entries.is_empty() {
            return Ok(());
        }
        let mut writer = self.work.store().blob_writer(limits::BUILD_CACHE_BYTES).await?;
        let mut hasher = Hasher::default();
        let mut archive = self.client.read_tar(PLACE).await?;
        while let Some(chunk) = futures_util::StreamExt::next(&mut archive).await {
            let chunk = chunk?;
            hasher.update(&chunk);
            match writer.write(&chunk).await {
                Err(e) if e.code == Code::TooLarge => {
                    writer.forget().await?;
                    return self.say("wharf", &format!("the cache is not kept: {}\n", e.public)).await;
                }
                other => other?,
            }
        }
        let blob = writer.finish(&hasher.digest()).await?;
        match self.work.keep_cache(self.task, &key, &blob).await {
            Err(e) if e.code == Code::QuotaExceeded => {
                return self.say("wharf", &format!("the cache is not kept: {}\n", e.public)).await;
            }
            other => other?,
        }
        self.say("wharf", &format!("kept a cache of {} bytes for the next build\n", blob.bytes)).await
    }
}
