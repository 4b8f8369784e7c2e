//! A connection to the gateway, and bytes carried over it.
//!
//! The gateway's process may be restarted at any time; who asks meanwhile waits a little instead of failing.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

/// Longer than its keeper takes to start it again.
const PATIENCE: Duration = Duration::from_secs(8);
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Bytes moved at once. One buffer serves all connections: what a peer does not take at once is kept beside it.
const PIECE: usize = 64 * 1024;

thread_local! {
    static PIECES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Connects, trying again while nobody listens yet.
pub async fn gateway(socket: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let passing = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
                );
                if !passing || Instant::now() + pause > until {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What bytes are carried between.
pub trait End {
    async fn readable(&self) -> io::Result<()>;
    async fn writable(&self) -> io::Result<()>;
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// No more will be written.
    fn finish(&self) -> io::Result<()>;
}

macro_rules! end {
    ($stream:ty) => {
        impl End for $stream {
            async fn readable(&self) -> io::Result<()> {
                self.readable().await
            }
            async fn writable(&self) -> io::Result<()> {
                self.writable().await
            }
            fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
                self.try_read(buffer)
            }
            fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
                self.try_write(bytes)
            }
            fn finish(&self) -> io::Result<()> {
                Ok(rustix::net::shutdown(self, rustix::net::Shutdown::Write)?)
            }
        }
    };
}

end!(TcpStream);
end!(UnixStream);

/// Carries bytes both ways until both sides have ended; the end of one is passed on while the other goes on.
/// A side that breaks ends both.
pub async fn carry(a: &impl End, b: &impl End) -> io::Result<()> {
    tokio::try_join!(one_way(a, b), one_way(b, a)).map(drop)
}

async fn one_way(from: &impl End, to: &impl End) -> io::Result<()> {
    let mut kept = Vec::new();
    loop {
        from.readable().await?;
        let step = PIECES.with_borrow_mut(|piece| {
            piece.resize(PIECE, 0);
            let n = match from.try_read(piece) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                other => other?,
            };
            let mut written = 0;
            while written < n {
                match to.try_write(&piece[written..n]) {
                    Ok(more) => written += more,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            }
            kept.extend_from_slice(&piece[written..n]);
            Ok(Some(n))
        })?;
        match step {
            None => continue,
            Some(0) => return to.finish(),
            Some(_) => {}
        }
        if !kept.is_empty() {
            write_all(to, &kept).await?;
            kept = Vec::new();
        }
    }
}

pub async fn write_all(to: &impl End, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
