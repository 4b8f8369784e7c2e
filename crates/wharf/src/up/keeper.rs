//! The keeper: starts the jailer and the control plane, starts them again when they die, passes signals on.
//!
//! It opens no socket and reads no request; what it knows of its children is their reports and their deaths. It ends
//! with an error only when a child cannot start at all. Single-threaded, so that the kernel's death signal, which
//! follows the thread that started a child, follows this process.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use wharf_chassis::Settings;
use wharf_chassis::settings::Role;

use super::child::{Report, hand_out_password, handover, say_ready};
use super::place::{Account, PASSWORD_FILE};

/// First pause before a dead child is started again; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
/// Short, because sessions neither start nor stop while the jailer is away; trying costs next to nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A child that lived this long died of something new: its pause begins anew.
const STEADY: Duration = Duration::from_secs(10);
/// Beyond the drain's own limit, for the child to say goodbye.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Jailer,
    Docker,
    Control,
}

impl Part {
    /// Shown by `ps`, so that everybody sees who is what.
    const fn argument(self) -> &'static str {
        match self {
            Self::Jailer => "jailer",
            Self::Docker => "docker-runtime",
            Self::Control => "control-plane",
        }
    }
}

/// What the keeper waits for.
enum News {
    Report(Part, Report),
    Died(Part, std::io::Result<ExitStatus>),
    Again(Part),
    Signal(Signal),
}

struct Kept {
    part: Part,
    pid: Option<Pid>,
    since: Instant,
    pause: Duration,
    ready: bool,
    ever_ready: bool,
}

struct Keeper<'a> {
    settings: &'a Settings,
    account: &'a Account,
    kept: Vec<Kept>,
    news: mpsc::Sender<News>,
    begun: Instant,
    said_ready: bool,
    stopping: bool,
}

pub fn run(settings: &Settings, account: &Account) -> Result<()> {
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Bounded by what a child can say while the keeper looks elsewhere; a full channel makes the child wait.
        let (tx, mut rx) = mpsc::channel(64);
        listen(&tx)?;
        let parts: Vec<Part> = [
            settings.has_role(Role::Jailer).then_some(Part::Jailer),
            (settings.has_role(Role::Jailer) && settings.uses_docker()).then_some(Part::Docker),
            settings.roles.iter().any(|r| *r != Role::Jailer).then_some(Part::Control),
        ]
        .into_iter()
        .flatten()
        .collect();
        let kept = parts
            .iter()
            .map(|part| Kept {
                part: *part,
                pid: None,
                since: begun,
                pause: PAUSE,
                ready: false,
                ever_ready: false,
            })
            .collect();
        let mut keeper =
            Keeper { settings, account, kept, news: tx, begun, said_ready: false, stopping: false };
        for part in parts {
            keeper.start(part).await?;
        }
        let result = keeper.watch(&mut rx).await;
        keeper.stop_all(&mut rx).await;
        result
    })
}

fn listen(news: &mpsc::Sender<News>) -> Result<()> {
    for (kind, name) in [
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::hangup(), Signal::HUP),
    ] {
        let mut stream = signal(kind)?;
        let news = news.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if news.send(News::Signal(name)).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

impl Keeper<'_> {
    /// Until a signal asks for the end, or a child cannot start.
    async fn watch(&mut self, rx: &mut mpsc::Receiver<News>) -> Result<()> {
        while let Some(news) = rx.recv().await {
            match news {
                News::Signal(name) => {
                    tracing::info!(signal = name_of(name), "stopping; a second signal ends at once");
                    return Ok(());
                }
                News::Report(part, report) => self.heard(part, report)?,
                News::Died(part, status) => self.died(part, status)?,
                News::Again(part) => self.start(part).await?,
            }
        }
        Ok(())
    }

    fn heard(&mut self, part: Part, report: Report) -> Result<()> {
        match report {
            Report::Ready { address } => {
                let kept = self.of(part);
                (kept.ready, kept.ever_ready) = (true, true);
                if let Some(address) = address
                    && !self.said_ready
                {
                    self.said_ready = true;
                    say_ready(address, self.settings.public_url.as_deref(), self.begun.elapsed());
                }
            }
            Report::Admin { name, password } => {
                hand_out_password(&name, &password, &self.settings.data_dir.join(PASSWORD_FILE))?;
            }
            Report::Failed { reason } => {
                if !self.of(part).ever_ready {
                    bail!("the {} cannot start: {reason}", part.argument());
                }
                tracing::error!(part = part.argument(), reason, "failed");
            }
        }
        Ok(())
    }

    fn died(&mut self, part: Part, status: std::io::Result<ExitStatus>) -> Result<()> {
        let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        let kept = self.of(part);
        kept.pid = None;
        kept.ready = false;
        if !kept.ever_ready {
            bail!("the {} ended before it was ready ({status}); its log above says why", part.argument());
        }
        if kept.since.elapsed() >= STEADY {
            kept.pause = PAUSE;
        }
        let pause = kept.pause;
        kept.pause = (pause * 2).min(LONGEST_PAUSE);
        tracing::warn!(
            part = part.argument(),
            status,
            pause_ms = pause.as_millis() as u64,
            "died; starting it again"
        );
        let news = self.news.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = news.send(News::Again(part)).await;
        });
        Ok(())
    }

    async fn start(&mut self, part: Part) -> Result<()> {
        if self.stopping {
            return Ok(());
        }
        let mut child =
            self.command(part).spawn().with_context(|| format!("cannot start the {}", part.argument()))?;
        let kept = self.of(part);
        kept.pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kept.since = Instant::now();
        let mut stdin = child.stdin.take().context("no way to hand the settings over")?;
        let bytes = handover(self.settings)?;
        // A child that dies before it has read is told of by its death.
        let _ = stdin.write_all(&bytes).await;
        drop(stdin);
        let news = self.news.clone();
        tokio::spawn(attend(part, child, news));
        Ok(())
    }

    fn command(&self, part: Part) -> Command {
        // Not by its path: the unprivileged user may not be able to walk there (a home directory, say).
        let mut command = Command::new("/proc/self/exe");
        command.arg0("wharf").arg(part.argument()).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Its own process group, so that Ctrl-C reaches the keeper alone, which drains in order.
        command.process_group(0).env_clear().current_dir(&self.settings.data_dir);
        for name in ["PATH", "LANG", "TZ", "NO_COLOR", "TERM", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if part == Part::Control {
            // The standard library also drops all supplementary groups when it changes the user; with the user go
            // all capabilities.
            command.uid(self.account.uid).gid(self.account.gid);
            command.env("HOME", &self.settings.data_dir).env("USER", &self.account.name);
            // What a burst or an import took goes back to the machine, whose memory is for sessions: few arenas, and
            // large buffers mapped on their own however often they come.
            command.env("MALLOC_ARENA_MAX", "2").env("MALLOC_MMAP_THRESHOLD_", "262144");
            command.env("MALLOC_TRIM_THRESHOLD_", "1048576");
        }
        command
    }

    /// The control plane first, since it needs the jailer to stop what runs; then the jailer. A second signal, or the
    /// end of the drain's time, ends what is left.
    async fn stop_all(&mut self, rx: &mut mpsc::Receiver<News>) {
        self.stopping = true;
        let limit = Duration::from_secs(self.settings.shutdown_seconds.into()) + GRACE;
        for part in [Part::Control, Part::Docker, Part::Jailer] {
            self.send(part, Signal::TERM);
            let deadline = tokio::time::sleep(limit);
            tokio::pin!(deadline);
            while self.kept.iter().any(|k| k.part == part && k.pid.is_some()) {
                tokio::select! {
                    news = rx.recv() => match news {
                        Some(News::Died(who, _)) => self.of(who).pid = None,
                        Some(News::Signal(_)) => {
                            tracing::warn!("ending at once");
                            self.send(part, Signal::KILL);
                        }
                        _ => {}
                    },
                    () = &mut deadline => {
                        tracing::error!(part = part.argument(), "did not stop in time; it is killed");
                        self.send(part, Signal::KILL);
                        deadline.as_mut().reset(tokio::time::Instant::now() + GRACE);
                    }
                }
            }
        }
    }

    fn send(&self, part: Part, signal: Signal) {
        if let Some(pid) = self.kept.iter().find(|k| k.part == part).and_then(|k| k.pid) {
            let _ = kill_process(pid, signal);
        }
    }

    fn of(&mut self, part: Part) -> &mut Kept {
        let at = self.kept.iter().position(|k| k.part == part);
        // Parts are made once, in `run`, and news come only from them.
        &mut self.kept[at.expect("a part that is kept")]
    }
}

fn name_of(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "SIGINT",
        Signal::HUP => "SIGHUP",
        _ => "SIGTERM",
    }
}

/// Passes a child's reports on, and then its death. The pipe may outlive the child in a grandchild's hands, so the
/// death is waited for beside it; what the child said last is still read.
async fn attend(part: Part, mut child: Child, news: mpsc::Sender<News>) {
    let Some(out) = child.stdout.take() else { return };
    let mut lines = BufReader::new(out).lines();
    let mut status = None;
    loop {
        let line = if status.is_none() {
            tokio::select! {
                line = lines.next_line() => line,
                ended = child.wait() => { status = Some(ended); continue; }
            }
        } else {
            match tokio::time::timeout(Duration::from_millis(100), lines.next_line()).await {
                Ok(line) => line,
                Err(_) => break,
            }
        };
        let Ok(Some(line)) = line else { break };
        match serde_json::from_str(&line) {
            Ok(report) => {
                if news.send(News::Report(part, report)).await.is_err() {
                    return;
                }
            }
            // Not repeated: it might be a report with a password that was cut.
            Err(_) => tracing::warn!(part = part.argument(), "said something that is not a report"),
        }
    }
    let status = match status {
        Some(status) => status,
        None => child.wait().await,
    };
    let _ = news.send(News::Died(part, status)).await;
}
