//! Guardrails against what looks like something else.
#![allow(clippy::unwrap_used)]

mod corpus;
mod matching;
mod parsing;
