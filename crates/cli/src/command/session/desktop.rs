//! `wharf session desktop`: the screen of a session at an address of this machine, for any VNC viewer.
//!
//! Each viewer that connects is a desktop connection of its own, with this login; what reaches the address needs no other, so
//! it is loopback unless somebody says otherwise.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use wharf_client::{SessionApi, Tunnel};

use super::forward;
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::note;

/// Viewers at a time.
const VIEWERS: usize = 16;
/// Bytes of a frame: what viewers say is short, but for a clipboard.
const PIECE: usize = 16 * 1024;

/// Bring the desktop of a session to a VNC viewer on this machine
///
/// Listens here and carries every viewer that connects to the session's screen, until interrupted (Ctrl-C). Viewers need no
/// password. The session's image must have a desktop (image desktop has); a closed session is restored with the first viewer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session desktop demo                           then: vncviewer 127.0.0.1:5900
  wharf session desktop demo --view-only               look, and touch nothing
  wharf session desktop demo --listen 127.0.0.1:0      any free port; which one is said")]
pub struct Desktop {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Address to listen on here; whoever reaches it uses the desktop without a password
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5900")]
    listen: SocketAddr,
    /// Keys, pointer and clipboard of viewers are passed over
    #[arg(long)]
    view_only: bool,
}

impl Desktop {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let session = ctx.session(&self.session)?;
        // Whether it is there, and whether one is logged in, is said before anything listens.
        session.get().await?;
        let listener = TcpListener::bind(self.listen).await.map_err(|e| {
            Refusal::usage(
                format!("cannot listen on {}: {e}", self.listen),
                format!(
                    "choose another address: wharf session desktop {} --listen 127.0.0.1:0",
                    self.session
                ),
            )
        })?;
        let here = listener.local_addr().context("the address listened on")?;
        let what = if self.view_only { "to look at" } else { "to use" };
        note(format!("{here} here is the desktop of {}, {what} with a VNC viewer", self.session));
        if !here.ip().is_loopback() {
            note(format!("there is no password: whoever reaches {here} has the desktop as you have it"));
        }
        let places = Arc::new(Semaphore::new(VIEWERS));
        let carry = |stream| carry(stream, session.clone(), self.view_only);
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Ok(()),
            ended = forward::serve(listener, places, "viewer", carry) => ended,
        }
    }
}

/// Until one of both has had enough.
async fn carry(stream: TcpStream, session: SessionApi, view_only: bool) -> anyhow::Result<()> {
    let Tunnel { mut from, mut to } = session.desktop(view_only).await?;
    drop(stream.set_nodelay(true));
    let (mut read, mut write) = stream.into_split();
    let there = async {
        let mut buffer = vec![0; PIECE];
        loop {
            // A viewer that went away has no more to say.
            let n = read.read(&mut buffer).await.unwrap_or(0);
            if n == 0 {
                return anyhow::Ok(());
            }
            to.send(buffer[..n].to_vec()).await?;
        }
    };
    let back = async {
        while let Some(bytes) = from.next().await {
            if write.write_all(&bytes?).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let ended = tokio::select! {
        ended = there => ended,
        ended = back => ended,
    };
    // It may be gone already.
    drop(to.close().await);
    ended
}
