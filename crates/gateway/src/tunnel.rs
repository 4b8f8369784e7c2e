//! Tunnels: bytes both ways, until both sides have said their last.
//!
//! The end of one direction is passed on and the other goes on (half-close); an error in one ends both, and the upstream
//! sees a reset where its peer did not end in order. A tunnel on which nothing is said for the idle time ends too, and so
//! does one that was cut ([`crate::open`]).

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use wharf_domain::egress::Target;

use crate::body::{Body, Way, empty};
use crate::door::{Call, http1};
use crate::guards::{self, Leaving};
use crate::intercept;
use crate::line::{Kind, Line};
use crate::meter::{Meter, Traffic};
use crate::open::Watched;
use crate::problem::Refusal;

/// Bytes on their way in one direction.
const BUFFER: usize = 64 * 1024;
/// How long tunnels may go on when the role is told to stop.
const LAST: Duration = Duration::from_secs(3);

/// Answers `CONNECT`: only after the upstream took the connection, so a client learns at once when it did not.
pub(crate) async fn open(call: Call, target: Target, mut request: Request<Incoming>) -> Response<Body> {
    let line = call.line(Kind::Tunnel, &target);
    line.method(request.method());
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = call.gateway.tasks.clone();
    match begin(&call, &target, &line).await {
        Ok(None) => {
            tasks.spawn(async move {
                if let Ok(client) = upgrade.await {
                    intercept::serve(call, target, client, line).await;
                }
            });
        }
        Ok(Some(upstream)) => {
            tasks.spawn(async move {
                if let Ok(client) = upgrade.await {
                    carry(&call, &line, direct(client, upstream, &call.meter, &line)).await;
                }
            });
        }
        Err(refusal) => {
            line.refused(&refusal);
            return refusal.response();
        }
    }
    Response::new(empty())
}

/// The upstream's connection, or none where requests inside are to be read.
async fn begin(call: &Call, target: &Target, line: &Line) -> Result<Option<TcpStream>, Refusal> {
    call.meter.pace().await?;
    call.session.policy.judge(target).map_err(|why| Refusal::denied("policy", why))?;
    call.session.room().map_err(Refusal::limit)?;
    let concerned = call.gateway.connections.concern(&call.session, target).await?;
    let read = concerned || call.gateway.guards.look_inside(&call.session, target).await?;
    let (jail, to) = (call.jail, target.clone());
    if read {
        // Requests inside are dialled one by one, and judged; that none of them can be is said now.
        call.gateway.dialer.check(target).await?;
        let watched = Watched { jail, target: to, leaving: None, allowed: None, opaque: false, used: None };
        line.watch(call.heard, watched);
        return Ok(None);
    }
    let leaving = Leaving::tunnel();
    let allowed = guards::egress(call, target, &leaving).await?;
    let (call, ruling) = (allowed.call, allowed.ruling);
    let upstream = call.gateway.dialer.connect(target).await?;
    let watched =
        Watched { jail, target: to, leaving: Some(leaving), allowed: ruling, opaque: true, used: None };
    line.watch(call.heard, watched);
    Ok(Some(upstream))
}

/// A tunnel to the gateway itself: the same answers as without one.
pub(crate) fn own(call: Call, mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = call.gateway.tasks.clone();
    tasks.spawn(async move {
        let Ok(client) = upgrade.await else { return };
        let service = service_fn(|request| {
            let call = call.clone();
            async move {
                Ok::<_, Infallible>(match call.anew().await {
                    Ok(call) => crate::own::serve(call, request).await,
                    Err(refusal) => refusal.response(),
                })
            }
        });
        let serving = http1()
            .header_read_timeout(call.gateway.idle())
            .serve_connection(client, service)
            .with_upgrades();
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => return,
            () = call.closed.cancelled() => return,
            () = call.client.gone() => return,
            () = call.stop.draining() => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    });
    Response::new(empty())
}

/// Joins two connections that have both changed their protocol.
pub(crate) fn join(call: &Call, line: &Arc<Line>, client: OnUpgrade, upstream: OnUpgrade) {
    let (call, line) = (call.clone(), line.clone());
    let tasks = call.gateway.tasks.clone();
    tasks.spawn(async move {
        let both: Result<(Upgraded, Upgraded), hyper::Error> = tokio::try_join!(client, upstream);
        if let Ok((client, upstream)) = both {
            let (client, upstream) =
                (tokio::io::split(TokioIo::new(client)), tokio::io::split(TokioIo::new(upstream)));
            carry(&call, &line, both_ways(client, upstream, &call.meter, &line)).await;
        }
    });
}

/// Lets the bytes flow until both directions have ended or something else ends them.
pub(crate) async fn carry(call: &Call, line: &Line, flow: impl Future<Output = io::Result<()>>) {
    let drained = async {
        call.stop.draining().await;
        tokio::time::sleep(LAST).await;
    };
    tokio::select! {
        flowed = flow => if flowed.is_err() { line.ended("reset") },
        () = idle(&line.traffic, call.gateway.idle()) => line.ended("idle"),
        // Its reason stands on it already.
        () = line.ends() => {}
        () = call.closed.cancelled() => line.ended("closed"),
        () = drained => line.ended("drained"),
    }
}

/// Returns when nothing has moved for the time given.
pub(crate) async fn idle(traffic: &Traffic, limit: Duration) {
    let (mut seen, mut since) = (traffic.total(), Instant::now());
    loop {
        tokio::time::sleep_until(since + limit).await;
        let now = traffic.total();
        if now == seen {
            return;
        }
        (seen, since) = (now, Instant::now());
    }
}

/// A client's connection and an upstream's, as the system has them.
async fn direct(client: Upgraded, upstream: TcpStream, meter: &Meter, line: &Line) -> io::Result<()> {
    let (mut from_upstream, mut to_upstream) = upstream.into_split();
    let flowed = match client.downcast::<TokioIo<UnixStream>>() {
        Ok(parts) => {
            let (mut from_client, mut to_client) = parts.io.into_inner().into_split();
            // What came behind the request.
            to_upstream.write_all(&parts.read_buf).await?;
            line.passed(Way::Sent, parts.read_buf.len());
            tokio::try_join!(
                pump(&mut from_client, &mut to_upstream, meter, line, Way::Sent),
                pump(&mut from_upstream, &mut to_client, meter, line, Way::Received)
            )
        }
        Err(client) => {
            let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
            tokio::try_join!(
                pump(&mut from_client, &mut to_upstream, meter, line, Way::Sent),
                pump(&mut from_upstream, &mut to_client, meter, line, Way::Received)
            )
        }
    };
    if flowed.is_err() {
        // Half a message must not look like a whole one.
        let _ = to_upstream.as_ref().set_zero_linger();
    }
    flowed.map(drop)
}

async fn both_ways(
    (mut from_client, mut to_client): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    (mut from_upstream, mut to_upstream): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    meter: &Meter,
    line: &Line,
) -> io::Result<()> {
    tokio::try_join!(
        pump(&mut from_client, &mut to_upstream, meter, line, Way::Sent),
        pump(&mut from_upstream, &mut to_client, meter, line, Way::Received)
    )
    .map(drop)
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
    line: &Line,
    way: Way,
) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        line.passed(way, n);
        let wait = meter.bytes(n);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}
