//! This process's stdin as chunks, read on a thread of its own: a read of it cannot be cancelled, and must not hold up the end
//! of the program.

use std::io::Read as _;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Chunks as they come; closed at the end of the input. At most a few are held.
pub fn chunks(size: usize) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut buffer = vec![0; size];
            let read = loop {
                match stdin.read(&mut buffer) {
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            let chunk = match read {
                Ok(0) => return,
                Ok(n) => {
                    buffer.truncate(n);
                    Ok(Bytes::from(buffer))
                }
                Err(e) => Err(e),
            };
            let failed = chunk.is_err();
            if send.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    receive
}

/// The same as something to read from.
pub fn reader() -> impl tokio::io::AsyncRead + Send + 'static {
    let stream =
        futures_util::stream::unfold(
            chunks(256 * 1024),
            |mut r| async move { r.recv().await.map(|c| (c, r)) },
        );
    tokio_util::io::StreamReader::new(Box::pin(stream))
}
