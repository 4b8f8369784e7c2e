//! `wharf session forward`: ports of a session on this machine, for whatever speaks TCP.
//!
//! Each connection is a tunnel of its own; one that fails is said and does not end the others.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use wharf_client::{SessionApi, Tunnel, TunnelReader, TunnelWriter};

use crate::context::Ctx;
use crate::exit::{self, Refusal};
use crate::output::note;

/// Connections at a time; the server has such a limit for the session too.
const CONNECTIONS: usize = 128;
/// Bytes of a frame.
const PIECE: usize = 64 * 1024;

/// Bring ports of a session to this machine
///
/// Listens here and carries every connection to the port inside, until interrupted (Ctrl-C). A closed session is restored
/// with the first connection.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session forward demo 8000              127.0.0.1:8000 here is port 8000 there
  wharf session forward demo 5433:5432 8000    several; 5433 here is 5432 there
  wharf session forward demo 0:8000            any free port here; which one is said")]
pub struct Forward {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Ports to bring: PORT, or LOCAL:PORT
    #[arg(required = true, value_name = "[LOCAL:]PORT", value_parser = pair)]
    ports: Vec<(u16, u16)>,
    /// Address to listen on here
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

/// Port here and port there.
fn pair(text: &str) -> Result<(u16, u16), String> {
    let port = |t: &str| t.parse::<u16>().map_err(|_| format!("{t:?} is not a port"));
    let (local, remote) = match text.split_once(':') {
        Some((local, remote)) => (port(local)?, port(remote)?),
        None => (port(text)?, port(text)?),
    };
    if remote == 0 { Err("a port of the session is between 1 and 65535".into()) } else { Ok((local, remote)) }
}

impl Forward {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let session = ctx.session(&self.session)?;
        // Whether it is there, and whether one is logged in, is said before anything listens.
        session.get().await?;
        let mut listeners = JoinSet::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        for (local, remote) in self.ports {
            let listener = TcpListener::bind((self.address, local)).await.map_err(|e| {
                Refusal::usage(
                    format!("cannot listen on {}:{local}: {e}", self.address),
                    format!(
                        "choose another port here: wharf session forward {} OTHER:{remote}",
                        self.session
                    ),
                )
            })?;
            let here = listener.local_addr().context("the address listened on")?;
            note(format!("{here} here is port {remote} of {}", self.session));
            let (session, places) = (session.clone(), places.clone());
            listeners.spawn(async move {
                let what = format!("connection to port {remote}");
                serve(listener, places, &what, |stream| carry(stream, session.clone(), remote)).await
            });
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(()),
            ended = listeners.join_next() => match ended {
                Some(done) => done.context("a listener broke")?,
                None => Ok(()),
            },
        }
    }
}

/// Accepts for as long as it is polled, as many at a time as there are places; says which connection broke, and goes on.
pub(super) async fn serve<F>(
    listener: TcpListener,
    places: Arc<Semaphore>,
    what: &str,
    carry: impl Fn(TcpStream) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut open = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await?;
        while open.try_join_next().is_some() {}
        let (stream, peer) = listener.accept().await.context("cannot accept connections")?;
        let (carried, what) = (carry(stream), format!("{what} from {peer}"));
        open.spawn(async move {
            let _place = place;
            if let Err(error) = carried.await {
                note(exit::describe(&error.context(what)));
            }
        });
    }
}

async fn carry(stream: TcpStream, session: SessionApi, port: u16) -> anyhow::Result<()> {
    let Tunnel { from, to } = session.tunnel(port).await?;
    drop(stream.set_nodelay(true));
    let (read, write) = stream.into_split();
    tokio::try_join!(there(read, to), back(from, write)).map(drop)
}

async fn there(mut read: tokio::net::tcp::OwnedReadHalf, mut to: TunnelWriter) -> anyhow::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        // A program here that went away has no more to say.
        let n = read.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return Ok(to.end().await?);
        }
        to.send(buffer[..n].to_vec()).await?;
    }
}

async fn back(mut from: TunnelReader, mut write: tokio::net::tcp::OwnedWriteHalf) -> anyhow::Result<()> {
    while let Some(bytes) = from.next().await {
        if write.write_all(&bytes?).await.is_err() {
            return Ok(());
        }
    }
    drop(write.shutdown().await);
    Ok(())
}

#[cfg(test)]
mod tests;
