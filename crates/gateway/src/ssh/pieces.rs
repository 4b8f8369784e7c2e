//! Pieces of one command, both ways: git's own bytes on their way out; what comes back, its errors and how it ended on their way in.
//!
//! The end of one way is carried on and the other goes on. What the session tears is torn at the server too.

use std::io;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use wharf_wire::ssh::{HEAD, Kind, PIECE};

use super::login::Login;
use crate::meter::Meter;

/// What ssh ends with when no end of the command came.
const NO_END: u32 = 255;
/// RFC 4254, 5.2: data that is standard error.
const STDERR: u32 = 1;

/// Until the command has ended, or either side is gone.
pub(super) async fn carry(client: Upgraded, mut login: Login, meter: &Meter) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(TokioIo::new(client));
    let target = login.target.to_string();
    let done = tokio::select! {
        done = inwards(&mut login.read, &mut to, meter, &target) => done,
        torn = outwards(&mut from, &login.write, meter) => Err(torn),
    };
    if done.is_ok() {
        login.leave().await;
    }
    done
}

async fn pause(meter: &Meter, n: usize) {
    let wait = meter.bytes(n);
    if wait > Duration::ZERO {
        tokio::time::sleep(wait).await;
    }
}

/// Never ends but with an error: a client that is gone ends it all.
async fn outwards(
    from: &mut (impl AsyncRead + Unpin),
    write: &ChannelWriteHalf<Msg>,
    meter: &Meter,
) -> io::Error {
    match send(from, write, meter).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn send(
    from: &mut (impl AsyncRead + Unpin),
    write: &ChannelWriteHalf<Msg>,
    meter: &Meter,
) -> io::Result<std::convert::Infallible> {
    let mut ended = false;
    loop {
        let mut head = [0; HEAD];
        from.read_exact(&mut head).await?;
        match Kind::of(head) {
            Some((Kind::Data, length)) if !ended => {
                let mut piece = vec![0; length];
                from.read_exact(&mut piece).await?;
                write.data_bytes(piece).await.map_err(io::Error::other)?;
                pause(meter, length).await;
            }
            Some((Kind::End, _)) if !ended => {
                ended = true;
                write.eof().await.map_err(io::Error::other)?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

async fn inwards(
    read: &mut ChannelReadHalf,
    to: &mut (impl AsyncWrite + Unpin),
    meter: &Meter,
    target: &str,
) -> io::Result<()> {
    let mut code = None;
    let mut said = None;
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                put(to, Kind::Data, &data).await?;
                pause(meter, data.len()).await;
            }
            ChannelMsg::ExtendedData { data, ext: STDERR } => {
                put(to, Kind::Errors, &data).await?;
                pause(meter, data.len()).await;
            }
            ChannelMsg::Eof => put(to, Kind::End, &[]).await?,
            ChannelMsg::ExitStatus { exit_status } => code = Some(exit_status),
            ChannelMsg::ExitSignal { signal_name, .. } => {
                said = Some(format!("wharf: git at {target} was ended by signal {signal_name:?}\n"));
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    if code.is_none() {
        let said = said.unwrap_or_else(|| format!("wharf: the connection to {target} was broken off\n"));
        put(to, Kind::Errors, said.as_bytes()).await?;
    }
    put(to, Kind::Exit, &code.unwrap_or(NO_END).to_be_bytes()).await?;
    to.shutdown().await
}

async fn put(to: &mut (impl AsyncWrite + Unpin), kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    loop {
        let (piece, behind) = rest.split_at(rest.len().min(PIECE));
        to.write_all(&kind.head(piece.len())).await?;
        to.write_all(piece).await?;
        rest = behind;
        if rest.is_empty() {
            return to.flush().await;
        }
    }
}
