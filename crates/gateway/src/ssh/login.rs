//! A login at an ssh server: its key is known before the session's key is used, and one command is run.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Preferred};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use wharf_domain::egress::Target;
use wharf_domain::egress::rule::Ssh;
use wharf_domain::ssh::{self, HostKey};
use wharf_domain::{Name, Plain};
use wharf_store::LiveConnection;
use wharf_wire::ssh::Ask;

use crate::door::Call;
use crate::line::Line;
use crate::meter::Traffic;
use crate::problem::Refusal;

/// How many times as long as a connection may take all that a login is: greetings, keys, the command.
const STEPS: u32 = 3;
/// Bytes of a channel that are under way, of one packet, and packets that wait to be carried on: then the server waits.
const WINDOW: u32 = 1024 * 1024;
const PACKET: u32 = 32 * 1024;
const WAITING: usize = 16;
/// Whom an address means that names nobody.
const USER: &str = "git";

/// A command that runs at a server. Dropped, the connection ends.
pub(super) struct Login {
    pub read: ChannelReadHalf,
    pub write: ChannelWriteHalf<Msg>,
    pub target: Target,
    handle: Handle<Doorman>,
    _end: DropGuard,
}

impl Login {
    /// Says good-bye, so that the server need not find out.
    pub async fn leave(mut self) {
        let bye = async {
            let _ = self.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
            let _ = (&mut self.handle).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), bye).await;
    }
}

/// Looks at the server's key.
struct Doorman {
    known: Vec<HostKey>,
    offered: Arc<Mutex<Option<Offered>>>,
}

/// A key the server has shown and that is none of those it is known by.
struct Offered {
    kind: String,
    fingerprint: String,
}

impl client::Handler for Doorman {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        // Certificates are never asked for.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else { return Ok(false) };
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let line = bare(key);
        let known = self.known.iter().any(|k| k.is(&line, &fingerprint));
        if !known {
            let kind = line.split(' ').next().unwrap_or_default().to_owned();
            let offered = Offered { kind, fingerprint };
            *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = Some(offered);
        }
        Ok(known)
    }
}

/// Kind and key, without the comment of whoever made it.
fn bare(key: &PublicKey) -> String {
    let line = key.to_openssh().unwrap_or_default();
    line.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Logs in and starts the command.
pub(super) async fn enter(
    call: &Call,
    ask: &Ask,
    target: &Target,
    live: &LiveConnection,
    stream: TcpStream,
    line: &Arc<Line>,
) -> Result<Login, Refusal> {
    let name = &live.connection.name;
    let Some(ssh) = live.connection.placement.as_ssh() else {
        return Err(Refusal::upstream("credential", format!("connection {name} is none to an ssh server")));
    };
    let command = ssh::command(ask.service, &ask.path).map_err(|e| Refusal::bad_request(e.public))?;
    let secret = call.gateway.connections.open(live)?;
    let key = Arc::new(private_key(&secret).map_err(|why| {
        Refusal::upstream(
            "credential",
            format!("secret {} of connection {name} cannot be used: {why}", live.connection.secret),
        )
    })?);
    drop(secret);
    let end = CancellationToken::new();
    let guard = end.clone().drop_guard();
    let wire = Wire { io: stream, line: Arc::downgrade(line), ended: Box::pin(end.cancelled_owned()) };
    let work = async {
        let mut handle = shake_hands(wire, ssh, name, target).await?;
        let user = ssh.user.as_deref().or(ask.user.as_deref()).unwrap_or(USER);
        line.connection(name);
        authenticate(&mut handle, user, &key, name, target).await?;
        let (read, write) = start(&handle, ask, command).await.map_err(|why| broken(target, &why))?;
        Ok(Login { read, write, target: target.clone(), handle, _end: guard })
    };
    let seconds = call.gateway.settings.connect_timeout_seconds * STEPS;
    tokio::time::timeout(Duration::from_secs(seconds.into()), work).await.unwrap_or_else(|_| {
        Err(Refusal::timeout(format!(
            "the ssh server {target} let nobody in within {seconds} s ({STEPS} times gateway.connect_timeout_seconds)"
        )))
    })
}

fn broken(target: &Target, why: &impl std::fmt::Display) -> Refusal {
    Refusal::upstream("protocol", format!("the ssh server {target} broke off: {why}"))
}

/// The private key in a secret. What is wrong with it is said without a byte of it.
fn private_key(secret: &Plain) -> Result<PrivateKey, &'static str> {
    const HOW: &str = "it is no private key; put in the whole file, as `ssh-keygen -t ed25519` makes it";
    let text = secret.expose_str().ok_or(HOW)?;
    let key = PrivateKey::from_openssh(text).or_else(|_| russh::keys::decode_secret_key(text, None));
    match key {
        Ok(key) if key.is_encrypted() => Err(PASSPHRASE),
        Ok(key) => Ok(key),
        Err(russh::keys::Error::KeyIsEncrypted) => Err(PASSPHRASE),
        Err(_) => Err(HOW),
    }
}

const PASSPHRASE: &str = "the private key is kept under a passphrase; take that away with `ssh-keygen -p` first (a secret is kept sealed anyway)";

async fn shake_hands(
    wire: Wire,
    ssh: &Ssh,
    name: &Name,
    target: &Target,
) -> Result<Handle<Doorman>, Refusal> {
    let offered = Arc::new(Mutex::new(None));
    let doorman = Doorman { known: ssh.host_keys.clone(), offered: offered.clone() };
    let config = client::Config {
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        channel_buffer_size: WAITING,
        preferred: Preferred { key: Cow::Owned(wanted(&ssh.host_keys)), ..Preferred::DEFAULT },
        ..client::Config::default()
    };
    client::connect_stream(Arc::new(config), wire, doorman).await.map_err(|error| {
        match offered.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(offered) => unknown(&offered, ssh, name, target),
            None => broken(target, &error),
        }
    })
}

/// Kinds of keys, those the server is known by first: a server with several shows the one that is asked for. SHA-1 is over.
fn wanted(known: &[HostKey]) -> Vec<Algorithm> {
    let is_known = |a: &Algorithm| {
        // One kind of key signs in several ways.
        let kind = if matches!(a, Algorithm::Rsa { .. }) { "ssh-rsa" } else { a.as_str() };
        known.iter().any(|k| k.kind() == Some(kind))
    };
    let mut all: Vec<Algorithm> = Preferred::DEFAULT
        .key
        .iter()
        .filter(|a| !matches!(a, Algorithm::Rsa { hash: None }))
        .cloned()
        .collect();
    all.sort_by_key(|a| !is_known(a));
    all
}

fn unknown(offered: &Offered, ssh: &Ssh, name: &Name, target: &Target) -> Refusal {
    let Offered { kind, fingerprint } = offered;
    let known = if ssh.host_keys.is_empty() {
        format!("connection {name} does not say which key the ssh server {target} has")
    } else {
        format!("the ssh server {target} is not the one connection {name} knows")
    };
    Refusal::upstream(
        "host_key",
        format!(
            "{known}: it shows {kind} {fingerprint}. If that is its key, as its owner says, add it with `wharf connection update \
             {name} --host-key {fingerprint}`; if not, somebody stands in between"
        ),
    )
}

async fn authenticate(
    handle: &mut Handle<Doorman>,
    user: &str,
    key: &Arc<PrivateKey>,
    name: &Name,
    target: &Target,
) -> Result<(), Refusal> {
    let hash = if key.algorithm().is_rsa() {
        let best = handle.best_supported_rsa_hash().await.map_err(|e| broken(target, &e))?;
        best.flatten().or(Some(HashAlg::Sha512))
    } else {
        None
    };
    let with = PrivateKeyWithHashAlg::new(key.clone(), hash);
    let entered = handle.authenticate_publickey(user, with).await.map_err(|e| broken(target, &e))?;
    if entered.success() {
        return Ok(());
    }
    let public = bare(key.public_key());
    Err(Refusal::upstream(
        "credential",
        format!(
            "the ssh server {target} does not let {user} in with the key of connection {name}; let it in there, its public part is: \
             {public}"
        ),
    ))
}

async fn start(
    handle: &Handle<Doorman>,
    ask: &Ask,
    command: String,
) -> Result<(ChannelReadHalf, ChannelWriteHalf<Msg>), russh::Error> {
    let (mut read, write) = handle.channel_open_session().await?.split();
    if let Some(protocol) = &ask.protocol {
        // Servers that do not know it speak the oldest version.
        write.set_env(false, "GIT_PROTOCOL", protocol.as_str()).await?;
    }
    write.exec(true, command).await?;
    loop {
        match read.wait().await {
            Some(ChannelMsg::Success) => return Ok((read, write)),
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            Some(_) => return Err(russh::Error::RequestDenied),
            None => return Err(russh::Error::Disconnect),
        }
    }
}

/// The server's connection: its bytes count on the line, and it ends when told, whatever its other end does.
struct Wire {
    io: TcpStream,
    /// It is written when whoever carries is done, and the library may let go of its connection later.
    line: Weak<Line>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn over(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

fn count(line: &Weak<Line>, of: impl Fn(&Traffic) -> &AtomicU64, n: usize) {
    if let Some(line) = line.upgrade() {
        of(&line.traffic).fetch_add(n as u64, Ordering::Relaxed);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.over(cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        count(&self.line, |t| &t.received, buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.over(cx)?;
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        count(&self.line, |t| &t.sent, n);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
