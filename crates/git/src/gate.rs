//! Where hooks ask: a socket in a directory nobody else enters, one question a connection.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::hook::{Ask, MOST, Reply};
use crate::root::Root;
use crate::{Result, io as named};

/// Hooks that may ask at the same time; more wait.
const HOOKS: usize = 64;
/// A hook says at once what it wants.
const HEARD: Duration = Duration::from_secs(10);
/// After a failed accept: time for descriptors to come back.
const BREATH: Duration = Duration::from_millis(50);

/// Binds the socket, and answers each question with `answer` for as long as the future that comes back is polled.
pub fn listen<F, A>(root: &Root, answer: F) -> Result<impl Future<Output = ()> + Send + use<F, A>>
where
    F: Fn(Ask) -> A + Send + Sync + 'static,
    A: Future<Output = Reply> + Send + 'static,
{
    let path = root.socket();
    // Of a server that is no more: one server at a time uses a data directory.
    let _ = std::fs::remove_file(path);
    let listener = named(|| format!("listen at {}", path.display()), UnixListener::bind(path))?;
    let (answer, places) = (Arc::new(answer), Arc::new(Semaphore::new(HOOKS)));
    Ok(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answer = answer.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, &*answer).await {
                            tracing::debug!(%error, "a hook went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a hook was not heard");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    })
}

async fn converse<F, A>(stream: UnixStream, answer: &F) -> io::Result<()>
where
    F: Fn(Ask) -> A,
    A: Future<Output = Reply>,
{
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(MOST));
    tokio::time::timeout(HEARD, read.read_until(b'\n', &mut line)).await??;
    // To its end even if the hook dies meanwhile: what is decided must be written down.
    let reply = match serde_json::from_slice::<Ask>(&line) {
        Ok(ask) => answer(ask).await,
        Err(error) => Reply::no(format!("the hook and the server do not understand each other ({error})")),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    write.write_all(&text).await
}
