//! A connection to a port inside a session, or to its desktop, as bytes over a WebSocket.
//!
//! Each way to a port ends by itself, as with TCP: the text frame `end` says so. A desktop's both ways end together.

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::call::Call;
use crate::error::Result;
use crate::terminal::{Socket, broken, websocket};

const END: Utf8Bytes = Utf8Bytes::from_static("end");

/// Both ways of a connection, for two tasks.
pub struct Tunnel {
    pub from: TunnelReader,
    pub to: TunnelWriter,
}

pub struct TunnelReader {
    address: url::Url,
    incoming: SplitStream<Socket>,
}

pub struct TunnelWriter {
    address: url::Url,
    outgoing: SplitSink<Socket, Message>,
}

impl Tunnel {
    pub(crate) async fn open(call: Call) -> Result<Self> {
        let (address, socket) = websocket(call).await?;
        let (outgoing, incoming) = socket.split();
        Ok(Self {
            from: TunnelReader { address: address.clone(), incoming },
            to: TunnelWriter { address, outgoing },
        })
    }
}

impl TunnelReader {
    /// What the program says next; `None` when it has said all.
    pub async fn next(&mut self) -> Option<Result<bytes::Bytes>> {
        loop {
            match self.incoming.next().await? {
                Ok(Message::Binary(bytes)) => return Some(Ok(bytes)),
                Ok(Message::Text(text)) if text == END => return None,
                Ok(Message::Close(_)) => return None,
                Ok(_) => {}
                Err(e) => return Some(Err(broken(&self.address, &e))),
            }
        }
    }
}

impl TunnelWriter {
    pub async fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.put(Message::Binary(bytes.into())).await
    }

    /// No more will be sent; what the program says still comes.
    pub async fn end(&mut self) -> Result<()> {
        self.put(Message::Text(END)).await
    }

    /// Ends both ways. What the other side still says is not heard.
    pub async fn close(&mut self) -> Result<()> {
        self.put(Message::Close(None)).await
    }

    async fn put(&mut self, message: Message) -> Result<()> {
        self.outgoing.send(message).await.map_err(|e| broken(&self.address, &e))
    }
}
