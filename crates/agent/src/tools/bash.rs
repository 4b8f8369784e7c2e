//! The tool `bash`: one shell that keeps its directory, variables and background jobs from call to call.
//!
//! A command is sourced by the shell from a file, with nothing on its standard input and its output in another file: it cannot
//! read what is meant for the shell, and no amount of output fills a pipe or the memory. A command that takes too long, says too
//! much or is cancelled is killed with all it started; the shell and what ran in its background before go on.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use super::processes::{self, Before};
use super::{Outcome, Place, page, text};
use crate::cancel::Cancel;
use crate::images::next_number;
use crate::model::{BuiltIn, ToolDef};

pub const NAME: &str = "bash";

/// Bytes of output of one command; one that writes more is ended.
const OUTPUT_BYTES: u64 = 64 * 1024 * 1024;
const LOOK: Duration = Duration::from_millis(500);
/// How long the shell may take to notice that its command is gone.
const NOTICE: Duration = Duration::from_secs(2);
/// Files of output that are kept.
const OUTPUTS_KEPT: usize = 200;

/// Reads names of scripts and sources them. `set -m` puts every job into a group of its own. The shell's own streams are not a
/// command's: those are redirected.
const DRIVER: &str = r#"set -m
while IFS= read -r __wharf_script; do
  . "$__wharf_script" </dev/null >"$__wharf_script.out" 2>&1
  printf '%s %s\n' "$?" "$PWD"
done"#;

pub fn definition() -> ToolDef {
    ToolDef {
        name: NAME.into(),
        description: "Runs a command in a bash shell that is kept between calls: its directory, variables and background jobs \
            stay. Standard input is empty, so commands must not ask questions. Long output is put into a file, and its beginning \
            and end are shown. Start servers in the background (`command >log 2>&1 &`). `restart` starts the shell anew."
            .into(),
        schema: json!({
            "type": "object",
            "properties": {
                "command": {"type": "string", "description": "The command to run."},
                "restart": {"type": "boolean", "description": "True to start the shell anew instead."}
            }
        }),
        built_in: Some(BuiltIn::Bash),
    }
}

struct Running {
    child: Child,
    pid: i32,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

pub struct Shell {
    home: PathBuf,
    output: PathBuf,
    limit: Duration,
    running: Option<Running>,
    /// Where the last command left the shell.
    cwd: PathBuf,
}

/// Why a command was ended.
enum Ended {
    Cancelled,
    Timeout,
    TooMuch,
}

impl Shell {
    pub fn new(place: &Place, limit: Duration) -> Self {
        Self {
            home: place.home.clone(),
            output: place.output.clone(),
            limit,
            running: None,
            cwd: place.home.clone(),
        }
    }

    pub async fn run(&mut self, input: &Value, cancel: &Cancel) -> Outcome {
        let restart = input.get("restart").and_then(Value::as_bool).unwrap_or(false);
        if restart {
            self.stop().await;
            self.cwd.clone_from(&self.home);
        }
        match text(input, "command") {
            Some(command) if !command.trim().is_empty() => match self.command(command, cancel).await {
                Ok(outcome) => outcome,
                Err(e) => {
                    self.stop().await;
                    Outcome::error(format!(
                        "The shell could not run it: {e}. It is started anew with the next command."
                    ))
                }
            },
            _ if restart => Outcome::text("The shell was restarted."),
            _ => Outcome::error("`command` is required, or `restart`"),
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let cwd = if self.cwd.is_dir() { &self.cwd } else { &self.home };
        let mut child = Command::new("bash")
            .args(["-lc", DRIVER])
            .current_dir(cwd)
            .env("TERM", "dumb")
            .env("PAGER", "cat")
            .env("GIT_PAGER", "cat")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let gone = || io::Error::other("the shell has no streams");
        let pid = child.id().ok_or_else(gone)? as i32;
        let stdin = child.stdin.take().ok_or_else(gone)?;
        let lines = BufReader::new(child.stdout.take().ok_or_else(gone)?).lines();
        self.running = Some(Running { child, pid, stdin, lines });
        Ok(())
    }

    /// Where it stands; none before the first command, and where that is no text.
    pub fn directory(&self) -> Option<String> {
        let pid = self.running.as_ref()?.pid;
        fs::read_link(format!("/proc/{pid}/cwd")).ok()?.into_os_string().into_string().ok()
    }

    async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            processes::kill_group(running.pid);
            let _ = timeout(NOTICE, running.child.wait()).await;
        }
    }

    /// The file of the next script.
    fn script(&mut self, command: &str) -> io::Result<PathBuf> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.output)?;
        prune(&self.output)?;
        let number = next_number(&self.output)?;
        let path = self.output.join(format!("{number:08}"));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(command.as_bytes())?;
        file.write_all(b"\n")?;
        Ok(path)
    }

    async fn command(&mut self, command: &str, cancel: &Cancel) -> io::Result<Outcome> {
        let is_new = self.running.as_mut().is_none_or(|r| !matches!(r.child.try_wait(), Ok(None)));
        if is_new {
            self.stop().await;
            self.start()?;
        }
        let script = self.script(command)?;
        let mut out = script.clone().into_os_string();
        out.push(".out");
        let out = PathBuf::from(out);
        let Some(running) = &mut self.running else { return Err(io::Error::other("there is no shell")) };
        let before = Before::now();
        let mut line = script.clone().into_os_string().into_encoded_bytes();
        line.push(b'\n');
        running.stdin.write_all(&line).await?;
        running.stdin.flush().await?;
        let (status, ended) = watch(running, &out, self.limit, cancel, &before).await?;
        let mut notes = Vec::new();
        match ended {
            Some(Ended::Cancelled) => notes.push(super::CANCELLED.to_owned()),
            Some(Ended::Timeout) => notes.push(format!(
                "It took longer than its limit of {} s and was ended, with all it had started. Start what shall go on in the \
                 background.",
                self.limit.as_secs()
            )),
            Some(Ended::TooMuch) => {
                notes.push(format!("It wrote more than {OUTPUT_BYTES} bytes and was ended."));
            }
            None => {}
        }
        let mut code = None;
        match status {
            Some(status) => {
                let (number, cwd) = status.split_once(' ').unwrap_or((status.as_str(), ""));
                code = number.parse::<i32>().ok();
                if !cwd.is_empty() {
                    self.cwd = PathBuf::from(cwd);
                }
            }
            None => {
                let exit = match &mut self.running {
                    Some(running) => timeout(NOTICE, running.child.wait()).await.ok().and_then(Result::ok),
                    None => None,
                };
                self.stop().await;
                let how = exit.and_then(|e| e.code()).map_or_else(String::new, |c| format!(" with code {c}"));
                notes.push(format!(
                    "The shell itself ended{how}: its variables and background jobs are gone. The next command starts a new one \
                     in {}.",
                    self.cwd.display()
                ));
            }
        }
        let _ = fs::remove_file(&script);
        Ok(report(&out, code, ended.is_some(), &notes))
    }
}

/// Waits for the command to end, or ends it. The line the shell said at its end, if it lives.
async fn watch(
    running: &mut Running,
    out: &Path,
    limit: Duration,
    cancel: &Cancel,
    before: &Before,
) -> io::Result<(Option<String>, Option<Ended>)> {
    let deadline = Instant::now() + limit;
    let mut ended = None;
    loop {
        tokio::select! {
            biased;
            line = running.lines.next_line() => return Ok((line?, None)),
            () = cancel.wait() => ended = Some(Ended::Cancelled),
            () = tokio::time::sleep_until(deadline) => ended = Some(Ended::Timeout),
            () = tokio::time::sleep(LOOK) => {
                if fs::metadata(out).is_ok_and(|m| m.len() > OUTPUT_BYTES) {
                    ended = Some(Ended::TooMuch);
                }
            }
        }
        if ended.is_some() {
            break;
        }
    }
    // The jobs go; a loop of the shell itself may start more.
    let until = Instant::now() + NOTICE;
    while Instant::now() < until {
        processes::kill_jobs(running.pid, before);
        if let Ok(line) = timeout(Duration::from_millis(100), running.lines.next_line()).await {
            return Ok((line?, ended));
        }
    }
    processes::kill_group(running.pid);
    Ok((None, ended))
}

fn report(out: &Path, code: Option<i32>, was_ended: bool, notes: &[String]) -> Outcome {
    let (mut said, is_whole) = page::of_output(out).unwrap_or_default();
    if is_whole {
        let _ = fs::remove_file(out);
    }
    let mut add = |line: &str| {
        if !said.is_empty() && !said.ends_with('\n') {
            said.push('\n');
        }
        said.push_str(line);
    };
    for note in notes {
        add(&format!("[{note}]"));
    }
    let failed = code.is_some_and(|c| c != 0);
    if let (Some(code), false) = (code.filter(|c| *c != 0), was_ended) {
        add(&format!("[exit code {code}]"));
    }
    Outcome { is_error: failed || was_ended || code.is_none(), ..Outcome::text(said) }
}

/// Removes the oldest outputs: names count up.
fn prune(dir: &Path) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.file_name())).collect();
    if names.len() > OUTPUTS_KEPT {
        names.sort_unstable();
        for name in &names[..names.len() - OUTPUTS_KEPT] {
            let _ = fs::remove_file(dir.join(name));
        }
    }
    Ok(())
}

impl Drop for Shell {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            processes::kill_group(running.pid);
        }
    }
}
