//! git over ssh: a session says which repository it wants, and the gateway logs in with the key of a connection.
//!
//! A tunnel to an ssh server would need the key inside, since nobody can add one to a login that is under way. So the session's git
//! starts a program that asks here (`wharf_wire::ssh`), and the login is the gateway's own. Refuses whatever is not one of git's
//! services, pushes where the connection does not let them out, servers whose key is not the connection's, and never asks for a shell.

mod login;
mod pieces;

use std::sync::Arc;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use wharf_domain::egress::Target;
use wharf_domain::ssh::PORT;
use wharf_store::LiveConnection;
use wharf_wire::ssh::{Ask, HEADER, PROTOCOL};

use crate::body::{Body, empty};
use crate::connections::{Found, Used};
use crate::door::Call;
use crate::guards::{self, Leaving};
use crate::line::{Kind, Line};
use crate::open::Watched;
use crate::problem::Refusal;
use crate::tunnel;
use login::Login;

/// Answers when the server has taken the command, so that git hears at once what is in the way.
pub(crate) async fn open(call: Call, mut request: Request<Incoming>) -> Response<Body> {
    let (ask, target) = match asked(&request) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.response(),
    };
    let line = call.line(Kind::Request, &target);
    line.word(ask.service.as_str());
    let upgrade = hyper::upgrade::on(&mut request);
    let login = match begin(&call, &ask, &target, &line).await {
        Ok(login) => login,
        Err(refusal) => {
            line.refused(&refusal);
            return refusal.response();
        }
    };
    let tasks = call.gateway.tasks.clone();
    tasks.spawn(async move {
        if let Ok(client) = upgrade.await {
            tunnel::carry(&call, &line, pieces::carry(client, login, &call.meter)).await;
        }
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

fn asked(request: &Request<Incoming>) -> Result<(Ask, Target), Refusal> {
    let upgrade = request.headers().get(UPGRADE).is_some_and(|p| p.as_bytes() == PROTOCOL.as_bytes());
    if request.method() != Method::POST || !upgrade {
        return Err(Refusal::bad_request("here answers git's ssh program: POST, with Upgrade: wharf-ssh"));
    }
    let header = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
    let header = header.ok_or_else(|| Refusal::bad_request(format!("the header {HEADER} is missing")))?;
    Ask::from_header(header).map_err(|e| Refusal::bad_request(e.public))
}

async fn begin(call: &Call, ask: &Ask, target: &Target, line: &Arc<Line>) -> Result<Login, Refusal> {
    call.meter.pace().await?;
    call.session.policy.judge(target).map_err(|why| Refusal::denied("policy", why))?;
    call.session.room().map_err(Refusal::limit)?;
    // Before anybody is asked for a yes.
    connection(call, ask, target).await?;
    let leaving = Leaving::git(target, ask.service, &ask.path);
    let allowed = guards::egress(call, target, &leaving).await?;
    let call = &allowed.call;
    let live = connection(call, ask, target).await?;
    let stream = call.gateway.dialer.connect(target).await?;
    let login = login::enter(call, ask, target, &live, stream, line).await?;
    let used = Used { live, method: ask.service.as_str().to_owned(), path: ask.path.clone() };
    line.watch(
        call.heard,
        Watched {
            jail: call.jail,
            target: target.clone(),
            leaving: Some(leaving),
            allowed: allowed.ruling,
            opaque: false,
            used: Some(used),
        },
    );
    Ok(login)
}

/// The connection whose key is used; what to make or change where none is.
async fn connection(call: &Call, ask: &Ask, target: &Target) -> Result<Arc<LiveConnection>, Refusal> {
    let refuse = |detail: String| Err(Refusal::denied("connection", detail));
    let space = &call.session.space_name;
    let host = if target.port == PORT { target.host.to_string() } else { target.to_string() };
    let found = call.gateway.connections.ssh(&call.session, target, &ask.path).await?;
    let live = match found {
        Found::Covers(live) => live,
        Found::OtherPaths(names) => {
            return refuse(format!(
                "no connection of space {space} brings a key for {} at {target}: {} is for other paths (match.path_prefix); widen \
                 it, or create one with `wharf connection create NAME --host {host} --ssh --key-secret SECRET --path /…`",
                ask.path,
                names.join(", ")
            ));
        }
        Found::Nothing => {
            return refuse(format!(
                "no connection of space {space} brings a key for {target}; create one with `wharf connection create NAME --host \
                 {host} --ssh --key-secret SECRET --host-key KEY`, where SECRET holds a private key that the server takes"
            ));
        }
    };
    let name = &live.connection.name;
    if ask.service.writes() && !live.connection.placement.as_ssh().is_some_and(|ssh| ssh.push) {
        return refuse(format!(
            "connection {name} lets fetches out and no pushes; `wharf connection update {name} --push` changes that"
        ));
    }
    Ok(live)
}
