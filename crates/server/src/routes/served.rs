//! Published copies, as those read them who have the link: no login, one file at a time.
//!
//! What is served is somebody's files at the API's origin. So it is sandboxed (an origin of its own, without cookies),
//! its type is what its name says and never guessed, and no address is passed on to where its links lead.

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
    REFERRER_POLICY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use wharf_domain::range::{ByteRange, Part};
use wharf_domain::{Code, Error};
use wharf_store::Store;
use wharf_store::published::{Entry, Served, StoredFile};

use crate::app::App;
use crate::extract::{At, Flag, FromPath, Params, Query};
use crate::problem::Problem;

/// Entries of a directory that are shown.
const ENTRIES: i64 = 2000;
/// Scripts run, in an origin of their own that has nothing.
const SANDBOX: HeaderValue =
    HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads");

pub(crate) struct LinkPath {
    link: String,
    path: String,
}

impl FromPath for LinkPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        let link = p.text("link")?.to_owned();
        Ok(Self { link, path: p.text("path").unwrap_or_default().to_owned() })
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    /// Has browsers save the file instead of showing it.
    #[param(value_type = Option<bool>)]
    download: Flag,
}

/// Read a file of a published copy
///
/// The address itself is the credential. `ETag` is the content's SHA-256; `If-None-Match`, `If-Range` and one `Range` of
/// bytes are honoured. A directory answers with its `index.html`, or with a list of what it holds.
#[utoipa::path(get, path = "/published/{link}/{*path}", tag = "published", params(ReadQuery,
    ("Range" = Option<String>, Header, description = "One range of bytes (RFC 9110); another header is ignored."),
    ("If-None-Match" = Option<String>, Header, description = "Answers 304 when the content is one of these."),
    ("If-Range" = Option<String>, Header, description = "Honours `Range` only when the content is this one.")),
    responses(
        (status = 200, description = "The content.", body = String, content_type = "*/*"),
        (status = 206, description = "A part of the content.", body = String, content_type = "*/*"),
        (status = 304, description = "The content is the one the caller has."),
        (status = 308, description = "A directory, whose address ends with a slash.")))]
pub(crate) async fn read_published(
    State(app): State<App>,
    At(at): At<LinkPath>,
    Query(query): Query<ReadQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let copy = app.store.open_published(&at.link).await?;
    let nothing = || Error::new(Code::NotFound, "there is no such file in this copy");
    let found = app.store.published_at(copy.id, &at.path, ENTRIES + 1).await?.ok_or_else(nothing)?;
    let mut response = match found {
        Served::File(file) => content(&app.store, &at.path, &file, query.download.0, &headers)?,
        Served::Directory(_) if !at.path.is_empty() && !at.path.ends_with('/') => {
            let last = at.path.rsplit('/').next().unwrap_or_default();
            let to = format!("{}/", escaped(last));
            let to = HeaderValue::from_str(&to).map_err(Error::internal)?;
            (StatusCode::PERMANENT_REDIRECT, [(LOCATION, to)]).into_response()
        }
        Served::Directory(entries) => {
            let index = format!("{}index.html", at.path);
            match app.store.published_file(copy.id, &index).await? {
                Some(file) => content(&app.store, &index, &file, query.download.0, &headers)?,
                None => listing(&copy.name.to_string(), &at.path, &entries),
            }
        }
    };
    guarded(&mut response);
    Ok(response)
}

/// The address without a slash behind it: what is relative to it would miss it.
pub(crate) async fn root_itself(State(app): State<App>, At(at): At<LinkPath>) -> Result<Response, Problem> {
    app.store.open_published(&at.link).await?;
    let to = HeaderValue::from_str(&format!("{}/", at.link)).map_err(|e| Problem(Error::internal(e)))?;
    let mut response = (StatusCode::PERMANENT_REDIRECT, [(LOCATION, to)]).into_response();
    guarded(&mut response);
    Ok(response)
}

/// What holds for everything that is served.
fn guarded(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, SANDBOX);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Asked again each time, and answered 304: a link that was revoked is not served from a cache.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // A sandboxed page is no origin's: its own modules and fonts come from elsewhere to it. The address is the credential.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(policy, HeaderValue::from_static("cross-origin"));
}

fn content(
    store: &Store,
    path: &str,
    file: &StoredFile,
    download: bool,
    asked: &HeaderMap,
) -> Result<Response, Error> {
    let tag = format!("\"{}\"", file.digest);
    let etag = HeaderValue::from_str(&tag).map_err(Error::internal)?;
    if names(asked, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let part = wanted(asked, &tag, file.bytes);
    let (status, first, length) = match part {
        Part::Whole => (StatusCode::OK, 0, file.bytes),
        Part::Bytes { first, last } => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Part::Outside => {
            let detail = format!("the file has {} bytes, and the range begins behind them", file.bytes);
            let mut response = Problem::new(Code::RangeNotSatisfiable, detail).into_response();
            let range = HeaderValue::from_str(&format!("bytes */{}", file.bytes)).map_err(Error::internal)?;
            response.headers_mut().insert(CONTENT_RANGE, range);
            return Ok(response);
        }
    };
    let mut response = Response::new(stream(store.clone(), file.clone(), first, length));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ETAG, etag);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type(path)));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{}", first + length - 1, file.bytes);
        headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).map_err(Error::internal)?);
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let kind = if download { "attachment" } else { "inline" };
    let disposition = format!("{kind}; filename*=UTF-8''{}", escaped(name));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_str(&disposition).map_err(Error::internal)?);
    Ok(response)
}

/// Whether `If-None-Match` names this content. Comparison is weak (RFC 9110, section 13.1.2).
fn names(asked: &HeaderMap, tag: &str) -> bool {
    let lines = asked.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|t| t == "*" || t.trim_start_matches("W/") == tag)
}

/// The part that is asked for. Of several `Range` headers none is meant; one about other content is passed over.
fn wanted(asked: &HeaderMap, tag: &str, length: u64) -> Part {
    let of_this = asked.get(IF_RANGE).is_none_or(|v| v.as_bytes() == tag.as_bytes());
    let mut ranges = asked.get_all(RANGE).iter();
    let range = ranges.next().filter(|_| of_this && ranges.next().is_none()).and_then(|v| v.to_str().ok());
    range.and_then(ByteRange::parse).map_or(Part::Whole, |range| range.of(length))
}

/// `length` bytes from `first` on, a chunk at a time.
fn stream(store: Store, file: StoredFile, first: u64, length: u64) -> Body {
    let step = move |(at, left): (u64, u64)| {
        let (store, file) = (store.clone(), file.clone());
        async move {
            if left == 0 {
                return Ok::<_, io::Error>(None);
            }
            let bytes =
                store.published_bytes(&file, at).await.map_err(|e| io::Error::other(e.to_string()))?;
            let Some(mut bytes) = bytes else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let got = bytes.len() as u64;
            Ok(Some((bytes::Bytes::from(bytes), (at + got, left - got))))
        }
    };
    Body::from_stream(futures_util::stream::try_unfold((first, length), step))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A name as a segment of an address.
fn escaped(name: &str) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    const PLAIN: &percent_encoding::AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(name, PLAIN).to_string()
}

fn listing(copy: &str, path: &str, entries: &[Entry]) -> Response {
    use std::fmt::Write as _;
    let title = escape(&format!("{copy}: /{path}"));
    let mut page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{title}</title><style>body{{font:16px sans-serif;margin:2em}}\
         td{{padding:0 2em .3em 0}}</style><h1>{title}</h1><table>"
    );
    if !path.is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a></td></tr>");
    }
    for entry in entries.iter().take(ENTRIES as usize) {
        let slash = if entry.directory { "/" } else { "" };
        let (name, to) = (escape(&entry.name), escaped(&entry.name));
        // With ./ a name with a colon is no scheme.
        let _ = write!(
            page,
            "<tr><td><a href=\"./{to}{slash}\">{name}{slash}</a></td><td>{}</td></tr>",
            entry.bytes
        );
    }
    page.push_str("</table>");
    if entries.len() as i64 > ENTRIES {
        let _ = write!(page, "<p>There are more than {ENTRIES} entries; these are the first.</p>");
    }
    ([(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))], page).into_response()
}

/// What a name says of the content; bytes where it says nothing.
fn media_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "log" | "md" | "toml" | "yaml" | "yml" | "py" | "rs" | "sh" | "ts" | "c" | "h" | "diff"
        | "patch" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" | "map" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "tar" => "application/x-tar",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "svg" => "image/svg+xml",
        "ico" => "image/vnd.microsoft.icon",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        _ => "application/octet-stream",
    }
}
