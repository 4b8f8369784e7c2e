//! Makes room in the middle of a turn: the model is asked for the memory of what was before. What that costs is the turn's, as
//! every call is.

use serde_json::json;
use wharf_wire::host::turn::Reason;

use super::{Run, Trouble};
use crate::block::{Block, Message, Part};
use crate::compact;
use crate::journal::Entry;
use crate::model::{self, Failure, Request, Thinking, retry};

/// Tokens of a summary.
const SUMMARY_TOKENS: u32 = 8192;

impl Run<'_> {
    /// Puts the older part of the conversation into few words. False: there is nothing to be gained.
    pub(super) async fn compact(&mut self) -> Result<bool, Trouble> {
        let context = self.context();
        let entries = &self.agent.journal.entries;
        let Some(upto) = compact::cut(entries, context) else { return Ok(false) };
        let pieces = compact::pieces(entries, upto, context);
        let in_hand = compact::in_hand(entries, upto);
        self.talk.event("compacting", json!({"pieces": pieces.len()}));
        let mut memory = String::new();
        for piece in pieces {
            let text = if memory.is_empty() {
                piece
            } else {
                format!("The memory of what was before:\n\n{memory}\n\nWhat came then:\n\n{piece}")
            };
            memory = self.summarise(text).await?;
        }
        if let Some(in_hand) = in_hand {
            memory = format!("{memory}\n\n{in_hand}");
        }
        self.agent.journal.append(Entry::Summary { upto, text: memory })?;
        self.agent.journal.forget_summarised()?;
        Ok(true)
    }

    async fn summarise(&mut self, text: String) -> Result<String, Trouble> {
        self.check_tokens()?;
        let config = &self.agent.config;
        let messages = [Message::User { results: Vec::new(), content: vec![Part::text(text)] }];
        let request = Request {
            protocol: config.protocol(),
            provider: &config.provider,
            model: &config.model,
            system: compact::SYSTEM,
            messages: &messages,
            tools: &[],
            max_tokens: SUMMARY_TOKENS.min(self.max_tokens()),
            thinking_tokens: None,
            effort: None,
            key: &self.agent.key,
            images: &self.agent.place.images,
            generation: self.agent.generation,
            thinking: Thinking::Unsaid,
        };
        let call = model::call(&request);
        let mut silent = Silent;
        let answer = tokio::select! {
            biased;
            () = self.cancel.wait() => return Err(Trouble::Cancelled),
            answer = retry::ask(&self.agent.place.gateway, config.protocol(), &call, &mut silent) => answer,
        };
        let answer = answer.map_err(|f| match f {
            Failure::Passing { why, .. }
            | Failure::Full(why)
            | Failure::Tools(why)
            | Failure::Thinking(why)
            | Failure::Final(why) => {
                Trouble::Failed(Reason::Model, format!("the conversation could not be summarised: {why}"))
            }
        })?;
        self.spent(&answer)?;
        let said: Vec<&str> = answer
            .blocks
            .iter()
            .filter_map(|b| match b {
                Block::Text { text } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        let said = said.join("\n");
        if said.trim().is_empty() {
            let detail = "the conversation could not be summarised: the model said nothing";
            return Err(Trouble::Failed(Reason::Model, detail.into()));
        }
        Ok(said)
    }
}

/// A summary is nobody's business while it is made.
struct Silent;

impl retry::Listener for Silent {
    fn said(&mut self, _: &[model::Delta]) {}
    fn again(&mut self, _: u32, _: &str, _: std::time::Duration) {}
}
