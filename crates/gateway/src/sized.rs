//! Bodies whose length nobody said, measured as they pass: what a rule forbids beyond a size is cut when it gets there.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use wharf_domain::Name;
use wharf_domain::egress::Target;
use wharf_domain::guard::Action;
use wharf_guard::Ruling;

use crate::body::BoxError;
use crate::door::Call;
use crate::guards::{Leaving, Live};
use crate::line::Line;
use crate::problem::Refusal;

/// The sizes at which a request is judged again.
pub(crate) struct Sizes {
    call: Call,
    live: Live,
    target: Target,
    leaving: Leaving,
    /// The rule that somebody said yes to.
    yes: Option<Ruling>,
    /// Descending.
    over: Vec<u64>,
    rules: HashSet<(Name, usize)>,
}

impl Sizes {
    /// None where no rule waits for a size.
    pub fn new(
        call: &Call,
        live: Live,
        target: &Target,
        leaving: &Leaving,
        yes: Option<Ruling>,
    ) -> Option<Self> {
        let sized =
            live.as_ref().as_ref().ok()?.sized(&leaving.ask(&call.session, target, &leaving.text(target)));
        if sized.is_empty() {
            return None;
        }
        let mut over: Vec<u64> = sized.iter().map(|s| s.over_bytes).collect();
        over.sort_unstable_by(|a, b| b.cmp(a));
        let rules = sized.into_iter().map(|s| (s.policy, s.rule)).collect();
        let (call, target, leaving) = (call.clone(), target.clone(), leaving.clone());
        Some(Self { call, live, target, leaving, yes, over, rules })
    }

    /// More has come: why no more may.
    fn came(&mut self, bytes: usize) -> Option<Refusal> {
        let bytes = bytes as u64;
        let now = self.leaving.so_far.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut passed = false;
        while self.over.last().is_some_and(|most| now > *most) {
            self.over.pop();
            passed = true;
        }
        if !passed {
            return None;
        }
        let (gateway, session) = (&self.call.gateway, &self.call.session);
        let time = gateway.system.store().now();
        let text = self.leaving.text(&self.target);
        let ask = self.leaving.ask(session, &self.target, &text);
        let judged = self.live.as_ref().as_ref().ok()?.judge(ask, &mut |policy, rule, rate| {
            // What waited for the size is counted now; the rest was, when it began.
            let counts = self.rules.contains(&(policy.clone(), rule));
            gateway.guards.rates.over(session.session, (policy, rule), rate, time, counts)
        });
        let ruling = judged.ruling.filter(|r| self.yes.as_ref() != Some(r))?;
        let mut words = ruling.words();
        if ruling.action == Action::Approve {
            words = format!(
                "{words}: it needs somebody's yes and had begun without its length; send it with Content-Length"
            );
        }
        let (gateway, session) = (gateway.clone(), session.clone());
        self.call.gateway.tasks.spawn(async move {
            if let Err(error) = gateway.guards.note(&session, "deny", &ruling, &text).await {
                tracing::warn!(%error, "that a request was cut could not be written into the audit log");
            }
        });
        Some(Refusal::denied("guardrail", words))
    }
}

/// A body that is cut where a rule says so.
pub(crate) struct Measured<B> {
    inner: B,
    sizes: Sizes,
    line: Arc<Line>,
    /// Why it was cut.
    why: Arc<OnceLock<Refusal>>,
}

impl<B> Measured<B> {
    pub fn new(inner: B, sizes: Sizes, line: Arc<Line>) -> Self {
        Self { inner, sizes, line, why: Arc::default() }
    }

    pub fn why(&self) -> Arc<OnceLock<Refusal>> {
        self.why.clone()
    }
}

impl<B> hyper::body::Body for Measured<B>
where
    B: hyper::body::Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Some(refusal) = self.sizes.came(data.len())
        {
            self.line.refused(&refusal);
            let _ = self.why.set(refusal.clone());
            return Poll::Ready(Some(Err(Box::new(refusal))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
