//! The session's way out: three listeners on its own loopback, and behind them one unix socket, the gateway's.
//!
//! It decides nothing. Which host may be reached, with which credential, is the gateway's; this carries bytes to it for three
//! kinds of programs: those that know proxies ([`forward`]), those that do not ([`transparent`], fed by the jail's packet
//! filter), and for the latter a [`resolver`] that gives every name an address, so that the gateway still sees names.

mod forward;
mod link;
mod names;
mod resolver;
#[cfg(test)]
mod tests;
mod transparent;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;

use crate::limits;
use names::Names;

/// Made by whoever started the host; the gateway puts its socket there.
pub const DIRECTORY: &str = "/run/wharf/gateway";
pub const SOCKET: &str = "gateway.sock";
/// What programs that know proxies are told; see `surroundings`.
pub const PROXY_PORT: u16 = 3128;
/// Where the jail's packet filter leads everybody else.
const TRANSPARENT_PORT: u16 = 15001;
const RESOLVER_PORT: u16 = 53;

/// What everything here shares.
pub struct Egress {
    gateway: PathBuf,
    names: Mutex<Names>,
    /// Connections carried at once; more wait in their listener's backlog.
    slots: Arc<Semaphore>,
    log: Log,
}

impl Egress {
    fn new(gateway: PathBuf) -> Self {
        Self {
            gateway,
            names: Mutex::default(),
            slots: Arc::new(Semaphore::new(limits::EGRESS)),
            log: Log::default(),
        }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this host stands before a gateway: only where its starter made the place for one.
pub fn expected() -> bool {
    Path::new(DIRECTORY).is_dir()
}

/// Whether a listening socket is one of the host's own.
pub fn is_own(address: IpAddr, port: u16) -> bool {
    address.is_loopback() && [PROXY_PORT, TRANSPARENT_PORT, RESOLVER_PORT].contains(&port)
}

/// Binds and serves. Returns once every listener is there, before anything of the session runs; what cannot be bound is
/// said and done without, for the session's files and commands are worth having anyway.
pub fn start() {
    let egress = Arc::new(Egress::new(Path::new(DIRECTORY).join(SOCKET)));
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, TRANSPARENT_PORT));
    egress.attempt("proxy", listen(at(PROXY_PORT)), |e, l| tokio::spawn(forward::serve(e, l)));
    egress.attempt("transparent path", listen(at(TRANSPARENT_PORT)), |e, l| {
        tokio::spawn(transparent::serve(e, l))
    });
    // A machine without version 6 has nothing to listen on, and nothing is led there.
    if let Ok(listener) = listen(six) {
        tokio::spawn(transparent::serve(Arc::clone(&egress), listener));
    }
    egress.attempt("resolver", datagrams(at(RESOLVER_PORT)), |e, s| tokio::spawn(resolver::datagrams(e, s)));
    egress.attempt("resolver", listen(at(RESOLVER_PORT)), |e, l| tokio::spawn(resolver::streams(e, l)));
}

impl Egress {
    fn attempt<T, R>(
        self: &Arc<Self>,
        what: &str,
        made: io::Result<T>,
        with: impl FnOnce(Arc<Self>, T) -> R,
    ) {
        match made {
            Ok(made) => {
                with(Arc::clone(self), made);
            }
            Err(error) => self.log.line(&format!("the session has no {what}: {error}")),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    // The default of 128 overflows when a build opens everything at once.
    rustix::net::listen(&listener, limits::EGRESS as i32)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// The host's own log is memory of the session: a program that is refused all day must not fill it.
struct Log {
    left: AtomicU32,
}

impl Default for Log {
    fn default() -> Self {
        Self { left: AtomicU32::new(limits::EGRESS_LOG_LINES) }
    }
}

impl Log {
    fn line(&self, text: &str) {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        match left {
            Ok(1) => {
                eprintln!("wharf-host: {text} (the last such line; the space's egress log has them all)");
            }
            Ok(_) => eprintln!("wharf-host: {text}"),
            Err(_) => {}
        }
    }
}
