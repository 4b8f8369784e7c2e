//! Connections of programs that know no proxy. The packet filter led them here; the kernel knows where they were going, and the
//! resolver which name that was. The gateway is asked for that name as a proxy is; if it says no, the caller's connection is reset,
//! or, where the caller began to speak HTTP, answered with the gateway's own words.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use super::names::Names;
use super::{Egress, TRANSPARENT_PORT, forward, link};

/// The gateway resolves, connects and answers within this, or the caller is let go.
const ANSWER: Duration = Duration::from_secs(60);
/// Bytes of the gateway's answer to CONNECT that are read.
const HEAD_BYTES: usize = 16 * 1024;
/// How long a refused caller has to show whether it speaks HTTP.
const FIRST_WORD: Duration = Duration::from_millis(300);
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes of a reason in the host's log.
const REASON_BYTES: usize = 300;

pub async fn serve(egress: Arc<Egress>, listener: TcpListener) {
    loop {
        let Ok(slot) = Arc::clone(&egress.slots).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let egress = Arc::clone(&egress);
        tokio::spawn(async move {
            let _slot = slot;
            let _ = stream.set_nodelay(true);
            match destination(&stream) {
                Ok(to) => connection(&egress, stream, to).await,
                // Somebody connected here directly.
                Err(_) => reset(stream),
            }
        });
    }
}

/// Where the caller was going.
fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let to: SocketAddr = if stream.local_addr()?.is_ipv4() {
        rustix::net::sockopt::ip_original_dst(stream)?.into()
    } else {
        rustix::net::sockopt::ipv6_original_dst(stream)?.into()
    };
    if to.ip().is_loopback() && to.port() == TRANSPARENT_PORT {
        return Err(io::Error::other("it was not led here"));
    }
    Ok(to)
}

/// `host:port` as CONNECT has it.
fn authority(egress: &Egress, to: SocketAddr) -> Option<String> {
    let port = to.port();
    match to.ip() {
        IpAddr::V6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => format!("{ip}:{port}"),
            None => format!("[{ip}]:{port}"),
        }),
        IpAddr::V4(ip) => match egress.names().name(ip) {
            Some(name) => Some(format!("{name}:{port}")),
            // An address handed out long ago stands for nothing any more.
            None if Names::is_of_range(ip) => None,
            None => Some(format!("{ip}:{port}")),
        },
    }
}

pub(super) async fn connection(egress: &Egress, stream: TcpStream, to: SocketAddr) {
    let Some(authority) = authority(egress, to) else {
        egress.log.line(&format!("nobody was told the address {to}, so it leads nowhere"));
        return reset(stream);
    };
    let answer = timeout(ANSWER, ask(egress, &authority)).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the gateway took too long to answer"))
    });
    match answer {
        Ok(Answer::Open { gateway, early }) => {
            if early.is_empty() || link::write_all(&stream, &early).await.is_ok() {
                drop(early);
                let _ = link::carry(&stream, &gateway).await;
            }
        }
        Ok(Answer::Refused { status, whole }) => {
            egress.log.line(&format!("{authority} refused with {status}: {}", reason(&whole)));
            refuse(stream, &whole).await;
        }
        Err(error) => {
            egress.log.line(&format!("{authority} not reached: {error}"));
            let why = format!("{authority} is out of reach: the session's gateway does not answer ({error})");
            refuse(stream, forward::unavailable(&why).as_bytes()).await;
        }
    }
}

enum Answer {
    /// The tunnel stands. What came with the answer belongs to the caller: some servers speak first.
    Open { gateway: UnixStream, early: Vec<u8> },
    /// The gateway's answer, as it came.
    Refused { status: u16, whole: Vec<u8> },
}

async fn ask(egress: &Egress, authority: &str) -> io::Result<Answer> {
    let gateway = link::gateway(&egress.gateway).await?;
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    link::write_all(&gateway, request.as_bytes()).await?;
    let mut read = Vec::new();
    let head = loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if read.len() >= HEAD_BYTES || !more(&gateway, &mut read).await? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the gateway hung up or did not speak HTTP",
            ));
        }
    };
    let text = String::from_utf8_lossy(&read[..head]).into_owned();
    let status = text
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split_ascii_whitespace().nth(1)?.parse::<u16>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the gateway did not speak HTTP"))?;
    if (200..300).contains(&status) {
        return Ok(Answer::Open { gateway, early: read.split_off(head) });
    }
    let whole = (head + content_length(&text).unwrap_or(HEAD_BYTES)).min(2 * HEAD_BYTES);
    while read.len() < whole && more(&gateway, &mut read).await? {}
    read.truncate(whole);
    Ok(Answer::Refused { status, whole: read })
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

/// False at the end.
async fn more(from: &UnixStream, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 2048];
    loop {
        from.readable().await?;
        match from.try_read(&mut piece) {
            Ok(n) => {
                into.extend_from_slice(&piece[..n]);
                return Ok(n > 0);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// The first line of a body, for people.
fn reason(answer: &[u8]) -> String {
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(&[][..], |end| &answer[end + 4..]);
    let text = String::from_utf8_lossy(&body[..body.len().min(REASON_BYTES)]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

async fn refuse(stream: TcpStream, answer: &[u8]) {
    let mut word = [0; 8];
    let speaks_http =
        timeout(FIRST_WORD, stream.peek(&mut word)).await.is_ok_and(|n| n.is_ok_and(|n| is_http(&word[..n])));
    if speaks_http && timeout(FAREWELL, forward::say(&stream, answer)).await.is_ok_and(|said| said.is_ok()) {
        return;
    }
    reset(stream);
}

fn is_http(word: &[u8]) -> bool {
    ["GET ", "HEAD ", "POST ", "PUT ", "PATCH ", "DELETE ", "OPTIONS "]
        .iter()
        .any(|method| word.starts_with(method.as_bytes()))
}

/// The caller learns that it was refused, not that a peer had nothing to say.
fn reset(stream: TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
}
