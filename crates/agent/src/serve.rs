//! The lines between the agent and its host: reads what it is told, answers one message at a time.
//!
//! What comes while a turn runs (a cancel, history) is read at once; a second message waits.

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, oneshot};
use wharf_domain::{SessionId, TurnId};
use wharf_wire::host::agent::{FromAgent, LINE_BYTES, PROTOCOL, Resumed, ToAgent};
use wharf_wire::host::computer_use::ComputerUse;
use wharf_wire::host::turn::{Block as Shown, PastMessage, Reason};

use crate::block::{Block, Part, Tokens};
use crate::cancel::Cancel;
use crate::http::Gateway;
use crate::images::{self, Images};
use crate::journal::{End, Entry, Journal};
use crate::model::Thinking;
use crate::out::Out;
use crate::prompt::Setting;
use crate::screen::Desktop;
use crate::talk::Talk;
use crate::tools::Place;
use crate::turn::{Agent, Run};

/// Below the home.
const DIRECTORY: &str = ".wharf/agent";
/// How long the host may take to give the history it was asked for.
const HISTORY: Duration = Duration::from_secs(30);

/// A message to be answered.
struct Job {
    turn: TurnId,
    seq: i64,
    content: Vec<Shown>,
    resumed: Option<Resumed>,
    cancel: Cancel,
}

type Awaited = Arc<Mutex<Option<oneshot::Sender<Vec<PastMessage>>>>>;

struct Hello {
    name: String,
    session: Option<SessionId>,
    config: ComputerUse,
    setting: Setting,
}

/// Until the host closes our standard input.
pub async fn serve(home: PathBuf, gateway: PathBuf) -> io::Result<()> {
    let out = Out::new(Box::new(io::stdout()));
    let awaited = Awaited::default();
    let own = io::stdin().as_fd().try_clone_to_owned()?;
    let mut input = BufReader::new(Receiver::from_file(own.into())?);
    let hello = match read(&mut input).await? {
        None => return Ok(()),
        Some(ToAgent::Hello { protocol: PROTOCOL, agent, session, instructions, agents, computer_use }) => {
            Hello {
                config: *computer_use.ok_or_else(|| io::Error::other("the host gave no configuration"))?,
                setting: Setting { instructions, agent: agent.clone(), agents },
                name: agent,
                session,
            }
        }
        Some(_) => {
            return Err(io::Error::other("the host did not say hello in a protocol that is known here"));
        }
    };
    let (jobs, mut waiting) = mpsc::unbounded_channel::<Job>();
    let worker = tokio::spawn({
        let (out, awaited) = (out.clone(), Arc::clone(&awaited));
        async move {
            let mut agent: Option<Agent> = None;
            while let Some(job) = waiting.recv().await {
                let place = (home.clone(), gateway.clone());
                let last = answer(&mut agent, &hello, place, job, &out, &awaited).await;
                out.say(&last);
            }
        }
    });
    let mut current: Option<(TurnId, Cancel)> = None;
    while let Some(told) = read(&mut input).await? {
        match told {
            ToAgent::Message { turn, seq, content, resumed } => {
                let cancel = Cancel::default();
                current = Some((turn, cancel.clone()));
                let _ = jobs.send(Job { turn, seq, content, resumed, cancel });
            }
            ToAgent::Cancel { turn } => {
                if let Some((running, cancel)) = &current
                    && *running == turn
                {
                    cancel.cancel();
                }
            }
            ToAgent::History { messages } => {
                if let Some(tell) = awaited.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    let _ = tell.send(messages);
                }
            }
            ToAgent::Hello { .. } => {}
        }
    }
    worker.abort();
    Ok(())
}

async fn read(input: &mut BufReader<Receiver>) -> io::Result<Option<ToAgent>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        input.take(LINE_BYTES as u64 * 4).read_until(b'\n', &mut line).await?;
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
        match serde_json::from_slice(&line) {
            Ok(told) => return Ok(Some(told)),
            // A newer host may say more than is known here.
            Err(e) => eprintln!("a line of the host is not understood: {e}"),
        }
    }
}

async fn answer(
    agent: &mut Option<Agent>,
    hello: &Hello,
    place: (PathBuf, PathBuf),
    job: Job,
    out: &Out,
    awaited: &Awaited,
) -> FromAgent {
    let failed = |e: io::Error| FromAgent::Error {
        detail: format!("the conversation cannot be kept: {e}"),
        usage: None,
        reason: Some(Reason::AgentStart),
    };
    if agent.is_none() {
        match open(hello, place) {
            Ok(opened) => *agent = Some(opened),
            Err(e) => return failed(e),
        }
    }
    let Some(agent) = agent else { return failed(io::Error::other("there is no agent")) };
    if let Err(e) = begin(agent, hello, &job, out, awaited).await {
        return failed(e);
    }
    let talk = Talk::new(out.clone(), job.resumed.map_or(0, |r| r.said));
    Run { agent, turn: job.turn, talk, cancel: &job.cancel }.answer().await
}

fn open(hello: &Hello, (home, gateway): (PathBuf, PathBuf)) -> io::Result<Agent> {
    let dir = home.join(DIRECTORY);
    // The name is a file's name here: only what cannot be a path.
    let name: String =
        hello.name.chars().map(|c| if c.is_alphanumeric() || "-_".contains(c) { c } else { '_' }).collect();
    let journal = Journal::open(&dir.join(format!("{name}.jsonl")))?;
    let images = Arc::new(Images::open(dir.join(format!("{name}.images")))?);
    images.prune()?;
    let session = hello.session.map(|s| s.to_string()).unwrap_or_default();
    Ok(Agent {
        generation: Agent::generation_of(&hello.config),
        config: hello.config.clone(),
        setting: hello.setting.clone(),
        key: format!("{session}-{name}"),
        journal,
        tools: None,
        thinking: Thinking::Kept,
        place: Place {
            output: dir.join(format!("{name}.output")),
            home,
            images,
            gateway: Gateway::new(gateway),
            screen: Arc::new(Desktop::default()),
        },
    })
}

/// Writes the message into the journal, or finds it there.
async fn begin(agent: &mut Agent, hello: &Hello, job: &Job, out: &Out, awaited: &Awaited) -> io::Result<()> {
    let knows = |e: &Entry| matches!(e, Entry::Turn { turn, .. } if *turn == job.turn);
    if agent.journal.session() == hello.session && agent.journal.entries.iter().any(|(_, e)| knows(e)) {
        if !agent
            .journal
            .entries
            .iter()
            .rev()
            .take_while(|(_, e)| !knows(e))
            .any(|(_, e)| matches!(e, Entry::Ended(_)))
        {
            agent.journal.append(Entry::Resumed)?;
        }
        return Ok(());
    }
    if agent.journal.entries.is_empty() || agent.journal.session() != hello.session {
        // A new conversation, a fork's, or one whose journal is lost. What of it may be known, the host knows.
        let past = history(out, awaited).await?;
        if past.is_empty() && !agent.journal.entries.is_empty() {
            agent.journal.clear()?;
            agent.place.images.clear()?;
        }
        let is_new = agent.journal.entries.is_empty();
        agent.journal.append(Entry::Head { session: hello.session })?;
        if is_new {
            import(agent, &past)?;
        }
    }
    // A turn whose process was killed before it could say that it ended.
    let last =
        agent.journal.entries.iter().rev().find(|(_, e)| matches!(e, Entry::Turn { .. } | Entry::Ended(_)));
    if matches!(last, Some((_, Entry::Turn { .. }))) {
        let detail = "it was interrupted".to_owned();
        agent.journal.append(Entry::Ended(End::Failed { reason: Reason::Interrupted, detail }))?;
    }
    let content = parts(agent, &job.content)?;
    agent.journal.append(Entry::Turn { turn: job.turn, seq: job.seq, content })?;
    Ok(())
}

async fn history(out: &Out, awaited: &Awaited) -> io::Result<Vec<PastMessage>> {
    let (tell, told) = oneshot::channel();
    *awaited.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    out.say(&FromAgent::History {});
    match tokio::time::timeout(HISTORY, told).await {
        Ok(Ok(messages)) => Ok(messages),
        _ => Err(io::Error::new(io::ErrorKind::TimedOut, "the host did not tell what was said before")),
    }
}

/// What was said elsewhere, as far as it is words.
fn import(agent: &mut Agent, past: &[PastMessage]) -> io::Result<()> {
    for message in past {
        let mut text = String::new();
        for block in &message.content {
            match (block.as_text(), block.kind()) {
                (Some(said), _) => writeln!(text, "{said}"),
                (None, kind) => writeln!(text, "[{kind}]"),
            }
            .map_err(io::Error::other)?;
        }
        let text = text.trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        let entry = if message.role == "agent" {
            Entry::Answer {
                blocks: vec![Block::Text { text }],
                tokens: Tokens::default(),
                cut: false,
                paused: false,
            }
        } else {
            Entry::Note { text }
        };
        agent.journal.append(entry)?;
    }
    Ok(())
}

/// A user's message, with its pictures kept beside the journal.
fn parts(agent: &Agent, content: &[Shown]) -> io::Result<Vec<Part>> {
    let mut parts = Vec::with_capacity(content.len());
    for block in content {
        let of =
            |name: &str| block.as_map().get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        match block.kind() {
            "text" => parts.push(Part::text(of("text"))),
            "image" => match agent.place.images.keep_base64(of("data"), of("media_type")) {
                Ok(image) => parts.push(Part::Image { image }),
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    parts.push(Part::text(format!("[a picture that cannot be read: {e}]")));
                }
                Err(e) => return Err(e),
            },
            "file" => {
                let path = of("path");
                parts.push(Part::text(format!("[file: {path}]")));
                let full = agent.place.home.join(path);
                if let Ok(bytes) = images::read(&full)
                    && let Some(media_type) = images::media_type(&bytes)
                {
                    parts.push(Part::Image { image: agent.place.images.keep(&bytes, media_type, None)? });
                }
            }
            kind => parts
                .push(Part::text(format!("[{kind}: {}]", serde_json::Value::Object(block.as_map().clone())))),
        }
    }
    if !parts.iter().any(|p| !matches!(p, Part::Text { text } if text.trim().is_empty())) {
        parts = vec![Part::text("[an empty message]")];
    }
    Ok(parts)
}
