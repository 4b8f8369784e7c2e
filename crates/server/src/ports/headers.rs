//! What passes between a caller and a program in a session, and what does not.
//!
//! Ends here, both ways: what is about one connection (RFC 9110, section 7.6.1). Ends here on the way in: credentials of
//! Wharf, and what callers claim of themselves with `X-Forwarded-…`. On the way out of the API's own origin: whatever would
//! act on that origin, since what answers is not Wharf.

use std::net::IpAddr;

use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_SECURITY_POLICY, COOKIE, EXPECT, FORWARDED, HOST, HeaderName,
    LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Version};

/// Headers that are about one connection and not about the request.
const HOP: [HeaderName; 9] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// What a proxy says of whom it speaks for; believed of nobody.
const CLAIMS: [&str; 7] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-real-ip",
];
/// What acts on a whole origin.
const OF_ORIGINS: [&str; 3] = ["clear-site-data", "service-worker-allowed", "origin-agent-cluster"];
/// A page from a session, shown at the API's own address, is an origin of its own with nothing in it.
const SANDBOX: HeaderValue =
    HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads");

/// The protocol a request wants to change to, where its `Connection` says so.
pub(crate) fn upgrade_of(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    // HTTP/2 in the clear is offered by clients that go on as well without; a body that follows would be lost.
    let wanted = headers.get(UPGRADE).filter(|p| !p.as_bytes().eq_ignore_ascii_case(b"h2c"));
    wanted.filter(|_| named && version == Version::HTTP_11).cloned()
}

/// Removes what is about this connection: the known headers and those `Connection` names.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    // gRPC's servers want to hear that their client reads trailers; that is true from end to end.
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Where a request came in.
pub(crate) struct Came<'c> {
    /// What the program is to take for its own host.
    pub host: HeaderValue,
    /// The host the caller asked.
    pub asked: Option<HeaderValue>,
    pub https: bool,
    pub from: Option<IpAddr>,
    /// What stands before the program's own paths.
    pub prefix: Option<&'c str>,
}

/// Makes a caller's headers those of a request to a program inside.
pub(crate) fn inward(headers: &mut HeaderMap, came: &Came<'_>) {
    strip_hop(headers);
    headers.remove(EXPECT);
    headers.remove(FORWARDED);
    for claim in CLAIMS {
        headers.remove(claim);
    }
    headers.insert(HOST, came.host.clone());
    let proto = HeaderValue::from_static(if came.https { "https" } else { "http" });
    headers.insert("x-forwarded-proto", proto);
    if let Some(asked) = &came.asked {
        headers.insert("x-forwarded-host", asked.clone());
    }
    let from = came.from.and_then(|from| HeaderValue::from_str(&from.to_string()).ok());
    headers.extend(from.map(|from| (HeaderName::from_static("x-forwarded-for"), from)));
    let prefix = came.prefix.and_then(|prefix| HeaderValue::from_str(prefix).ok());
    headers.extend(prefix.map(|prefix| (HeaderName::from_static("x-forwarded-prefix"), prefix)));
}

/// At the API's own address every credential is one of Wharf's, and so is every cookie.
pub(crate) fn without_credentials(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(COOKIE);
}

/// Takes cookies of these names out of the request; others are the program's.
pub(crate) fn without_cookies(headers: &mut HeaderMap, own: &[&str]) {
    let kept: Vec<String> = cookies(headers)
        .filter(|pair| !own.contains(&pair.split('=').next().unwrap_or_default().trim()))
        .map(str::to_owned)
        .collect();
    headers.remove(COOKIE);
    if let Ok(value) = HeaderValue::from_str(&kept.join("; "))
        && !kept.is_empty()
    {
        headers.insert(COOKIE, value);
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|line| line.split(';')).map(str::trim).filter(|pair| !pair.is_empty())
}

/// The value of a cookie.
pub(crate) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    cookies(headers)
        .find_map(|pair| pair.split_once('=').filter(|(n, _)| n.trim() == name))
        .map(|(_, v)| v.trim())
}

/// An answer of a program, as it may stand at the API's own address.
pub(crate) fn outward_by_path(headers: &mut HeaderMap, prefix: &str, port: u16) {
    strip_hop(headers);
    for name in [SET_COOKIE, STRICT_TRANSPORT_SECURITY, ALT_SVC] {
        headers.remove(name);
    }
    for name in OF_ORIGINS {
        headers.remove(name);
    }
    headers.append(CONTENT_SECURITY_POLICY, SANDBOX);
    let led = headers.get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| relocated(l, prefix, port));
    if let Some(location) = led.and_then(|l| HeaderValue::from_str(&l).ok()) {
        headers.insert(LOCATION, location);
    }
}

/// Where a redirect within the program leads at the API's address; `None` where it stands as it is.
fn relocated(location: &str, prefix: &str, port: u16) -> Option<String> {
    let path = match location.split_once("://") {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
        {
            let at = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(at);
            let (host, named) = authority.rsplit_once(':')?;
            let local = matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "0.0.0.0");
            if !local || named.parse() != Ok(port) {
                return None;
            }
            if path.is_empty() { "/" } else { path }
        }
        _ => location,
    };
    let absolute = path.starts_with('/') && !path.starts_with("//");
    absolute.then(|| format!("{prefix}{path}"))
}

/// Pages of a port's host name stand in frames of that host name alone, since a page of another session around them could
/// have a person click in them. A program's own policy stays beside this: a browser keeps to all there are. Browsers that
/// see ours pass over `X-Frame-Options`, so what that forbids is said here.
pub(crate) fn framed_by_itself(headers: &mut HeaderMap) {
    let denied = headers
        .get_all(X_FRAME_OPTIONS)
        .iter()
        .any(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"deny"));
    let who = if denied { "frame-ancestors 'none'" } else { "frame-ancestors 'self'" };
    headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_static(who));
}

/// An answer of a program at its own host name. Cookies stay with that host: one for a whole domain would reach other
/// sessions, and those of `own` names are Wharf's.
pub(crate) fn outward_by_host(headers: &mut HeaderMap, own: &[&str]) {
    strip_hop(headers);
    headers.remove(ALT_SVC);
    let set: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for value in set {
        let Ok(text) = value.to_str() else { continue };
        let name = text.split(['=', ';']).next().unwrap_or_default().trim();
        if own.contains(&name) {
            continue;
        }
        let is_domain =
            |part: &str| part.split('=').next().is_some_and(|n| n.trim().eq_ignore_ascii_case("domain"));
        let mut parts = text.split(';');
        let first = parts.next().unwrap_or_default();
        let kept: Vec<&str> = std::iter::once(first).chain(parts.filter(|part| !is_domain(part))).collect();
        if let Ok(value) = HeaderValue::from_str(&kept.join(";")) {
            headers.append(SET_COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests;
