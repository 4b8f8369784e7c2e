//! An answer on its way to the session: every piece as it comes, a copy to the meter, and the bill settled at its end,
//! whichever end that is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame};
use tokio_util::task::TaskTracker;
use wharf_domain::ModelRequestId;
use wharf_domain::model::{Price, Tokens};
use wharf_store::System;
use wharf_store::models::{ModelBill, ModelEnd};

use super::Slot;
use super::meter::{Meter, Reading};
use super::sending::Sending;
use super::sse::Splitter;
use crate::body::{Body, BoxError, stream as body_of};

/// Between two pieces. Providers send a ping several times in that time.
const SILENCE: Duration = Duration::from_secs(300);
/// How long the end of an answer waits until its bill is on the disk; after that the bill is still being written.
const PATIENCE: Duration = Duration::from_secs(3);
/// Tries to write a bill, the last about half a minute after the first.
const TRIES: u32 = 8;

/// The open bill of one request. Dropped without being settled, the session went away: then it settles by itself.
pub(super) struct Charge {
    pub system: System,
    pub tasks: TaskTracker,
    pub id: ModelRequestId,
    pub price: Option<Price>,
    pub guessed: u64,
    pub status: Option<u16>,
    pub attempts: u32,
    /// Under way, and nothing of an answer is here: dropped then, the provider works on it for nobody.
    pub sending: Arc<Sending>,
    /// None: there is no answer (yet), or the request is over and costs nothing.
    pub meter: Option<Meter>,
    pub settled: bool,
}

impl Charge {
    fn bill(&mut self, end: ModelEnd) -> ModelBill {
        // An answer that is an error costs nothing, however well it arrived.
        let refused = self.status.is_none_or(|s| s >= 400);
        let end = if end == ModelEnd::Done && refused { ModelEnd::Failed } else { end };
        let mut reading = self.meter.take().map(|mut m| m.reading(self.guessed));
        if self.sending.is_away() {
            // What it will say nobody will hear; what it had to read is known.
            let tokens = Tokens { input: self.guessed, ..Tokens::default() };
            reading = Some(Reading { tokens, estimated: true });
            self.attempts = self.sending.attempt();
        }
        let tokens = reading.map(|r| r.tokens).unwrap_or_default();
        ModelBill {
            end,
            status: self.status,
            attempts: self.attempts,
            tokens,
            cost_micro_usd: self.price.map_or(0, |p| p.of(tokens)),
            estimated: reading.is_some_and(|r| r.estimated),
        }
    }

    fn send(&mut self, end: ModelEnd) -> tokio::task::JoinHandle<()> {
        self.settled = true;
        let (system, id, bill) = (self.system.clone(), self.id, self.bill(end));
        self.tasks.spawn(async move { settle(&system, id, &bill).await })
    }

    /// Settles and waits until that is on the disk, but not for ever.
    pub async fn settle(mut self, end: ModelEnd) {
        let sent = self.send(end);
        let _ = tokio::time::timeout(PATIENCE, sent).await;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.settled {
            drop(self.send(ModelEnd::Left));
        }
    }
}

async fn settle(system: &System, id: ModelRequestId, bill: &ModelBill) {
    let mut pause = Duration::from_millis(100);
    for attempt in 1.. {
        match system.model_settle(id, bill).await {
            Ok(_) => return,
            Err(error) if attempt < TRIES => {
                tracing::warn!(%id, %error, "what a model request used could not be written; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(8));
            }
            Err(error) => {
                tracing::error!(%id, %error, tokens = ?bill.tokens, cost_micro_usd = bill.cost_micro_usd,
                    "what a model request used was not written; it will be charged with an estimate");
                return;
            }
        }
    }
}

pub(super) struct Flow {
    pub upstream: Body,
    /// Came before, to be looked at.
    pub first: Option<Bytes>,
    pub charge: Option<Charge>,
    /// The piece that says the usage was our wish and is not passed on.
    pub hides: bool,
    pub splitter: Splitter,
    pub ready: VecDeque<Bytes>,
    /// What the session is told when everything ready has gone.
    pub end: Option<Result<(), BoxError>>,
    /// Given back with the end.
    pub _slot: Slot,
}

impl Flow {
    pub fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut flow| async move {
            let next = flow.next().await?;
            Some((next.map(Frame::data), flow))
        });
        body_of(StreamBody::new(frames))
    }

    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(Ok(piece));
            }
            match self.end.take() {
                Some(Ok(())) => {
                    self.end = Some(Ok(()));
                    return None;
                }
                Some(Err(error)) => {
                    self.end = Some(Ok(()));
                    return Some(Err(error));
                }
                None => {}
            }
            if let Some(first) = self.first.take() {
                self.take(first).await;
                continue;
            }
            match tokio::time::timeout(SILENCE, self.upstream.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.take(data).await;
                    }
                }
                Ok(Some(Err(error))) => {
                    self.finish(ModelEnd::Cut).await;
                    self.end = Some(Err(format!("the provider's answer broke off: {error}").into()));
                }
                Ok(None) => self.over().await,
                Err(_) => {
                    self.finish(ModelEnd::Cut).await;
                    let text = format!("the provider said nothing for {} seconds", SILENCE.as_secs());
                    self.end = Some(Err(text.into()));
                }
            }
        }
    }

    /// Looks at a piece and lays it out for the session. The last one goes only when the bill is settled.
    async fn take(&mut self, data: Bytes) {
        let meter = self.charge.as_mut().and_then(|c| c.meter.as_mut());
        match meter {
            Some(meter) if meter.streams() => {
                for event in self.splitter.push(&data) {
                    let only_usage = meter.event(&event);
                    if self.hides && !only_usage {
                        self.ready.push_back(event);
                    }
                }
                if !self.hides {
                    self.ready.push_back(data);
                } else if self.splitter.lost() {
                    // An event of that size is none of ours.
                    self.ready.push_back(self.splitter.rest());
                    self.hides = false;
                }
            }
            Some(meter) => {
                meter.piece(&data);
                self.ready.push_back(data);
            }
            None => self.ready.push_back(data),
        }
        if self.upstream.is_end_stream() {
            self.over().await;
        }
    }

    /// The upstream has said its last.
    async fn over(&mut self) {
        let rest = self.splitter.rest();
        if !rest.is_empty() {
            if let Some(meter) = self.charge.as_mut().and_then(|c| c.meter.as_mut()) {
                meter.event(&rest);
            }
            if self.hides {
                self.ready.push_back(rest);
            }
        }
        let complete = self.charge.as_ref().and_then(|c| c.meter.as_ref()).is_none_or(Meter::complete);
        if complete {
            self.finish(ModelEnd::Done).await;
            self.end = Some(Ok(()));
        } else {
            self.finish(ModelEnd::Cut).await;
            self.end = Some(Err("the provider's answer broke off before its last event".into()));
        }
    }

    async fn finish(&mut self, end: ModelEnd) {
        if let Some(charge) = self.charge.take() {
            charge.settle(end).await;
        }
    }
}
