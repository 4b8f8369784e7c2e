//! Models: what goes to a provider, what comes back, what is counted.

mod budgets;
mod guarded;
mod lab;
mod peer;
mod retries;
mod scripted;
mod sdks;
mod streams;
