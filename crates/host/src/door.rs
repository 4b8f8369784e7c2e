//! Fetching the listening socket where no descriptor can be inherited: Docker Engine starts the host, and Wharf hands it
//! its socket through a door of one use.
//!
//! The door is a unix socket that exists while the host starts and is gone before anything else runs in the session, so
//! nobody inside ever sees the host's own socket, or can take its place.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Whoever opened the door waits behind it; longer means that they are gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, takes the one descriptor that comes, and makes sure that it is a listening socket.
pub fn fetch(path: &Path) -> io::Result<UnixListener> {
    let told = |what: &str, e: io::Error| io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()));
    let stream = UnixStream::connect(path).map_err(|e| told("knock at", e))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0_u8; 1];
    rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut word)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e| told("wait at", e.into()))?;
    let fd: Option<OwnedFd> = control
        .drain()
        .find_map(|m| if let RecvAncillaryMessage::ScmRights(mut fds) = m { fds.next() } else { None });
    let fd = fd.ok_or_else(|| told("take the socket from", io::ErrorKind::UnexpectedEof.into()))?;
    if !rustix::net::sockopt::socket_acceptconn(&fd)? {
        return Err(told("take the socket from", io::Error::other("it does not listen")));
    }
    Ok(UnixListener::from(fd))
}
