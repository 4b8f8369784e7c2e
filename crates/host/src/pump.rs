//! Moves bytes between non-blocking descriptors of children and the host's memory.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;

use crate::limits;
use crate::ring::Ring;

/// A pipe end or a terminal's master, registered with the runtime.
pub struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        // SAFETY: an owned descriptor stays open as long as it is registered: `AsyncFd` deregisters before it drops it.
        let registered = unsafe { AsyncFd::register(fd) };
        Ok(Self(registered?))
    }

    pub fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// Reads at most `most` bytes behind what is in `buffer`; 0 at the end. A terminal nobody holds any more has ended.
    pub async fn read(&self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let done = ready.try_io(|fd| {
                let start = buffer.len();
                buffer.resize(start + most, 0);
                let got = rustix::io::read(fd.get_ref(), &mut buffer[start..]);
                buffer.truncate(start + got.as_ref().copied().unwrap_or(0));
                Ok(got?)
            });
            match done {
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Ok(n)) => bytes = &bytes[n..],
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// Carries everything a pipe says into a ring, as fast as the ring's holder reads. Goes on to the pipe's end even when the ring is not
/// read any more: whoever writes there must not die of it.
pub async fn into_ring(pipe: Arc<Pipe>, ring: Arc<Ring>) {
    let mut buffer = Vec::new();
    loop {
        let room = ring.room(limits::PIECE_BYTES).await;
        buffer.clear();
        match pipe.read(&mut buffer, room).await {
            Ok(0) | Err(_) => break,
            Ok(_) => ring.push(&buffer),
        }
        if buffer.capacity() > room {
            buffer = Vec::new();
        }
    }
    ring.close();
}
