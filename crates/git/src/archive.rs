//! The files of a commit, for builds.

use std::io;
use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdout};
use wharf_domain::RepoId;
use wharf_domain::repo::{Branch, HEADS};

use crate::repo::ask;
use crate::root::Root;
use crate::{GitError, Result, io as said};

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;

/// What a name of a branch, a tag or a commit means at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub commit: String,
    /// The branch, where it is one: then what it means may change.
    pub branch: Option<String>,
}

impl Root {
    /// Looks a name up: a branch, else a tag, else the number of a commit or its beginning. None: there is nothing of that name.
    pub async fn find(&self, id: RepoId, name: Option<&str>, default: &Branch) -> Result<Option<Found>> {
        let name = name.filter(|n| *n != "HEAD").unwrap_or(default.as_str());
        if let Some(commit) = self.commit(id, &format!("{HEADS}{name}")).await? {
            return Ok(Some(Found { commit, branch: Some(name.to_owned()) }));
        }
        let mut commit = self.commit(id, &format!("refs/tags/{name}")).await?;
        if commit.is_none() && name.len() >= 7 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            commit = self.commit(id, name).await?;
        }
        Ok(commit.map(|commit| Found { commit, branch: None }))
    }

    async fn commit(&self, id: RepoId, name: &str) -> Result<Option<String>> {
        let mut command = self.git(Some(id));
        command
            .args(["rev-parse", "--verify", "--quiet", "--end-of-options"])
            .arg(format!("{name}^{{commit}}"));
        let (code, out, _) = ask(command, "rev-parse").await?;
        let commit = String::from_utf8_lossy(&out).trim().to_owned();
        Ok((code == Some(0) && !commit.is_empty()).then_some(commit))
    }

    /// The text of a file at the top of a commit; none where it is not there, is no text, or has more than so many bytes.
    pub async fn text(&self, id: RepoId, commit: &str, file: &str, most: usize) -> Result<Option<String>> {
        let named = format!("{commit}:{file}");
        let mut command = self.git(Some(id));
        command.args(["cat-file", "-s"]).arg(&named);
        let (code, size, _) = ask(command, "cat-file").await?;
        let size = String::from_utf8_lossy(&size).trim().parse::<usize>();
        if code != Some(0) || size.map_or(true, |size| size > most) {
            return Ok(None);
        }
        let mut command = self.git(Some(id));
        command.args(["cat-file", "blob"]).arg(&named);
        let (code, text, _) = ask(command, "cat-file").await?;
        Ok(String::from_utf8(text).ok().filter(|_| code == Some(0)))
    }

    /// A commit's files as a tar. It ends with an error when git does.
    pub fn archive(
        &self,
        id: RepoId,
        commit: &str,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + Unpin + use<>> {
        let mut command = self.git(Some(id));
        // Of the tree: an archive of a commit begins with a header that not everybody reads.
        command.args(["archive", "--format=tar"]).arg(format!("{commit}^{{tree}}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = said(|| "run git archive".to_owned(), command.spawn())?;
        let out =
            child.stdout.take().ok_or_else(|| GitError::Unreadable("git archive has no output".into()))?;
        Ok(stream::unfold(Some((child, out)), next).boxed())
    }
}

type Running = (Child, ChildStdout);

async fn next(state: Option<Running>) -> Option<(io::Result<Bytes>, Option<Running>)> {
    let (mut child, mut out) = state?;
    let mut piece = BytesMut::with_capacity(PIECE);
    match out.read_buf(&mut piece).await {
        Ok(0) => match child.wait().await {
            Ok(status) if status.success() => None,
            Ok(status) => Some((Err(io::Error::other(format!("git archive ended with {status}"))), None)),
            Err(e) => Some((Err(e), None)),
        },
        Ok(_) => Some((Ok(piece.freeze()), Some((child, out)))),
        Err(e) => Some((Err(e), None)),
    }
}
