//! A server that is a program of the session, spoken to in lines on its standard streams. Its log goes where ours goes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use wharf_wire::api::McpServer;

use super::rpc::{self, MESSAGE_BYTES, Said};
use crate::tools::processes;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// Messages to a server that it has not read yet.
const UNREAD: usize = 64;

pub struct Stdio {
    child: Child,
    pid: i32,
    to: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
    changed: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    next: u64,
}

/// Takes a request back that nobody waits for any more.
struct Asked {
    id: u64,
    to: mpsc::Sender<Vec<u8>>,
    waiting: Waiting,
}

impl Drop for Asked {
    fn drop(&mut self) {
        let open = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        if open.is_some() {
            let _ = self.to.try_send(line(&rpc::cancelled(self.id)));
        }
    }
}

fn line(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

impl Stdio {
    pub fn start(home: &Path, spec: &McpServer) -> Result<Self, String> {
        let (program, args) = spec.command.split_first().ok_or("it has neither a program nor an address")?;
        let mut child = Command::new(program)
            .args(args)
            .envs(&spec.env)
            .current_dir(home)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{program:?} does not start: {e}"))?;
        let gone = || "it has no streams".to_owned();
        let pid = child.id().ok_or_else(gone)? as i32;
        let mut stdin = child.stdin.take().ok_or_else(gone)?;
        let stdout = child.stdout.take().ok_or_else(gone)?;
        let (to, mut lines) = mpsc::channel::<Vec<u8>>(UNREAD);
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
                    return;
                }
            }
        });
        let (waiting, changed, ended) =
            (Waiting::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let reader =
            Reader { to: to.downgrade(), waiting: Arc::clone(&waiting), changed: Arc::clone(&changed) };
        tokio::spawn({
            let ended = Arc::clone(&ended);
            async move {
                reader.read(stdout).await;
                ended.store(true, Ordering::Release);
                // Whoever waits will get no answer.
                reader.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        });
        Ok(Self { child, pid, to, waiting, changed, ended, next: 0 })
    }

    pub async fn request(&mut self, method: &str, params: Value, limit: Duration) -> Result<Value, String> {
        self.next += 1;
        let id = self.next;
        let (tell, answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, tell);
        let _asked = Asked { id, to: self.to.clone(), waiting: Arc::clone(&self.waiting) };
        let ended = || "The server ended.".to_owned();
        if !self.is_alive() || self.to.send(line(&rpc::request(id, method, params))).await.is_err() {
            return Err(ended());
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(format!("The server did not answer within {} s.", limit.as_secs())),
        }
    }

    pub async fn notify(&mut self, method: &str) -> Result<(), String> {
        self.to.send(line(&rpc::notification(method))).await.map_err(|_| "The server ended.".to_owned())
    }

    pub fn is_alive(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }

    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            processes::kill_group(self.pid);
        }
    }
}

struct Reader {
    /// Weak: the writer ends when whoever asks is gone.
    to: mpsc::WeakSender<Vec<u8>>,
    waiting: Waiting,
    changed: Arc<AtomicBool>,
}

impl Reader {
    async fn read(&self, stdout: ChildStdout) {
        let mut stdout = BufReader::new(stdout);
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let read = (&mut stdout).take(MESSAGE_BYTES as u64).read_until(b'\n', &mut buffer).await;
            if !matches!(read, Ok(1..)) || !buffer.ends_with(b"\n") {
                return;
            }
            // Programs that print to their standard output by mistake are not worth failing for.
            let Ok(message) = serde_json::from_slice::<Value>(&buffer) else { continue };
            // The first versions let a server answer several at once.
            let all = match message {
                Value::Array(all) => all,
                one => vec![one],
            };
            for message in &all {
                match rpc::read(message) {
                    Said::Answer { id, result } => {
                        let tell = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                        if let Some(tell) = tell {
                            let _ = tell.send(result);
                        }
                    }
                    Said::Asked(answer) => {
                        let Some(to) = self.to.upgrade() else { return };
                        if to.send(line(&answer)).await.is_err() {
                            return;
                        }
                    }
                    Said::ToolsChanged => self.changed.store(true, Ordering::Release),
                    Said::Other => {}
                }
            }
        }
    }
}
