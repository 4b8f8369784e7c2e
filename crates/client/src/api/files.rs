//! Files of a session: small ones whole, large ones and trees as streams.

use reqwest::{Method, Response};
use wharf_wire::api;

use super::session::SessionApi;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::page::List;

/// `/spaces/{space}/sessions/{session}/files/…`
pub struct FilesApi {
    session: SessionApi,
}

/// An absolute path of a session, fit for a URL.
///
/// Refuses `..`: a URL drops it on the way, and what the file system would make of it depends on links the client does not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTarget(Vec<String>);

impl std::str::FromStr for FileTarget {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self> {
        let Some(rest) = path.strip_prefix('/') else {
            return Err(Error::Invalid(format!("{path:?} is not an absolute path: begin it with /")));
        };
        if path.contains('\0') {
            return Err(Error::Invalid("a path cannot hold a NUL byte".into()));
        }
        let parts: Vec<String> =
            rest.split('/').filter(|p| !p.is_empty() && *p != ".").map(str::to_owned).collect();
        if parts.iter().any(|p| p == "..") {
            return Err(Error::Invalid(format!("{path:?} holds `..`; write the path without it")));
        }
        Ok(Self(parts))
    }
}

impl std::fmt::Display for FileTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.0.join("/"))
    }
}

impl FileTarget {
    /// The last part; `None` for the root.
    pub fn file_name(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }

    /// The same with one part more.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.to_owned());
        Self(parts)
    }

    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }
}

impl FilesApi {
    pub(crate) fn new(session: SessionApi) -> Self {
        Self { session }
    }

    fn call(&self, method: Method, at: &FileTarget) -> Call {
        self.session.call(method, std::iter::once("files").chain(at.0.iter().map(String::as_str)))
    }

    pub async fn stat(&self, at: &FileTarget) -> Result<api::FileInfo> {
        self.call(Method::GET, at).query("stat", true).send_json().await
    }

    /// Entries of a directory.
    pub fn list(&self, at: &FileTarget) -> List {
        let (session, at) = (self.session.clone(), at.clone());
        List::new(move || {
            session
                .call(Method::GET, std::iter::once("files").chain(at.0.iter().map(String::as_str)))
                .query("list", true)
        })
    }

    /// A file's bytes as a stream, from `offset` on.
    pub async fn read(&self, at: &FileTarget, offset: u64) -> Result<Response> {
        let mut call = self.call(Method::GET, at).limit(None);
        if offset > 0 {
            call = call.header("range", &format!("bytes={offset}-"));
        }
        call.send().await
    }

    /// Replaces a file, whole or not at all.
    pub async fn write(
        &self,
        at: &FileTarget,
        body: reqwest::Body,
        length: Option<u64>,
        mode: Option<u32>,
    ) -> Result<()> {
        self.call(Method::PUT, at)
            .query_opt("mode", mode.map(|m| format!("{:04o}", m & 0o7777)))
            .stream("application/octet-stream", body, length)
            .send_unit()
            .await
    }

    /// A tree as a tar archive.
    pub async fn read_tar(&self, at: &FileTarget) -> Result<Response> {
        self.call(Method::GET, at).query("tar", true).limit(None).send().await
    }

    /// Unpacks a tar archive into a directory.
    pub async fn write_tar(&self, at: &FileTarget, body: reqwest::Body) -> Result<()> {
        self.call(Method::PUT, at)
            .query("tar", true)
            .stream("application/x-tar", body, None)
            .send_unit()
            .await
    }

    pub async fn op(&self, at: &FileTarget, op: &api::FileOp) -> Result<()> {
        self.call(Method::POST, at).json(op).send_unit().await
    }

    pub async fn delete(&self, at: &FileTarget, recursive: bool) -> Result<()> {
        let call = self.call(Method::DELETE, at);
        if recursive { call.query("recursive", true) } else { call }.send_unit().await
    }
}
