//! `/git/{space}/{repo}.git`: git's smart HTTP protocol (gitprotocol-http(5)), for clients that are git.
//!
//! It is git's protocol and not the API's, so it stands in no OpenAPI document; who may is judged all the same. A refusal is
//! text where git asks, because that is what git shows its user.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, Error, NameOrId, Plain, PushId, RepoId, limits};
use wharf_git::{Bounds, Call, Ended, Hold, Service};
use wharf_store::repos::Repo;
use wharf_store::{Caller, Credential};

use super::Git;
use super::push::Pushing;
use crate::app::App;
use crate::extract::{Anonymous, At, FromPath, Params, SpacePath};
use crate::problem::{AsText, Problem};

/// How long a request waits for a place.
const PLACE: Duration = Duration::from_secs(10);
/// A pack may be this much larger than what there is room for before git stops reading: so that a push that is a little
/// too large is refused in the words of the quota.
const SLACK: u64 = 64 * 1024 * 1024;
/// Longest user name and password of basic authentication.
const BASIC: usize = 4096;
/// The backend's end of a lock that was not to be had.
const BUSY: i32 = 75;

pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/git/{space}/{repo}/info/refs", get(info_refs))
        .route("/git/{space}/{repo}/git-upload-pack", post(upload_pack))
        .route("/git/{space}/{repo}/git-receive-pack", post(receive_pack))
}

struct GitPath {
    at: SpacePath,
    repo: NameOrId<RepoId>,
}

impl FromPath for GitPath {
    fn from_path(p: &Params) -> Result<Self, Error> {
        let text = p.text("repo")?;
        let repo = text.strip_suffix(".git").unwrap_or(text);
        Ok(Self { at: SpacePath::from_path(p)?, repo: repo.parse().map_err(|e: Error| e.field("repo"))? })
    }
}

async fn info_refs(State(app): State<App>, request: Request) -> Response {
    let headers = request.headers().clone();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let service = form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == "service").map(|(_, v)| v);
    let service = match service.as_deref() {
        Some("git-upload-pack") => Some(Service::UploadPack),
        Some("git-receive-pack") => Some(Service::ReceivePack),
        _ => None,
    };
    answer(&headers, serve(app, request, service, true).await)
}

async fn upload_pack(State(app): State<App>, request: Request) -> Response {
    let headers = request.headers().clone();
    answer(&headers, serve(app, request, Some(Service::UploadPack), false).await)
}

async fn receive_pack(State(app): State<App>, request: Request) -> Response {
    let headers = request.headers().clone();
    answer(&headers, serve(app, request, Some(Service::ReceivePack), false).await)
}

/// A problem as whoever asks can read it.
fn answer(headers: &HeaderMap, result: Result<Response, Error>) -> Response {
    let error = match result {
        Ok(response) => return response,
        Err(error) => error,
    };
    let challenge = matches!(error.code, Code::Unauthenticated | Code::TokenExpired);
    let mut response = Problem(error).into_response();
    if challenge {
        let basic = HeaderValue::from_static("Basic realm=\"wharf\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
    }
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if agent.starts_with("git/") {
        response.extensions_mut().insert(AsText);
    }
    response
}

fn credential(parts: &Parts) -> Result<Credential, Error> {
    let missing = || {
        Error::new(
            Code::Unauthenticated,
            "give your user name and password, or any name and an API token (wharf_…) as the password",
        )
    };
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(missing)?;
    if values.next().is_some() {
        return Err(Error::new(Code::BadRequest, "there are two Authorization headers; send one"));
    }
    let (scheme, rest) = value.to_str().ok().and_then(|t| t.split_once(' ')).ok_or_else(missing)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Ok(Credential::Bearer(Plain::new(rest.as_bytes())));
    }
    if !scheme.eq_ignore_ascii_case("basic") || rest.len() > BASIC {
        return Err(missing());
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(rest).map_err(|_| missing())?;
    let decoded = Plain::new(decoded);
    let text = decoded.expose_str().ok_or_else(missing)?;
    let (username, password) = text.split_once(':').ok_or_else(missing)?;
    if password.is_empty() || username.contains('\0') {
        return Err(missing());
    }
    Ok(Credential::Basic { username: username.to_owned(), password: Plain::new(password.as_bytes()) })
}

/// Who asks, for what, and whether they may; then git.
async fn serve(
    app: App,
    request: Request,
    service: Option<Service>,
    advertise: bool,
) -> Result<Response, Error> {
    let (mut parts, body) = request.into_parts();
    let credential = credential(&parts)?;
    let Ok(Anonymous(meta)) = Anonymous::from_request_parts(&mut parts, &app).await else {
        return Err(Error::internal("a request without a context"));
    };
    let caller = app.store.authenticate(credential.clone(), meta).await?;
    let At(at) = At::<GitPath>::from_request_parts(&mut parts, &app).await.map_err(|Problem(e)| e)?;
    let verb = if service == Some(Service::ReceivePack) { Verb::Update } else { Verb::Get };
    let mut scope = app.store.scope(&caller, &at.at.space).await?;
    let permit = scope.repos().permit(&at.repo, verb).await?;
    let Some(service) = service else {
        let detail = "this is not a directory to browse: clone it with a git that speaks the smart protocol (1.6.6 or later)";
        return Err(Error::new(Code::InvalidField, detail).field("service"));
    };
    let pushes = service == Service::ReceivePack && !advertise;
    let free =
        if pushes { Some(scope.repos().room_left(&permit, app.git.most_bytes()).await?) } else { None };
    let repo = permit.into_row();
    // Nothing of the database is held while git works.
    drop(scope);
    let gzip = checked(&parts, service, advertise)?;
    let call = Call {
        repo: repo.id,
        service,
        advertise,
        gzip,
        length: parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok()),
        protocol: protocol(&parts.headers),
        user: caller.identity().name.clone(),
        push: pushes.then(PushId::new),
        max_input: free.map(|free| free.saturating_add(SLACK)),
    };
    app.git.work(&app, call, &repo, caller, credential, body).await
}

/// The type and the coding of a body; whether it is compressed.
fn checked(parts: &Parts, service: Service, advertise: bool) -> Result<bool, Error> {
    if advertise {
        return Ok(false);
    }
    let text =
        |name: HeaderName| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim();
    let wanted = format!("application/x-{}-request", service.as_str());
    if !text(header::CONTENT_TYPE).eq_ignore_ascii_case(&wanted) {
        return Err(Error::new(Code::UnsupportedMediaType, format!("the body of this request is {wanted}")));
    }
    match text(header::CONTENT_ENCODING).to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(Error::new(
                Code::UnsupportedMediaType,
                format!("a body is sent as it is or as gzip, not as {shown:?}"),
            ))
        }
    }
}

/// `Git-Protocol`, where it is one; git ignores what it does not know, and so is anything else.
fn protocol(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("git-protocol")?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b':' | b'-' | b'.');
    (text.len() <= 64 && text.bytes().all(plain)).then(|| text.to_owned())
}

impl Git {
    async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        let waited = tokio::time::timeout(PLACE, self.0.places.clone().acquire_owned()).await;
        match waited {
            Ok(place) => place.map_err(Error::internal),
            Err(_) => Err(Error::new(
                Code::Unavailable,
                format!(
                    "{} requests of git are at work (git.max_requests); try again in a moment",
                    self.0.settings.git.max_requests
                ),
            )
            .retry_after(Duration::from_secs(5))),
        }
    }

    async fn work(
        &self,
        app: &App,
        call: Call,
        repo: &Repo,
        caller: Caller,
        credential: Credential,
        body: Body,
    ) -> Result<Response, Error> {
        let root = self.root().await?.clone();
        if !root.exists(repo.id) {
            let detail = format!(
                "the files of repository {} are not on this server; its administrator restores them",
                repo.name
            );
            return Err(Error::new(Code::Unavailable, detail)
                .because(format!("there is no {}", root.path(repo.id).display())));
        }
        let place = self.place().await?;
        let pushing = call.push.map(|id| Pushing::new(id, credential, caller, repo, app.clone()));
        if let Some(pushing) = &pushing {
            self.begin(pushing);
        }
        let bounds = Bounds {
            whole: Duration::from_secs(self.0.settings.git.request_seconds.into()),
            idle: Duration::from_secs(limits::GIT_IDLE_SECONDS),
        };
        let (tell, told) = oneshot::channel();
        let git = self.clone();
        // A task of its own: what a push became is written down whoever still listens.
        tokio::spawn(async move {
            let ended = attend(&root, &call, body, bounds, pushing.as_ref(), tell).await;
            if let Some(ended) = &ended
                && !ended.whole()
            {
                tracing::debug!(repo = %call.repo, service = call.service.as_str(), status = ?ended.status, cut = ended.cut,
                    said = %ended.said, "git ended early");
            }
            if let Some(pushing) = &pushing {
                git.end(pushing, ended.as_ref()).await;
            }
            drop(place);
        });
        told.await.map_err(Error::internal)?
    }
}

/// Runs the backend to its end; the answer goes where it is waited for.
async fn attend(
    root: &wharf_git::Root,
    call: &Call,
    body: Body,
    bounds: Bounds,
    pushing: Option<&Arc<Pushing>>,
    tell: oneshot::Sender<Result<Response, Error>>,
) -> Option<Ended> {
    let hold = pushing.map_or_else(Hold::default, |p| p.hold.clone());
    let body = Box::pin(body.into_data_stream().map_err(io::Error::other));
    match wharf_git::serve(root, call, body, bounds, hold).await {
        Ok(started) => {
            // A caller who is gone drops the answer, and that ends the processes.
            let _ = tell.send(respond(
                started.answer.status,
                &started.answer.headers,
                started.answer.body.boxed(),
            ));
            started.ended.await.ok()
        }
        Err(broken) => {
            let ended = match broken.ended {
                Some(ended) => ended.await.ok(),
                None => None,
            };
            let busy = ended.as_ref().and_then(|e| e.status).and_then(|s| s.code()) == Some(BUSY);
            let said = ended.as_ref().map(|e| e.said.clone()).unwrap_or_default();
            let _ = tell.send(Err(if busy {
                let detail = "the repository is being put in order; push again in a minute";
                Error::new(Code::Unavailable, detail).retry_after(Duration::from_secs(30))
            } else {
                Error::internal(format!("git http-backend: {}: {said}", broken.cause))
            }));
            ended
        }
    }
}

type Flow = futures_util::stream::BoxStream<'static, io::Result<Bytes>>;

fn respond(status: u16, headers: &[(String, String)], body: Flow) -> Result<Response, Error> {
    if status >= 400 {
        return Err(Error::internal(format!("git http-backend answered {status}")));
    }
    let mut response = Response::new(Body::from_stream(body));
    *response.status_mut() = StatusCode::from_u16(status).map_err(Error::internal)?;
    for (name, value) in headers {
        if matches!(name.as_str(), "content-type" | "cache-control" | "expires" | "pragma")
            && let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}
