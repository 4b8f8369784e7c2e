//! How long a program in a session is waited for: from the last byte of the request it took, however long that took to send.
//!
//! Whoever is to act next has the clock: the caller, while more of the body is wanted and does not come; the program
//! otherwise, be it that it does not take what is there or that it has all and says nothing.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

/// Who is to act next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Program,
    Caller,
}

#[derive(Clone, Copy)]
struct Turn {
    of: Side,
    since: Instant,
}

impl Turn {
    fn of(of: Side) -> Self {
        Self { of, since: Instant::now() }
    }
}

/// A request's body on its way in, which tells whose turn it is.
pub(super) struct Sent<B> {
    inner: B,
    turn: watch::Sender<Turn>,
}

/// The clock that a [`Sent`] moves.
pub(super) struct Patience {
    turn: watch::Receiver<Turn>,
    program: Duration,
    caller: Duration,
}

/// The body, and the clock that begins now with the program.
pub(super) fn watched<B>(inner: B, program: Duration, caller: Duration) -> (Sent<B>, Patience) {
    let (turn, seen) = watch::channel(Turn::of(Side::Program));
    (Sent { inner, turn }, Patience { turn: seen, program, caller })
}

impl Patience {
    /// Returns who has let the other wait for too long.
    pub(super) async fn over(mut self) -> Side {
        loop {
            let turn = *self.turn.borrow_and_update();
            let most = if turn.of == Side::Program { self.program } else { self.caller };
            tokio::select! {
                () = tokio::time::sleep_until(turn.since + most) => return turn.of,
                changed = self.turn.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
            }
        }
        // Nobody sends any more: all of it is there, or the program wants no more.
        let last = *self.turn.borrow();
        let since = if last.of == Side::Program { last.since } else { Instant::now() };
        tokio::time::sleep_until(since + self.program).await;
        Side::Program
    }
}

impl<B> Sent<B> {
    fn tell(&self, of: Side) {
        self.turn.send_if_modified(|turn| {
            // A caller's clock runs on while it is asked again and again.
            if of == Side::Caller && turn.of == Side::Caller {
                return false;
            }
            *turn = Turn::of(of);
            true
        });
    }
}

impl<B: Body + Unpin> Body for Sent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        self.tell(if polled.is_ready() { Side::Program } else { Side::Caller });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
