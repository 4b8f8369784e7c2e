//! Where a request wants to go, read from its request line and its `Host`: the door every byte from a session passes.
//!
//! Refuses what the next reader could understand differently: user names in an authority, two hosts, ports that are none.

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, Method, Uri};
use wharf_domain::egress::Target;

use crate::problem::Refusal;

/// The gateway's own name. One label, so no name of the internet is like it.
pub const OWN: &str = "gateway";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `CONNECT`: bytes both ways.
    Tunnel(Target),
    /// A request to be passed on, in absolute form.
    Forward(Target),
    /// A request to the gateway itself, or a tunnel to it.
    Own,
    OwnTunnel,
}

fn own(target: &Target) -> Result<bool, Refusal> {
    if target.host.name() != Some(OWN) {
        return Ok(false);
    }
    if target.port != 80 {
        return Err(Refusal::bad_request(format!(
            "the gateway itself speaks plain HTTP on port 80 (http://{OWN}/…), not on port {}",
            target.port
        )));
    }
    Ok(true)
}

/// Reads a request's target.
pub fn classify(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Asked, Refusal> {
    let bad = |e: wharf_domain::Error| Refusal::bad_request(e.public);
    if method == Method::CONNECT {
        let authority = uri
            .authority()
            .ok_or_else(|| Refusal::bad_request("CONNECT names a host and a port, as in example.org:443"))?;
        let target = Target::parse(authority.as_str(), None).map_err(bad)?;
        return Ok(if own(&target)? { Asked::OwnTunnel } else { Asked::Tunnel(target) });
    }
    if let Some(authority) = uri.authority() {
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(Refusal::bad_request(format!(
                "a request in absolute form is for http:// only, and this one begins with {}://; use CONNECT",
                uri.scheme_str().unwrap_or_default()
            )));
        }
        let target = Target::parse(authority.as_str(), Some(80)).map_err(bad)?;
        return Ok(if own(&target)? { Asked::Own } else { Asked::Forward(target) });
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next().map(|h| h.to_str()), hosts.next()) {
        (Some(Ok(host)), None) => host,
        (None, _) => return Err(Refusal::bad_request("the request names no host")),
        _ => return Err(Refusal::bad_request("the request's Host is not one host")),
    };
    let target = Target::parse(host, Some(80)).map_err(bad)?;
    if own(&target)? {
        return Ok(Asked::Own);
    }
    Err(Refusal::bad_request(format!(
        "this is a proxy: ask for http://{target}/… in absolute form or with CONNECT; in origin form it answers for http://{OWN}/ only"
    )))
}

/// The target a request inside a tunnel names, which must be the tunnel's: a certificate and a credential are for one
/// host.
pub fn inside(uri: &Uri, headers: &HeaderMap, tunnel: &Target) -> Result<(), Refusal> {
    let named = match uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => {
            let mut hosts = headers.get_all(HOST).iter();
            match (hosts.next().map(|h| h.to_str()), hosts.next()) {
                (Some(Ok(host)), None) => Some(host),
                (None, _) => None,
                _ => return Err(Refusal::bad_request("the request's Host is not one host")),
            }
        }
    };
    let Some(named) = named else { return Err(Refusal::bad_request("the request names no host")) };
    let target = Target::parse(named, Some(tunnel.port)).map_err(|e| Refusal::bad_request(e.public))?;
    if target == *tunnel {
        return Ok(());
    }
    let mut refusal = Refusal::bad_request(format!(
        "the connection is to {tunnel} and the request is for {target}; open a connection to that host"
    ));
    refusal.status = http::StatusCode::MISDIRECTED_REQUEST;
    refusal.reason = "misdirected";
    Err(refusal)
}

/// The host of a target as a URI's authority, without a port that is the scheme's own.
pub(crate) fn authority(target: &Target, default_port: u16) -> String {
    if target.port == default_port { target.host.to_string() } else { target.to_string() }
}

#[cfg(test)]
mod tests;
