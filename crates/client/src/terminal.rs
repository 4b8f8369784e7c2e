//! A terminal of a session over WebSocket: keys and sizes there, output here.
//!
//! Does not reconnect by itself: what is on the screen belongs to the caller, who comes back with the terminal's id.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};
use wharf_wire::api::{TerminalInput, TerminalOutput};

use crate::call::Call;
use crate::error::{Error, Result, shown};

/// What terminal to open.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub cols: u16,
    pub rows: u16,
    /// Comes back to this terminal instead of opening one.
    pub id: Option<u64>,
    /// With `id`: the first byte of output wanted; all that is kept when not said.
    pub after: Option<u64>,
    /// `agent` when not said.
    pub user: Option<String>,
    /// A line for the shell instead of a login shell.
    pub command: Option<String>,
}

/// What a terminal says.
#[derive(Debug)]
pub enum TerminalEvent {
    /// Bytes for the screen.
    Output(bytes::Bytes),
    /// The first: the id to come back with.
    Attached(u64),
    /// Somebody else resized it.
    Resize { cols: u16, rows: u16 },
    /// The last: its program ended, with a code or by a signal.
    Exit { code: Option<i32>, signal: Option<i32> },
}

pub(crate) type Socket = WebSocketStream<reqwest::Upgraded>;

/// Makes a call a WebSocket.
pub(crate) async fn websocket(call: Call) -> Result<(url::Url, Socket)> {
    let address = call.url().clone();
    let key = generate_key();
    let answer = call
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", &key)
        .limit(None)
        .send()
        .await?;
    let accepted = answer.headers().get("sec-websocket-accept").and_then(|v| v.to_str().ok());
    if answer.status() != reqwest::StatusCode::SWITCHING_PROTOCOLS
        || accepted != Some(derive_accept_key(key.as_bytes()).as_str())
    {
        return Err(Error::Protocol { url: shown(&address), reason: "it did not open a WebSocket".into() });
    }
    let upgraded =
        answer.upgrade().await.map_err(|e| Error::Broken { url: shown(&address), reason: e.to_string() })?;
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    Ok((address, socket))
}

/// The reading half.
pub struct Terminal {
    address: url::Url,
    incoming: SplitStream<Socket>,
    keys: Option<Keys>,
}

/// The writing half.
pub struct Keys {
    address: url::Url,
    outgoing: SplitSink<Socket, Message>,
}

impl Terminal {
    pub(crate) async fn open(call: Call) -> Result<Self> {
        let (address, socket) = websocket(call).await?;
        let (outgoing, incoming) = socket.split();
        let keys = Some(Keys { address: address.clone(), outgoing });
        Ok(Self { address, incoming, keys })
    }

    /// The writing half, for another task. Once.
    pub fn keys(&mut self) -> Option<Keys> {
        self.keys.take()
    }

    /// What it says next; `None` when the connection was closed.
    pub async fn next(&mut self) -> Option<Result<TerminalEvent>> {
        loop {
            let message = match self.incoming.next().await? {
                Ok(m) => m,
                Err(e) => return Some(Err(broken(&self.address, &e))),
            };
            match message {
                Message::Binary(bytes) => return Some(Ok(TerminalEvent::Output(bytes))),
                Message::Text(text) => {
                    return Some(match serde_json::from_str::<TerminalOutput>(text.as_str()) {
                        Ok(TerminalOutput::Attached { id }) => Ok(TerminalEvent::Attached(id)),
                        Ok(TerminalOutput::Resize { cols, rows }) => Ok(TerminalEvent::Resize { cols, rows }),
                        Ok(TerminalOutput::Exit { exit_code: code, signal }) => {
                            Ok(TerminalEvent::Exit { code, signal })
                        }
                        Ok(TerminalOutput::Error { problem }) => {
                            Err(Error::Problem(Box::new((*problem).into())))
                        }
                        Err(e) => Err(Error::Protocol { url: shown(&self.address), reason: e.to_string() }),
                    });
                }
                Message::Close(_) => return None,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

impl Keys {
    pub async fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.put(Message::Binary(bytes.into())).await
    }

    pub async fn resize(&mut self, cols: u16, rows: u16) -> Result<()> {
        let text = serde_json::to_string(&TerminalInput::Resize { cols, rows })
            .map_err(|e| Error::Invalid(e.to_string()))?;
        self.put(Message::Text(text.into())).await
    }

    /// Leaves; the terminal goes on.
    pub async fn close(&mut self) -> Result<()> {
        self.put(Message::Close(None)).await
    }

    async fn put(&mut self, message: Message) -> Result<()> {
        self.outgoing.send(message).await.map_err(|e| broken(&self.address, &e))
    }
}

pub(crate) fn broken(address: &url::Url, error: &tokio_tungstenite::tungstenite::Error) -> Error {
    Error::Broken { url: shown(address), reason: error.to_string() }
}
