//! Takes files in on their way into a copy: hashed, looked through for secrets, kept as blobs by content.
//!
//! A file that is there already costs nothing again. Nothing here is visible to anybody until the copy's rows are made.

use std::collections::BTreeSet;

use uuid::Uuid;
use wharf_domain::{Code, Error, limits};

use super::leaks::{Leaks, Scan};
use crate::agents::blobs::{BlobWriter, Hasher};
use crate::store::Store;

/// Bytes of a file that are hashed before anything of it is written: most files end within.
const AHEAD: usize = 1024 * 1024;
/// Bytes of a path in a copy.
const PATH_BYTES: usize = 4096;

/// A file whose bytes are kept.
#[derive(Clone, Debug)]
pub struct CopiedFile {
    /// Relative, without `.` and `..`.
    pub path: String,
    pub(super) blob: Uuid,
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub digest: String,
}

/// All that was copied.
#[derive(Clone, Debug)]
pub struct Copied {
    pub files: Vec<CopiedFile>,
    pub left_out: u32,
    pub secrets_checked: usize,
}

impl Copied {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

/// A copy on the way.
pub struct Copier {
    store: Store,
    leaks: Leaks,
    files: Vec<CopiedFile>,
    paths: BTreeSet<String>,
    left_out: u32,
    bytes: u64,
}

/// A file on the way.
pub struct FileCopy<'c> {
    copier: &'c mut Copier,
    path: String,
    /// As its owner knows it, for refusals.
    shown: String,
    scan: Scan,
    hash: Hasher,
    buffer: Vec<u8>,
    writer: Option<BlobWriter>,
    bytes: u64,
}

impl Store {
    /// Begins a copy in which none of these secrets may be.
    pub fn copier(&self, leaks: Leaks) -> Copier {
        Copier {
            store: self.clone(),
            leaks,
            files: Vec::new(),
            paths: BTreeSet::new(),
            left_out: 0,
            bytes: 0,
        }
    }
}

fn too_large(what: String) -> Error {
    Error::new(Code::TooLarge, what).field("paths")
}

impl Copier {
    /// An entry that is no file.
    pub fn leave_out(&mut self) {
        self.left_out = self.left_out.saturating_add(1);
    }

    /// Bytes that may still come.
    pub fn room(&self) -> u64 {
        limits::PUBLISHED_BYTES - self.bytes
    }

    /// Begins a file. `shown` is what refusals call it.
    pub fn file(&mut self, path: String, shown: String) -> Result<FileCopy<'_>, Error> {
        if self.files.len() >= limits::PUBLISHED_FILES {
            let most = limits::PUBLISHED_FILES;
            return Err(too_large(format!(
                "there are more than {most} files (limit PUBLISHED_FILES); publish fewer paths or an archive of them"
            )));
        }
        let plain = !path.is_empty()
            && path.len() <= PATH_BYTES
            && !path.contains('\0')
            && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            return Err(Error::internal(format!("{path:?} is no path of a copy")));
        }
        if !self.paths.insert(path.clone()) {
            let detail = format!("two of the paths would be {path} in the copy; publish them apart");
            return Err(Error::new(Code::InvalidField, detail).field("paths"));
        }
        self.leaks.look(&mut Scan::default(), path.as_bytes(), "the name of a file")?;
        Ok(FileCopy {
            copier: self,
            path,
            shown,
            scan: Scan::default(),
            hash: Hasher::default(),
            buffer: Vec::new(),
            writer: None,
            bytes: 0,
        })
    }

    pub fn finish(self) -> Copied {
        Copied { files: self.files, left_out: self.left_out, secrets_checked: self.leaks.len() }
    }
}

impl FileCopy<'_> {
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.copier.room() {
            let most = limits::PUBLISHED_BYTES;
            return Err(too_large(format!(
                "the files are over {most} bytes together (limit PUBLISHED_BYTES); publish less"
            )));
        }
        self.copier.leaks.look(&mut self.scan, bytes, &self.shown)?;
        self.hash.update(bytes);
        if let Some(writer) = &mut self.writer {
            return writer.write(bytes).await;
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > AHEAD {
            self.open().await?;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), Error> {
        let mut writer = self.copier.store.blob_writer(limits::PUBLISHED_BYTES).await?;
        writer.write(&std::mem::take(&mut self.buffer)).await?;
        self.writer = Some(writer);
        Ok(())
    }

    pub async fn finish(mut self) -> Result<(), Error> {
        // Layers of agents are blobs too, named by what they are unpacked: the kinds keep apart.
        let key = format!("file-{}", std::mem::take(&mut self.hash).digest());
        let digest = key.trim_start_matches("file-sha256:").to_owned();
        let known = match self.writer {
            None => self.copier.store.blob_again(&key).await?,
            Some(_) => None,
        };
        let blob = match known {
            Some(known) => known,
            None => {
                if self.writer.is_none() {
                    self.open().await?;
                }
                let writer = self.writer.take().ok_or_else(|| Error::internal("a file without a writer"))?;
                writer.finish(&key).await?
            }
        };
        self.copier.bytes += self.bytes;
        let (path, bytes) = (std::mem::take(&mut self.path), self.bytes);
        self.copier.files.push(CopiedFile { path, blob: blob.id, bytes, digest });
        Ok(())
    }
}
