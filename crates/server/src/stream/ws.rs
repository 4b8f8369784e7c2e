//! The same streams over WebSocket: each text frame is `{"id", "event", "data"}`. The first, `position`, says where a
//! reader resumes who is cut off before anything happens.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::stream::StreamExt as _;
use serde::Serialize;
use serde_json::value::RawValue;
use wharf_domain::limits;

use super::{Record, Records, broken};
use crate::app::App;
use crate::context::RequestContext;
use crate::metrics::Carrier;

/// What a reader may send: nothing but control frames.
const INCOMING_BYTES: usize = 4096;

#[derive(Serialize)]
struct Frame<'r> {
    id: Option<&'r str>,
    event: &'r str,
    data: &'r RawValue,
}

fn frame(record: &Record) -> Option<Message> {
    let (event, data) = match record.event.as_str() {
        "" => ("position", "null"),
        event => (event, record.data.as_str()),
    };
    let data = serde_json::from_str(data).ok()?;
    let text = serde_json::to_string(&Frame { id: record.id.as_deref(), event, data }).ok()?;
    Some(Message::Text(text.into()))
}

pub(super) fn answer(
    app: &App,
    context: RequestContext,
    upgrade: WebSocketUpgrade,
    records: Records,
) -> Response {
    let guard = app.metrics.stream_begins(Carrier::WebSocket);
    upgrade.max_message_size(INCOMING_BYTES).on_upgrade(move |socket| async move {
        let _open = guard;
        // The reader being gone is the ordinary end of a stream.
        let _ = serve(socket, context, records).await;
    })
}

async fn serve(
    mut socket: WebSocket,
    context: RequestContext,
    mut records: Records,
) -> Result<(), axum::Error> {
    let mut alive = tokio::time::interval(Duration::from_secs(limits::SSE_KEEPALIVE_SECONDS));
    alive.reset();
    let code = loop {
        tokio::select! {
            record = records.next() => match record {
                Some(Ok(record)) => {
                    alive.reset();
                    if let Some(message) = frame(&record) {
                        socket.send(message).await?;
                    }
                }
                Some(Err(error)) => {
                    if let Some(message) = frame(&broken(&error, context)) {
                        socket.send(message).await?;
                    }
                    break close_code::ERROR;
                }
                None => break close_code::AWAY,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            },
            _ = alive.tick() => socket.send(Message::Ping(bytes::Bytes::new())).await?,
        }
    };
    socket.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await
}
