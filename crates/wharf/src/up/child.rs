//! What passes between the keeper and its children: settings in (over stdin), reports out (over stdout, a JSON
//! object a line). Nothing of it is in an argument or an environment variable, where other users could read it.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use wharf_chassis::Settings;
use wharf_chassis::settings::{hand_over, take_over};

/// What a child is handed.
#[derive(Serialize, Deserialize)]
pub struct Handover {
    /// The keeper's pid: a child whose parent is another has been orphaned before it could ask for a signal.
    pub keeper: u32,
    /// Settings with their secrets.
    pub settings: serde_json::Value,
}

/// What a child tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// It does what it is for. `address` is the API's, where it serves one.
    Ready { address: Option<SocketAddr> },
    /// The first administrator was made; this is the only time the password is said.
    Admin { name: String, password: String },
    /// It cannot start, and why.
    Failed { reason: String },
}

/// Where reports go.
pub enum Reporter {
    /// To the keeper.
    Keeper,
    /// Straight to whoever started this process.
    Terminal { password_file: PathBuf, url: Option<String>, begun: std::time::Instant },
}

impl Reporter {
    pub fn terminal(settings: &Settings) -> Self {
        Self::Terminal {
            password_file: settings.data_dir.join(super::place::PASSWORD_FILE),
            url: settings.public_url.clone(),
            begun: std::time::Instant::now(),
        }
    }

    /// A child's last word: what it could not do is said by the keeper, once.
    pub fn outcome(&self, result: Result<()>) -> Result<ExitCode> {
        match result {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                self.send(&Report::Failed { reason: format!("{error:#}") })?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    pub fn send(&self, report: &Report) -> Result<()> {
        match self {
            Self::Keeper => {
                let mut line = serde_json::to_vec(report)?;
                line.push(b'\n');
                let mut out = std::io::stdout().lock();
                out.write_all(&line)?;
                out.flush().context("the keeper is gone")
            }
            Self::Terminal { password_file, url, begun } => match report {
                Report::Ready { address } => {
                    if let Some(address) = address {
                        say_ready(*address, url.as_deref(), begun.elapsed());
                    }
                    Ok(())
                }
                Report::Admin { name, password } => hand_out_password(name, password, password_file),
                Report::Failed { reason } => bail!("{reason}"),
            },
        }
    }
}

pub fn say_ready(address: SocketAddr, public: Option<&str>, took: std::time::Duration) {
    let url = public.map_or_else(|| format!("http://{address}"), str::to_owned);
    println!("wharf is ready at {url} ({} ms)", took.as_millis());
}

/// The first administrator's password: on the terminal, once; where nobody watches, in a file only its owner reads.
pub fn hand_out_password(name: &str, password: &str, file: &std::path::Path) -> Result<()> {
    if std::io::stdout().is_terminal() {
        println!("first administrator: {name}\npassword (shown once): {password}");
        return Ok(());
    }
    use std::os::unix::fs::OpenOptionsExt as _;
    let _ = std::fs::remove_file(file);
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot keep the first password in {}", file.display()))?;
    writeln!(out, "{password}")?;
    out.sync_all()?;
    println!(
        "first administrator: {name}\npassword: in {} (delete the file once it is changed)",
        file.display()
    );
    Ok(())
}

/// The keeper's side: what a child is started with.
pub fn handover(settings: &Settings) -> Result<Vec<u8>> {
    let settings = serde_json::from_slice(&hand_over(settings)?)?;
    Ok(serde_json::to_vec(&Handover { keeper: std::process::id(), settings })?)
}

/// The child's side, first thing in its `main`: takes the settings and ties its life to the keeper's.
pub fn enter() -> Result<Settings> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    let handover: Handover = serde_json::from_slice(&bytes)
        .context("this is started by `wharf up`, which hands it its settings")?;
    let settings = take_over(&serde_json::to_vec(&handover.settings)?)?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // Started as /proc/self/exe, it would show as "exe" wherever arguments do not.
    rustix::thread::set_name(c"wharf")?;
    let parent = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero);
    if parent.map(|p| p.get().cast_unsigned()) != Some(handover.keeper) {
        bail!("the keeper ended before this process began");
    }
    Ok(settings)
}
