//! `wharf session cp` and `ls`: files in and out, single ones as they are and trees as tar streams.
//!
//! Nothing is left half done where that can be helped: a file coming out is written beside its place and renamed, one going in
//! is replaced whole by the server.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use wharf_client::api::FilesApi;
use wharf_client::{Body, FileTarget};
use wharf_domain::Code;
use wharf_wire::api::{self, FileKind};

use super::super::common::{self, Paging};
use crate::context::Ctx;
use crate::exit::{Refusal, Silent};
use crate::output::{note, print, progress};

/// What a relative path in a session counts from.
const HOME: &str = "/home/agent";

/// Copy files into or out of a session
///
/// One side is SESSION:PATH, the other a path here; `-` is stdin or stdout. A directory is copied with all below it. A relative path in
/// a session counts from /home/agent. Works on a closed session too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session cp data.csv demo:              into /home/agent
  wharf session cp src demo:/srv/app           src becomes /srv/app (or /srv/app/src, if /srv/app is there)
  wharf session cp src/. demo:/srv/app         what is in src goes into /srv/app
  wharf session cp demo:report.pdf .
  wharf session cp demo:/var/log - | tar t     a directory to stdout is a tar archive")]
pub struct Cp {
    /// Sources, then the target
    #[arg(required = true, num_args = 2.., value_name = "SOURCE… TARGET", add = crate::complete::session_or_path())]
    paths: Vec<String>,
    /// Permission bits of a single file going in (octal); the file's own when absent
    #[arg(long, value_name = "MODE", value_parser = octal)]
    mode: Option<u32>,
}

/// Show files of a session
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session ls demo
  wharf session ls demo /etc")]
pub struct Ls {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Absolute, or relative to /home/agent
    path: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|m| *m <= 0o7777)
        .ok_or_else(|| format!("{text:?} is no octal mode: write 644 or 0755"))
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    /// Here.
    Local(PathBuf),
    /// stdin or stdout.
    Pipe,
    /// There. `into` when written with a slash at its end: it is a directory.
    Remote { session: String, at: FileTarget, into: bool, contents: bool },
}

impl Side {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if text == "-" {
            return Ok(Self::Pipe);
        }
        match text.split_once(':') {
            Some((session, path)) if !session.is_empty() && !session.contains(['/', '.']) => {
                Ok(Self::Remote {
                    session: session.to_owned(),
                    at: target(path)?,
                    into: path.is_empty() || path.ends_with('/'),
                    contents: path.ends_with("/."),
                })
            }
            _ => Ok(Self::Local(PathBuf::from(text))),
        }
    }
}

/// A path in a session as people write it.
fn target(path: &str) -> anyhow::Result<FileTarget> {
    let path = path.strip_prefix("~/").unwrap_or(if path == "~" { "" } else { path });
    let absolute = if path.starts_with('/') { path.to_owned() } else { format!("{HOME}/{path}") };
    Ok(absolute.parse()?)
}

/// A body that is read while it is sent, counted by the bar.
pub fn stream_of(source: impl AsyncRead + Send + 'static, bar: indicatif::ProgressBar) -> Body {
    let stream = tokio_util::io::ReaderStream::with_capacity(source, 256 * 1024);
    Body::wrap_stream(stream.inspect_ok(move |chunk: &Bytes| bar.inc(chunk.len() as u64)))
}

impl Cp {
    pub async fn run(mut self, ctx: &Ctx) -> anyhow::Result<()> {
        let last = self.paths.pop().context("no target")?;
        let to = Side::parse(&last)?;
        let many = self.paths.len() > 1;
        for source in &self.paths {
            let from = Side::parse(source)?;
            match (from, &to) {
                (from @ (Side::Local(_) | Side::Pipe), Side::Remote { session, at, into, .. }) => {
                    let files = ctx.session(session)?.files();
                    upload(&files, &from, source, at, *into || many, self.mode).await?;
                }
                (Side::Remote { session, at, contents, .. }, Side::Local(_) | Side::Pipe) => {
                    let files = ctx.session(&session)?.files();
                    download(&files, &at, contents, &to, many || last.ends_with('/')).await?;
                }
                (Side::Remote { .. }, Side::Remote { .. }) => {
                    return Err(Refusal::usage(
                        "both sides are in sessions",
                        "copy out first, then in: wharf session cp a:x - | wharf session cp - b:x",
                    )
                    .into());
                }
                _ => {
                    return Err(
                        Refusal::usage("neither side is in a session", "write one as SESSION:PATH").into()
                    );
                }
            }
        }
        Ok(())
    }
}

/// What is at a path, or nothing.
async fn stat(files: &FilesApi, at: &FileTarget) -> anyhow::Result<Option<api::FileInfo>> {
    match files.stat(at).await {
        Ok(info) => Ok(Some(info)),
        // Nothing there is an answer, unless it is the session that is not there: that shows at the next call.
        Err(e) if e.is(Code::NotFound) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

async fn upload(
    files: &FilesApi,
    from: &Side,
    shown: &str,
    to: &FileTarget,
    into: bool,
    mode: Option<u32>,
) -> anyhow::Result<()> {
    let there = stat(files, to).await?;
    let is_dir = there.as_ref().is_some_and(|i| i.kind == FileKind::Directory);
    let Side::Local(path) = from else {
        if into || is_dir {
            return Err(Refusal::usage(
                format!("{to} is a directory"),
                "stdin needs the name of a file there",
            )
            .into());
        }
        let bar = progress::bar(&to.to_string(), None);
        let done = files.write(to, stream_of(crate::stdin::reader(), bar.clone()), None, mode).await;
        bar.finish_and_clear();
        return Ok(done?);
    };
    let meta = tokio::fs::metadata(path).await.with_context(|| format!("{shown} cannot be read"))?;
    if meta.is_dir() {
        let contents = shown.ends_with("/.") || shown == ".";
        let name = path.canonicalize()?.file_name().map(|n| n.to_string_lossy().into_owned());
        let to = match name {
            Some(name) if (is_dir || into) && !contents => to.join(&name),
            _ => to.clone(),
        };
        if there.is_some() && !is_dir {
            return Err(
                Refusal::usage(format!("{to} is there and is no directory"), "name another target").into()
            );
        }
        files.op(&to, &api::FileOp::Mkdir { parents: true, mode: None }).await?;
        return upload_tree(files, path, &to).await;
    }
    anyhow::ensure!(meta.is_file(), "{shown} is neither a file nor a directory");
    let name = path
        .file_name()
        .and_then(|n| n.to_str())
        .with_context(|| format!("{shown} has a name that is not UTF-8"))?;
    let to = if into || is_dir { to.join(name) } else { to.clone() };
    let source = tokio::fs::File::open(path).await.with_context(|| format!("{shown} cannot be read"))?;
    let bar = progress::bar(shown, Some(meta.len()));
    let mode = mode.unwrap_or_else(|| std::os::unix::fs::MetadataExt::mode(&meta) & 0o777);
    // What grows meanwhile is cut where it was: the length was promised.
    let body = stream_of(tokio::io::AsyncReadExt::take(source, meta.len()), bar.clone());
    let done = files.write(&to, body, Some(meta.len()), Some(mode)).await;
    bar.finish_and_clear();
    Ok(done?)
}

async fn upload_tree(files: &FilesApi, path: &Path, to: &FileTarget) -> anyhow::Result<()> {
    let bar = progress::bar(&to.to_string(), None);
    let (body, packing) = tree(path, bar.clone(), &[]);
    let sent = files.write_tar(to, body).await;
    bar.finish_and_clear();
    packed(packing, sent).await
}

/// What became of sending a tree, and of packing it.
pub async fn packed<T>(
    packing: tokio::task::JoinHandle<anyhow::Result<()>>,
    sent: wharf_client::Result<T>,
) -> anyhow::Result<T> {
    match (packing.await?, sent) {
        // The server's refusal broke the pipe; it is the cause.
        (_, Err(e @ wharf_client::Error::Problem(_))) => Err(e.into()),
        (Err(e), _) => Err(e),
        (Ok(()), sent) => Ok(sent?),
    }
}

/// Packs on a thread while it is sent, without what is called as in `skip`. An error in packing breaks the request off, so that no
/// half tree looks whole.
pub fn tree(
    path: &Path,
    bar: indicatif::ProgressBar,
    skip: &'static [&'static str],
) -> (Body, tokio::task::JoinHandle<anyhow::Result<()>>) {
    let (send, receive) = mpsc::channel::<std::io::Result<Bytes>>(8);
    let root = path.to_owned();
    let packing = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let mut builder =
            tar::Builder::new(std::io::BufWriter::with_capacity(256 * 1024, Sender(send.clone())));
        builder.follow_symlinks(false);
        let packed = pack(&mut builder, &root, Path::new(""), skip).and_then(|()| {
            builder.into_inner()?.flush()?;
            Ok(())
        });
        if packed.is_err() {
            // The receiver may be gone already; then the request has its own error.
            drop(send.blocking_send(Err(std::io::Error::other("packing failed"))));
        }
        packed
    });
    let stream =
        futures_util::stream::unfold(receive, |mut r| async move { r.recv().await.map(|item| (item, r)) });
    (Body::wrap_stream(stream.inspect_ok(move |c: &Bytes| bar.inc(c.len() as u64))), packing)
}

struct Sender(mpsc::Sender<std::io::Result<Bytes>>);

impl std::io::Write for Sender {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(buf)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything below `root`, in order of names. Links are packed as links; sockets, FIFOs and devices are left out and named.
fn pack<W: std::io::Write>(
    builder: &mut tar::Builder<W>,
    root: &Path,
    below: &Path,
    skip: &[&str],
) -> anyhow::Result<()> {
    let dir = root.join(below);
    let cannot = || format!("{} cannot be read", dir.display());
    let mut entries =
        std::fs::read_dir(&dir).with_context(cannot)?.collect::<Result<Vec<_>, _>>().with_context(cannot)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        if skip.iter().any(|s| entry.file_name() == *s) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() || kind.is_file() || kind.is_symlink() {
            builder
                .append_path_with_name(&path, &name)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            if kind.is_dir() {
                pack(builder, root, &name, skip)?;
            }
        } else {
            note(format!("left out {}: it is no file, directory or link", path.display()));
        }
    }
    Ok(())
}

async fn download(
    files: &FilesApi,
    from: &FileTarget,
    contents: bool,
    to: &Side,
    into: bool,
) -> anyhow::Result<()> {
    let info = files.stat(from).await?;
    let Side::Local(path) = to else {
        let mut answer = if info.kind == FileKind::Directory {
            files.read_tar(from).await?
        } else {
            files.read(from, 0).await?
        };
        while let Some(chunk) = answer.chunk().await.context("the copy broke off")? {
            print(&chunk)?;
        }
        return Ok(());
    };
    let name = from.file_name().unwrap_or("root").to_owned();
    let there = tokio::fs::metadata(path).await.ok();
    if into && there.is_none() && info.kind != FileKind::Directory {
        return Err(Refusal::usage(format!("{} is not a directory", path.display()), "make it first").into());
    }
    let is_dir = there.is_some_and(|m| m.is_dir());
    let path = if is_dir && !contents { path.join(name) } else { path.clone() };
    let total = (info.kind == FileKind::File).then_some(info.size_bytes);
    let bar = progress::bar(&from.to_string(), total);
    let done = if info.kind == FileKind::Directory {
        unpack(files.read_tar(from).await?, path, bar.clone()).await
    } else {
        save(files.read(from, 0).await?, &path, &info, &bar).await
    };
    bar.finish_and_clear();
    done
}

/// Writes beside the place and renames: what was there stays until all of the new is.
async fn save(
    mut answer: wharf_client::Response,
    path: &Path,
    info: &api::FileInfo,
    bar: &indicatif::ProgressBar,
) -> anyhow::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let cannot = || format!("{} cannot be written", path.display());
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).with_context(cannot)?;
    let beside = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .with_context(cannot)?;
    let whole = async {
        let mut written = 0;
        while let Some(chunk) = answer.chunk().await.context("the copy broke off")? {
            file.write_all(&chunk).with_context(cannot)?;
            written += chunk.len() as u64;
            bar.inc(chunk.len() as u64);
        }
        anyhow::ensure!(
            info.kind != FileKind::File || written >= info.size_bytes,
            "the copy broke off after {written} of {} bytes",
            info.size_bytes
        );
        // Permission bits as they are inside, but no set-id bit leaves a sandbox. Those of a link say nothing.
        let mode = u32::from_str_radix(&info.mode, 8).ok().filter(|_| info.kind == FileKind::File);
        let mode = mode.unwrap_or(0o644) & 0o777;
        file.set_permissions(std::fs::Permissions::from_mode(mode)).with_context(cannot)?;
        std::fs::rename(&beside, path).with_context(cannot)
    };
    let outcome: anyhow::Result<()> = tokio::select! {
        outcome = whole => outcome,
        // What was begun does not stay behind.
        _ = tokio::signal::ctrl_c() => Err(Silent(130).into()),
    };
    if outcome.is_err() {
        drop(std::fs::remove_file(&beside));
    }
    outcome
}

/// Unpacks on a thread while it comes. Members cannot leave `path`, and set-id bits do not come along.
async fn unpack(
    answer: wharf_client::Response,
    path: PathBuf,
    bar: indicatif::ProgressBar,
) -> anyhow::Result<()> {
    let stream =
        answer.bytes_stream().map_err(std::io::Error::other).inspect_ok(move |c| bar.inc(c.len() as u64));
    let reader = tokio_util::io::SyncIoBridge::new(tokio_util::io::StreamReader::new(stream.boxed()));
    tokio::task::spawn_blocking(move || {
        let cannot = || format!("{} cannot be written", path.display());
        std::fs::create_dir_all(&path).with_context(cannot)?;
        let mut archive = tar::Archive::new(reader);
        archive.set_mask(0o7000);
        archive.set_preserve_permissions(true);
        archive.unpack(&path).with_context(cannot)
    })
    .await?
}

impl Ls {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let files = ctx.session(&self.session)?.files();
        let at = target(self.path.as_deref().unwrap_or(""))?;
        let info = files.stat(&at).await?;
        if info.kind != FileKind::Directory {
            return ctx.out.list(&[info]);
        }
        common::list::<api::FileInfo>(ctx, files.list(&at), &self.paging, &format!("{at} is empty")).await
    }
}

#[cfg(test)]
mod tests;
