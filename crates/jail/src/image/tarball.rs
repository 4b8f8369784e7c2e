//! Reads tar archives as a stream: ustar, GNU long names and pax headers, with a bound on everything.
//!
//! Only the header layout is the `tar` crate's; its reader would hold names of any length in memory and take sizes
//! beyond 8 GiB only from one of the two places they stand in. Sparse members are refused: no image tool writes them.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::step::Step;

const BLOCK: u64 = 512;
/// The kernel's PATH_MAX; nothing longer can be made anyway.
const MAX_NAME: u64 = 4096;
/// A pax header holds names and extended attributes; an attribute is at most 64 KiB.
const MAX_PAX: u64 = 1 << 20;
/// A file's offset is signed.
const MAX_SIZE: u64 = i64::MAX as u64 - BLOCK;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Pipe,
    /// Character or block device.
    Device,
}

#[derive(Debug)]
pub(super) struct Member {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub user: u32,
    pub group: u32,
    pub modified: i64,
    pub size: u64,
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct Tarball<R> {
    reader: R,
    /// Of the current member: content and padding not read yet.
    content: u64,
    padding: u64,
}

impl<R: Read> Tarball<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, content: 0, padding: 0 }
    }

    /// The next member; its content is then read from [`Self::content`]. `None` at the archive's end mark; an archive
    /// that ends without one was cut off.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Step> {
        let mut more = Extensions::default();
        loop {
            self.skip_rest()?;
            let mut block = [0_u8; BLOCK as usize];
            self.reader.read_exact(&mut block).map_err(cut_off)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            check(header, &block)?;
            let size = more.size.unwrap_or(header.entry_size().map_err(broken)?);
            if size > MAX_SIZE {
                return Err(Step::refused("read the archive", format!("a member of {size} bytes")));
            }
            self.padding = (BLOCK - size % BLOCK) % BLOCK;
            self.content = size;
            match header.entry_type() {
                EntryType::GNULongName => more.path = Some(self.long_name()?),
                EntryType::GNULongLink => more.link = Some(self.long_name()?),
                EntryType::XHeader => more.read_pax(&self.bounded(MAX_PAX, "pax header")?)?,
                EntryType::XGlobalHeader => {
                    let mut global = Extensions::default();
                    global.read_pax(&self.bounded(MAX_PAX, "pax header")?)?;
                    if global.path.is_some() || global.link.is_some() || global.size.is_some() {
                        return Err(Step::refused(
                            "read the archive",
                            "a global header names a path or size",
                        ));
                    }
                }
                kind => return self.member(kind, header, more).map(Some),
            }
        }
    }

    fn member(&mut self, kind: EntryType, header: &Header, more: Extensions) -> Result<Member, Step> {
        let kind = match kind {
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Directory => Kind::Directory,
            EntryType::Fifo => Kind::Pipe,
            EntryType::Char | EntryType::Block => Kind::Device,
            other => {
                return Err(Step::refused(
                    "read the archive",
                    format!("member type {:?} is not supported", other.as_byte() as char),
                ));
            }
        };
        if kind != Kind::File {
            // Some writers give links the size of what they link to, without content.
            self.content = 0;
            self.padding = 0;
        }
        let mut path = more.path.unwrap_or_else(|| header.path_bytes().into_owned());
        // The oldest format marks a directory by its name only.
        let kind = if kind == Kind::File && path.ends_with(b"/") { Kind::Directory } else { kind };
        while path.ends_with(b"/") {
            path.pop();
        }
        let link = more
            .link
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        Ok(Member {
            kind,
            path,
            link,
            mode: blank_or(&header.as_old().mode, header.mode())? & 0o7777,
            user: id(more.user, blank_or(&header.as_old().uid, header.uid())?)?,
            group: id(more.group, blank_or(&header.as_old().gid, header.gid())?)?,
            modified: more.modified.unwrap_or(header.mtime().unwrap_or(0) as i64),
            size: self.content,
            attributes: more.attributes,
        })
    }

    /// What is left of the current member's content.
    pub(super) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Reads to the end of the stream, beyond the archive's end mark.
    pub(super) fn drain(mut self) -> Result<(), Step> {
        io::copy(&mut self.reader, &mut io::sink()).map(drop).map_err(broken)
    }

    fn skip_rest(&mut self) -> Result<(), Step> {
        let wanted = self.content + self.padding;
        let skipped = io::copy(&mut (&mut self.reader).take(wanted), &mut io::sink()).map_err(cut_off)?;
        self.content = 0;
        self.padding = 0;
        if skipped == wanted { Ok(()) } else { Err(cut_off(io::ErrorKind::UnexpectedEof.into())) }
    }

    fn long_name(&mut self) -> Result<Vec<u8>, Step> {
        let mut name = self.bounded(MAX_NAME + 1, "name")?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn bounded(&mut self, most: u64, what: &str) -> Result<Vec<u8>, Step> {
        if self.content > most {
            return Err(Step::refused("read the archive", format!("a {what} of {} bytes", self.content)));
        }
        let mut bytes = vec![0; self.content as usize];
        self.content().read_exact(&mut bytes).map_err(cut_off)?;
        Ok(bytes)
    }
}

/// Reader of one member's content; ends early only where the archive was cut off, and then with an error.
pub(super) struct Content<'a, R>(&'a mut Tarball<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.0.content).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.0.reader.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a member"));
        }
        self.0.content -= read as u64;
        Ok(read)
    }
}

/// What the headers before a member say about it.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    user: Option<u64>,
    group: Option<u64>,
    modified: Option<i64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    /// Records of the form `<length> <key>=<value>\n` (POSIX.1-2001, pax).
    fn read_pax(&mut self, mut bytes: &[u8]) -> Result<(), Step> {
        while !bytes.is_empty() {
            let record = || Step::refused("read the archive", "a pax header is malformed");
            let space = bytes.iter().take(10).position(|byte| *byte == b' ').ok_or_else(record)?;
            let length: usize = number(&bytes[..space]).ok_or_else(record)?;
            if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
                return Err(record());
            }
            let line = &bytes[space + 1..length - 1];
            let equals = line.iter().position(|byte| *byte == b'=').ok_or_else(record)?;
            let (key, value) = (&line[..equals], &line[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number(value).ok_or_else(record)?),
                b"uid" => self.user = Some(number(value).ok_or_else(record)?),
                b"gid" => self.group = Some(number(value).ok_or_else(record)?),
                b"mtime" => {
                    let seconds = value.split(|byte| *byte == b'.').next().unwrap_or(value);
                    self.modified = Some(number(seconds).ok_or_else(record)?);
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(Step::refused("read the archive", "sparse members are not supported"));
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.attributes.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }
}

fn number<N: std::str::FromStr>(bytes: &[u8]) -> Option<N> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Some writers leave fields that do not matter to them empty.
fn blank_or<N: Default>(field: &[u8], parsed: io::Result<N>) -> Result<N, Step> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(N::default()) } else { parsed.map_err(broken) }
}

/// Ids outside a jail's range would belong to somebody else.
fn id(pax: Option<u64>, header: u64) -> Result<u32, Step> {
    let id = pax.unwrap_or(header);
    u32::try_from(id)
        .ok()
        .filter(|id| *id < 65536)
        .ok_or_else(|| Step::refused("read the archive", format!("owner id {id} is outside 0–65535")))
}

fn check(header: &Header, block: &[u8; BLOCK as usize]) -> Result<(), Step> {
    // The checksum field itself (bytes 148–155) counts as spaces.
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    if header.cksum().is_ok_and(|said| said == sum) {
        Ok(())
    } else {
        Err(Step::refused(
            "read the archive",
            "it is no tar archive, or damaged: a header's checksum is wrong",
        ))
    }
}

fn broken(error: io::Error) -> Step {
    Step::refused("read the archive", error)
}

fn cut_off(error: io::Error) -> Step {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        Step::refused("read the archive", "it ends early")
    } else {
        broken(error)
    }
}

/// For callers that read a member's content.
pub(super) fn content_error(error: io::Error) -> Step {
    cut_off(error)
}
