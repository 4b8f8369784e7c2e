//! `GET /ports/{port}`: a byte tunnel to a port on the session's loopback. It goes nowhere else.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::UPGRADE;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wharf_domain::Code;
use wharf_wire::host::TUNNEL_PROTOCOL;

use crate::egress;
use crate::fault::{Fault, Result};
use crate::reply::Reply;
use crate::request::{Incomes, Query};
use crate::terminals::{switching, upgrades_to};

/// Bytes carried at once, each way.
const PIECE: usize = 32 * 1024;

pub async fn open(port: &str, mut request: Incomes) -> Result<Reply> {
    Query::of(&request)?.finish()?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| Fault::invalid("port", format!("{port:?} is not a port between 1 and 65535")))?;
    if egress::expected() && egress::is_own(Ipv4Addr::LOCALHOST.into(), port) {
        return Err(Fault::invalid(
            "port",
            format!("port {port} is the session's own way out, and no program's"),
        ));
    }
    if !upgrades_to(&request, TUNNEL_PROTOCOL) {
        let asked = request.headers().contains_key(UPGRADE);
        let what = if asked { "another protocol" } else { "no upgrade" };
        return Err(Fault::new(
            Code::BadRequest,
            format!("a port speaks {TUNNEL_PROTOCOL}; the request names {what}"),
        ));
    }
    let connected = match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(stream) => Ok(stream),
        Err(_) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await,
    };
    let mut stream = connected.map_err(|e| {
        Fault::new(Code::Unavailable, format!("nothing in the session answers on port {port}: {e}"))
    })?;
    let _ = stream.set_nodelay(true);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let mut upgraded = TokioIo::new(upgraded);
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut upgraded, &mut stream, PIECE, PIECE).await;
        }
    });
    Ok(switching(TUNNEL_PROTOCOL))
}
