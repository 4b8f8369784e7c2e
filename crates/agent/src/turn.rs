//! One turn: the model is asked, its tools are run, until it has said its last word or the turn has to end.
//!
//! What is next follows from the journal ([`history::position`]), never from memory: a turn that begins and one that goes on after
//! a crash are the same loop.

mod room;

use serde_json::json;
use wharf_domain::TurnId;
use wharf_wire::host::agent::FromAgent;
use wharf_wire::host::computer_use::{CONTEXT_TOKENS, ComputerUse, MAX_ROUNDS, MAX_TOKENS};
use wharf_wire::host::turn::{Reason, Usage};

use crate::block::{Block, Tokens, ToolResult, ToolUse};
use crate::cancel::Cancel;
use crate::compact;
use crate::guard::Verdict;
use crate::history::{self, Position};
use crate::journal::{End, Entry, Journal};
use crate::model::retry::{self, Listener as _};
use crate::model::traits::{self, Generation};
use crate::model::{self, Answer, Failure, Request, Stop, Thinking};
use crate::prompt::{self, Setting};
use crate::talk::Talk;
use crate::tools::{self, Place, Tools};

/// How often one turn goes on after its process died: what kills it that often will do so again.
const RESUMES: usize = 5;
/// Answers in a row that were cut before they did anything.
const CUTS: usize = 3;
/// Times room is made for one answer.
const COMPACTIONS: u32 = 2;

const CONTINUE: &str =
    "[Your answer was cut at its greatest length. Go on where it ended; do things in smaller steps.]";
const SKIPPED: &str = "Not executed: an earlier computer action in this turn failed.";

/// What lives from turn to turn.
pub struct Agent {
    pub config: ComputerUse,
    pub setting: Setting,
    pub place: Place,
    pub journal: Journal,
    pub tools: Option<Tools>,
    /// Ties calls of this conversation together for caches.
    pub key: String,
    pub generation: Generation,
    pub thinking: Thinking,
}

impl Agent {
    pub fn generation_of(config: &ComputerUse) -> Generation {
        traits::claude(&config.model).map_or(Generation::Described, |c| c.generation)
    }
}

/// Why a turn ends before its last word.
#[derive(Debug)]
enum Trouble {
    Cancelled,
    Failed(Reason, String),
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Self {
        Self::Failed(Reason::Internal, format!("the conversation cannot be kept: {e}"))
    }
}

/// A turn that is being answered.
pub struct Run<'a> {
    pub agent: &'a mut Agent,
    pub turn: TurnId,
    pub talk: Talk,
    pub cancel: &'a Cancel,
}

impl Run<'_> {
    /// Entries of this turn, its message first.
    pub(crate) fn entries(&self) -> &[(u64, Entry)] {
        let all = &self.agent.journal.entries;
        let at = all.iter().rposition(|(_, e)| matches!(e, Entry::Turn { turn, .. } if *turn == self.turn));
        &all[at.unwrap_or(all.len())..]
    }

    /// Keeps an entry, then tells of it.
    pub(crate) fn keep(&mut self, entry: Entry) -> Result<(), std::io::Error> {
        self.agent.journal.append(entry.clone())?;
        let all = &self.agent.journal.entries;
        let at = all.iter().rposition(|(_, e)| matches!(e, Entry::Turn { turn, .. } if *turn == self.turn));
        let mine = &all[at.unwrap_or(all.len())..];
        self.talk.entry(&entry, &mine[..mine.len().saturating_sub(1)], &self.agent.place.images);
        Ok(())
    }

    /// Says again what of this turn was not heard.
    fn recall(&mut self) {
        let mine = self.entries().to_vec();
        for (at, (_, entry)) in mine.iter().enumerate() {
            self.talk.entry(entry, &mine[..at], &self.agent.place.images);
        }
    }

    fn tokens(&self) -> Tokens {
        let mut all = Tokens::default();
        for (_, entry) in self.entries() {
            if let Entry::Answer { tokens, .. } | Entry::Spent { tokens } = entry {
                all.add(*tokens);
            }
        }
        all
    }

    /// Answers the message, or goes on with it. The last line of the turn.
    pub async fn answer(&mut self) -> FromAgent {
        self.recall();
        let ended = self.entries().iter().rev().find_map(|(_, e)| match e {
            Entry::Ended(end) => Some(end.clone()),
            _ => None,
        });
        let end = match ended {
            // Its process died between the end and the word of it.
            Some(end) => end,
            None => {
                let end = match self.go().await {
                    Ok(()) => End::Done,
                    Err(Trouble::Cancelled) => End::Cancelled,
                    Err(Trouble::Failed(reason, detail)) => End::Failed { reason, detail },
                };
                match self.agent.journal.append(Entry::Ended(end.clone())) {
                    Ok(_) => end,
                    Err(e) => {
                        let detail = format!("the end of the turn cannot be kept: {e}");
                        End::Failed { reason: Reason::Internal, detail }
                    }
                }
            }
        };
        self.talk.flush();
        let tokens = self.tokens();
        let usage = Some(Usage {
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            cached_tokens: tokens.cached,
            model: Some(self.agent.config.model.clone()),
            cost_usd: None,
        });
        match end {
            End::Done => FromAgent::Done { usage, is_error: false },
            End::Cancelled => FromAgent::Error {
                detail: "the turn was cancelled".into(),
                usage,
                reason: Some(Reason::Cancelled),
            },
            End::Failed { reason, detail } => FromAgent::Error { detail, usage, reason: Some(reason) },
        }
    }

    async fn go(&mut self) -> Result<(), Trouble> {
        let resumes = self.entries().iter().filter(|(_, e)| matches!(e, Entry::Resumed)).count();
        if resumes > RESUMES {
            let detail = format!("the turn was interrupted {resumes} times and is given up");
            return Err(Trouble::Failed(Reason::Interrupted, detail));
        }
        self.make_ready().await?;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Trouble::Cancelled);
            }
            match history::position(self.entries()) {
                Position::Over => return Ok(()),
                Position::Run(open) => self.run_tools(open).await?,
                Position::Ask => self.ask().await?,
            }
        }
    }

    async fn make_ready(&mut self) -> Result<(), Trouble> {
        if let Some(tools) = &mut self.agent.tools {
            tools.refresh().await;
            return Ok(());
        }
        let start = Tools::start(self.agent.place.clone(), &self.agent.config);
        let tools = tokio::select! {
            biased;
            () = self.cancel.wait() => return Err(Trouble::Cancelled),
            tools = start => tools.map_err(|why| Trouble::Failed(Reason::AgentStart, why))?,
        };
        self.agent.tools = Some(tools);
        Ok(())
    }

    /// Servers of tools may have said that theirs have changed, or been asked for something that changes them.
    async fn hear_of_tools(&mut self) -> Result<(), Trouble> {
        let Some(tools) = &mut self.agent.tools else { return Ok(()) };
        tokio::select! {
            biased;
            () = self.cancel.wait() => Err(Trouble::Cancelled),
            () = tools.hear() => Ok(()),
        }
    }

    async fn run_tools(&mut self, open: Vec<(ToolUse, bool)>) -> Result<(), Trouble> {
        let mut screen_failed = false;
        for (at, (used, had_started)) in open.iter().enumerate() {
            let id = &used.id;
            let refused = if *had_started {
                Some(history::INTERRUPTED.to_owned())
            } else if let Some(broken) = &used.broken {
                let begin: String = broken.chars().take(200).collect();
                Some(format!("The input is no JSON object, so nothing was done. It began: {begin}"))
            } else if self.cancel.is_cancelled() {
                Some("Not run: the user ended the turn.".to_owned())
            } else if screen_failed && used.name == tools::computer::NAME {
                Some(SKIPPED.to_owned())
            } else {
                None
            };
            if let Some(why) = refused {
                self.keep(Entry::Finished(ToolResult::error(id, why)))?;
                continue;
            }
            let mut used = used.clone();
            match self.judge(&used).await? {
                Verdict::Run(None) => {}
                Verdict::Run(Some(input)) => used.input = input,
                Verdict::Refused(why) => {
                    self.keep(Entry::Finished(ToolResult::error(id, format!("Not run: {why}."))))?;
                    screen_failed |= used.name == tools::computer::NAME;
                    continue;
                }
                Verdict::Cancelled => {
                    let why = "Not run: the user ended the turn.";
                    self.keep(Entry::Finished(ToolResult::error(id, why)))?;
                    continue;
                }
            }
            let used = &used;
            self.keep(Entry::Started { id: id.clone() })?;
            let more = open[at + 1..].iter().any(|(u, _)| u.name == used.name);
            let outcome = match &mut self.agent.tools {
                Some(tools) => tools.run(used, more, self.cancel).await,
                None => tools::Outcome::error("There are no tools."),
            };
            screen_failed |= outcome.is_error && used.name == tools::computer::NAME;
            if let Some(path) = outcome.share {
                self.keep(Entry::Shared { path })?;
            }
            let result = ToolResult { id: id.clone(), content: outcome.content, is_error: outcome.is_error };
            self.keep(Entry::Finished(result))?;
        }
        Ok(())
    }

    fn check_budget(&self) -> Result<(), Trouble> {
        let over = |detail: String| Err(Trouble::Failed(Reason::Budget, detail));
        let rounds = self.entries().iter().filter(|(_, e)| matches!(e, Entry::Answer { .. })).count();
        let limit = self.agent.config.max_rounds.unwrap_or(MAX_ROUNDS);
        if rounds >= limit as usize {
            return over(format!("the turn reached its limit of {limit} calls of the model"));
        }
        let cuts = self
            .entries()
            .iter()
            .rev()
            .take_while(|(_, e)| !matches!(e, Entry::Answer { cut: false, .. } | Entry::Finished(_)))
            .filter(|(_, e)| matches!(e, Entry::Answer { cut: true, .. }))
            .count();
        if cuts > CUTS {
            let limit = self.max_tokens();
            return over(format!("{cuts} answers in a row were cut at max_tokens, which is {limit}"));
        }
        Ok(())
    }

    /// Before each call of the model, whatever it is for.
    fn check_tokens(&self) -> Result<(), Trouble> {
        let tokens = self.tokens();
        let used = tokens.input + tokens.output;
        match self.agent.config.token_budget {
            Some(budget) if used >= budget => {
                let detail = format!("the turn used {used} tokens; its budget is {budget}");
                Err(Trouble::Failed(Reason::Budget, detail))
            }
            _ => Ok(()),
        }
    }

    fn max_tokens(&self) -> u32 {
        self.agent.config.max_tokens.unwrap_or(MAX_TOKENS)
    }

    fn context(&self) -> u32 {
        self.agent.config.context_tokens.unwrap_or(CONTEXT_TOKENS)
    }

    /// Asks the model until it has answered, and keeps the answer.
    async fn ask(&mut self) -> Result<(), Trouble> {
        self.check_budget()?;
        self.hear_of_tools().await?;
        let mut compactions = 0;
        loop {
            self.check_tokens()?;
            let messages = history::messages(&self.agent.journal.entries);
            let used = compact::in_use(&self.agent.journal.entries, &messages);
            if compactions == 0 && compact::is_full(self.context(), self.max_tokens(), used) {
                compactions += 1;
                if self.compact().await? {
                    continue;
                }
            }
            match self.ask_once(&messages).await {
                Ok(answer) if answer.stop == Stop::Full => {
                    self.spent(&answer)?;
                    compactions += 1;
                    if compactions > COMPACTIONS || !self.compact().await? {
                        return Err(Trouble::Failed(Reason::Model, "the model's context is full".into()));
                    }
                }
                Ok(answer) => return self.answered(answer),
                Err(Asked::Cancelled) => {
                    let text = std::mem::take(&mut self.talk.partial);
                    if !text.trim().is_empty() {
                        let blocks = vec![Block::Text { text }];
                        self.keep(Entry::Answer {
                            blocks,
                            tokens: Tokens::default(),
                            cut: false,
                            paused: false,
                        })?;
                    }
                    return Err(Trouble::Cancelled);
                }
                Err(Asked::Failed(Failure::Full(why))) => {
                    compactions += 1;
                    if compactions > COMPACTIONS || !self.compact().await? {
                        return Err(Trouble::Failed(Reason::Model, why));
                    }
                }
                Err(Asked::Failed(failure)) => self.step_back(failure)?,
            }
        }
    }

    /// Asks for less of what a provider refused. Each step is made once in the life of this process.
    fn step_back(&mut self, failure: Failure) -> Result<(), Trouble> {
        let (to, why) = match failure {
            Failure::Tools(why) => match self.agent.generation.below() {
                Some(below) => {
                    self.agent.generation = below;
                    (format!("tools {below:?}"), why)
                }
                None => return Err(Trouble::Failed(Reason::Model, why)),
            },
            Failure::Thinking(why) => {
                self.agent.thinking = match self.agent.thinking {
                    Thinking::Kept => Thinking::Forgotten,
                    Thinking::Forgotten => Thinking::Unsaid,
                    Thinking::Unsaid => return Err(Trouble::Failed(Reason::Model, why)),
                };
                (format!("thinking {:?}", self.agent.thinking), why)
            }
            Failure::Passing { why, .. } | Failure::Full(why) | Failure::Final(why) => {
                return Err(Trouble::Failed(Reason::Model, why));
            }
        };
        self.talk.event("model_step_back", json!({"to": to, "because": why}));
        Ok(())
    }

    async fn ask_once(&mut self, messages: &[crate::block::Message]) -> Result<Answer, Asked> {
        let has_computer = self.agent.tools.as_ref().is_some_and(Tools::has_computer);
        let system = prompt::system(&self.agent.setting, has_computer);
        let tools = self.agent.tools.as_ref().map(Tools::definitions).unwrap_or_default();
        let config = &self.agent.config;
        let request = Request {
            protocol: config.protocol(),
            provider: &config.provider,
            model: &config.model,
            system: &system,
            messages,
            tools: &tools,
            max_tokens: config.max_tokens.unwrap_or(MAX_TOKENS),
            thinking_tokens: config.thinking_tokens,
            effort: config.effort,
            key: &self.agent.key,
            images: &self.agent.place.images,
            generation: self.agent.generation,
            thinking: self.agent.thinking,
        };
        let call = model::call(&request);
        self.talk.partial.clear();
        tokio::select! {
            biased;
            () = self.cancel.wait() => Err(Asked::Cancelled),
            answer = retry::ask(&self.agent.place.gateway, config.protocol(), &call, &mut self.talk) => {
                answer.map_err(Asked::Failed)
            }
        }
    }

    fn tell_usage(&self, answer: &Answer) {
        let Answer { tokens, model, .. } = answer;
        self.talk.event(
            "usage",
            json!({"input_tokens": tokens.input, "output_tokens": tokens.output, "cached_tokens": tokens.cached,
                "model": model.as_deref().unwrap_or(&self.agent.config.model)}),
        );
    }

    /// Keeps what an answer cost that is not kept itself.
    fn spent(&mut self, answer: &Answer) -> Result<(), Trouble> {
        self.tell_usage(answer);
        self.agent.journal.append(Entry::Spent { tokens: answer.tokens })?;
        Ok(())
    }

    fn answered(&mut self, answer: Answer) -> Result<(), Trouble> {
        self.talk.quiet();
        if let Stop::Refused(why) = &answer.stop {
            self.spent(&answer)?;
            return Err(Trouble::Failed(Reason::Model, why.clone()));
        }
        self.tell_usage(&answer);
        let Answer { blocks, stop, tokens, .. } = answer;
        let calls = blocks.iter().any(|b| matches!(b, Block::ToolUse(_)));
        let (cut, paused) = (stop == Stop::Cut, stop == Stop::Paused);
        self.keep(Entry::Answer { blocks, tokens, cut, paused })?;
        if cut && !calls {
            self.agent.journal.append(Entry::Note { text: CONTINUE.into() })?;
        }
        Ok(())
    }
}

enum Asked {
    Cancelled,
    Failed(Failure),
}
