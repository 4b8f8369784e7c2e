//! What kind of archive it is, told by its first bytes, and its way to the unpacker.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::tarball::Tarball;
use super::unpack::Unpacker;
use super::{Progress, oci};
use crate::step::{At, Step};

const BUFFER: usize = 256 << 10;
const REPORT_EVERY: u64 = 8 << 20;

/// What came of an archive.
pub struct Unpacked {
    /// SHA-256 of the archive as it is, compression included.
    pub digest: String,
    /// Bytes of the files' content.
    pub bytes: u64,
    pub skipped: u64,
}

/// Unpacks any supported archive to `rootfs`, reading a root tarball exactly once from where `archive` stands.
pub(super) fn unpack(
    mut archive: File,
    rootfs: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Unpacked, Step> {
    let total = archive.metadata().at("stat the archive")?.len();
    let mut unpacker = Unpacker::new(rootfs)?;
    if let Some(layers) = oci::layers(&mut archive)? {
        let digest = digest(&mut archive, total, progress)?;
        for layer in layers {
            let mut tarball = Tarball::new(decompress(layer.open(&mut archive)?)?);
            unpacker.unpack_layer(&mut tarball)?;
            tarball.drain()?;
        }
        let (bytes, skipped) = unpacker.finish()?;
        return Ok(Unpacked { digest, bytes, skipped });
    }
    let mut counted = Counted { inner: archive, hash: Sha256::new(), done: 0, reported: 0, total, progress };
    let mut tarball = Tarball::new(decompress(&mut counted)?);
    unpacker.unpack(&mut tarball)?;
    tarball.drain()?;
    // What a decompressor leaves unread is part of the archive's name all the same.
    io::copy(&mut counted, &mut io::sink()).at("read the archive")?;
    let digest = hex(counted.hash);
    let (bytes, skipped) = unpacker.finish()?;
    Ok(Unpacked { digest, bytes, skipped })
}

/// Tells the compression by its magic number.
pub(super) fn decompress<'a>(source: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Step> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    let magic = io::BufRead::fill_buf(&mut source).at("read the archive")?;
    if magic.is_empty() {
        return Err(Step::refused("read the archive", "it is empty"));
    }
    if magic.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(source))));
    }
    if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::with_buffer(source).at("start zstd")?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER, decoder)));
    }
    for (name, bytes) in [("xz", b"\xfd7zXZ".as_slice()), ("bzip2", b"BZh"), ("zip", b"PK\x03\x04")] {
        if magic.starts_with(bytes) {
            return Err(Step::refused(
                "read the archive",
                format!("{name} is not supported: use tar, gzip or zstd"),
            ));
        }
    }
    Ok(Box::new(source))
}

/// SHA-256 of the whole file.
fn digest(archive: &mut File, total: u64, progress: &mut dyn FnMut(Progress)) -> Result<String, Step> {
    archive.seek(SeekFrom::Start(0)).at("rewind the archive")?;
    let mut counted =
        Counted { inner: &*archive, hash: Sha256::new(), done: 0, reported: 0, total, progress };
    io::copy(&mut counted, &mut io::sink()).at("read the archive")?;
    Ok(hex(counted.hash))
}

pub(super) fn hex(hash: Sha256) -> String {
    hex::encode(hash.finalize())
}

/// Hashes and reports what passes.
struct Counted<'a, R> {
    inner: R,
    hash: Sha256,
    done: u64,
    reported: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.done += read as u64;
        if self.done - self.reported >= REPORT_EVERY || (read == 0 && self.reported != self.done) {
            self.reported = self.done;
            (self.progress)(Progress::Bytes { done: self.done, total: self.total });
        }
        Ok(read)
    }
}
