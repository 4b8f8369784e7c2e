//! Pictures of a conversation, beside its journal: a file each, so that neither the journal nor the memory holds them.
//!
//! Bounded: the oldest go when there are too many. What is gone is said to be gone, in the picture's place.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::block::ImageRef;

/// Pictures kept at the most, and their bytes together.
const KEPT: usize = 1000;
const KEPT_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes of one picture: more than any provider takes.
pub const IMAGE_BYTES: u64 = 20 * 1024 * 1024;
/// What stands for a picture that is gone.
pub const GONE: &str = "[a picture that is no longer kept]";

#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    /// Names count up: the oldest sort first.
    next: AtomicU64,
}

impl Images {
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let next = next_number(&dir)?;
        Ok(Self { dir, next: AtomicU64::new(next) })
    }

    pub fn path(&self, image: &ImageRef) -> PathBuf {
        self.dir.join(&image.file)
    }

    /// Keeps a picture; it is whole on the disk when this returns.
    pub fn keep(&self, bytes: &[u8], media_type: &str, size: Option<(u32, u32)>) -> io::Result<ImageRef> {
        let kind = media_type.strip_prefix("image/").unwrap_or("bin");
        for _ in 0..10_000 {
            let file = format!("{:08}.{kind}", self.next.fetch_add(1, Ordering::Relaxed));
            let made =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.dir.join(&file));
            match made {
                Ok(mut made) => {
                    io::Write::write_all(&mut made, bytes)?;
                    made.sync_data()?;
                    return Ok(ImageRef { file, media_type: media_type.to_owned(), size });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "no name is free for a picture"))
    }

    /// A picture a user sent.
    pub fn keep_base64(&self, data: &str, media_type: &str) -> io::Result<ImageRef> {
        let bytes = STANDARD.decode(data).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.keep(&bytes, media_type, None)
    }

    /// A picture as providers take it. None: it is gone.
    pub fn base64(&self, image: &ImageRef) -> Option<String> {
        // The name comes from a file that programs of the session may write to.
        if image.file.contains('/') || image.file.starts_with('.') {
            return None;
        }
        read(&self.path(image)).ok().map(|bytes| STANDARD.encode(bytes))
    }

    /// Removes the oldest over the limits.
    pub fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            files.push((entry.file_name(), entry.metadata().map_or(0, |m| m.len())));
        }
        files.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        let mut bytes = 0;
        for (at, (name, size)) in files.into_iter().enumerate() {
            bytes += size;
            if at >= KEPT || bytes > KEPT_BYTES {
                fs::remove_file(self.dir.join(name))?;
            }
        }
        Ok(())
    }

    pub fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

/// One more than the largest number a name in the directory begins with.
pub fn next_number(dir: &Path) -> io::Result<u64> {
    let mut last = 0;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let digits = name.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        last = last.max(digits.parse().unwrap_or(0));
    }
    Ok(last + 1)
}

/// Reads a picture, never more than one may have.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if meta.len() > IMAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {IMAGE_BYTES} bytes")));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(IMAGE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opening a pipe shall not wait for somebody to write to it.
pub const O_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// What kind of picture bytes are, by how they begin.
pub fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}
