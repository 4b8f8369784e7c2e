//! What git's hooks run: it carries git's question to the server and the server's answer to git.
//!
//! Decides nothing. Without an answer (the server went away) the push is refused, and nothing of it is taken.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_domain::PushId;
use wharf_domain::repo::RefUpdate;

/// Where the hook finds the server, and which push it is of.
pub(crate) const SOCKET: &str = "WHARF_GIT_SOCKET";
pub(crate) const PUSH: &str = "WHARF_GIT_PUSH";
/// Bytes of a question: `PUSH_REFS` of the longest names there are, and some.
pub(crate) const MOST: u64 = 4 * 1024 * 1024;
/// The server answers in less.
const PATIENCE: Duration = Duration::from_secs(120);

/// Git's question, one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    pub push: PushId,
    /// `pre-receive` or `post-receive`.
    pub hook: String,
    /// Where the objects of the push are until it is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<PathBuf>,
    pub updates: Vec<RefUpdate>,
}

/// The server's answer, one line of JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    pub ok: bool,
    /// What the pusher reads, line by line.
    #[serde(default)]
    pub say: Vec<String>,
}

impl Reply {
    pub fn yes(say: Vec<String>) -> Self {
        Self { ok: true, say }
    }

    pub fn no(why: impl Into<String>) -> Self {
        Self { ok: false, say: vec![why.into()] }
    }
}

/// The whole life of `wharf git-hook NAME`.
pub fn run(name: &str) -> ExitCode {
    match ask(name) {
        Ok(reply) => {
            for line in &reply.say {
                eprintln!("wharf: {line}");
            }
            if reply.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("wharf: {why}");
            ExitCode::FAILURE
        }
    }
}

fn ask(name: &str) -> Result<Reply, String> {
    let missing =
        |_| "this repository is pushed to over HTTP only; its hooks ask the server that runs git".to_owned();
    let socket = std::env::var(SOCKET).map_err(missing)?;
    let push = std::env::var(PUSH).map_err(missing)?.parse().map_err(|_| "the push has no id".to_owned())?;
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(MOST).read_to_end(&mut text);
    read.map_err(|e| format!("cannot read what git says: {e}"))?;
    if text.len() as u64 == MOST {
        return Err("the push changes too many refs at once; push fewer".to_owned());
    }
    let quarantine = std::env::var_os("GIT_QUARANTINE_PATH").map(PathBuf::from);
    let question = Ask { push, hook: name.to_owned(), quarantine, updates: updates(&text)? };
    talk(&socket, &question).map_err(|e| {
        format!("the server cannot be asked ({e}); nothing was changed by this push unless you see it with a fetch")
    })
}

/// Lines of `old new ref` (githooks(5)).
pub(crate) fn updates(text: &[u8]) -> Result<Vec<RefUpdate>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "names of refs are UTF-8 here".to_owned())?;
    text.lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some(old), Some(new), Some(name)) => {
                    Ok(RefUpdate { name: name.into(), old: old.into(), new: new.into() })
                }
                _ => Err("git said something that is no update of a ref".to_owned()),
            }
        })
        .collect()
}

fn talk(socket: &str, question: &Ask) -> std::io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MOST)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests;
