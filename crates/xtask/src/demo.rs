//! The main job on real input, as a user would do it: through the command line, against a release build, on a data
//! directory of its own. Prints each step with its time and fails at the first thing that is off.
//!
//! What the agent's script answers is compared with what this program works out from the same file by itself.

mod agent;
mod desktop;
mod expected;
mod server;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::sh;
use server::Server;

const SESSION: &str = "harbour";
const FORK: &str = "harbour-what-if";

#[derive(clap::Args)]
pub struct Args {
    /// Directory of the binaries
    #[arg(long, default_value = "target/release")]
    bin: PathBuf,
    /// Where the demonstration keeps everything, made anew each time [default: target/demo, or /var/tmp/wharf-demo
    /// where that is out of the unprivileged user's reach or too long for the paths of sockets]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where image archives are kept between runs
    #[arg(long, default_value = "target/images")]
    images: PathBuf,
}

/// One user at a command line.
struct User {
    wharf: PathBuf,
    home: PathBuf,
    url: String,
}

pub fn run(args: &Args) -> Result<()> {
    let root = sh::root();
    let dir = args.dir.as_ref().map_or_else(|| place(&root), |dir| root.join(dir));
    let wharf = root.join(&args.bin).join("wharf");
    ensure!(wharf.is_file(), "{} is not there; build it with `make build`", wharf.display());
    let begun = Instant::now();
    if dir.exists() {
        step("the last run's directory is cleared", || {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot clear {}", dir.display()))
        })?;
    }
    std::fs::create_dir_all(&dir)?;

    for name in ["base", "desktop"] {
        step(&format!("image: {name}"), || image(&wharf, name, &dir, &root.join(&args.images)))?;
    }
    let mut server = step("wharf up", || Server::start(&wharf, &dir))?;
    let told = story(
        &User { wharf: wharf.clone(), home: dir.join("home"), url: server.url.clone() },
        &dir,
        &mut server,
    );
    let stopped = step("wharf stops, nothing is left over", || server.stop());
    if told.is_err() || stopped.is_err() {
        eprintln!("the server's log is {}", dir.join("wharf.log").display());
    }
    told.and(stopped)?;
    println!("\nall as it should be, in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn story(user: &User, dir: &Path, server: &mut Server) -> Result<()> {
    let example = sh::root().join("examples/harbour");
    let data = example.join("arrivals.csv");
    let expected = expected::report(&std::fs::read_to_string(&data)?)?;
    let (ready, password) = (server.ready_line.clone(), server.password_file());

    step(&format!("{ready}; log in as its first administrator"), || {
        std::fs::create_dir_all(&user.home)?;
        user.run(&["login", &user.url, "--username", "admin", "--password-file", &text(&password)])
    })?;
    step("space", || user.run(&["space", "create", "demo", "--use"]))?;
    step("session, ready", || {
        let session = user.json(&["session", "create", SESSION, "--wait"])?;
        is(&session, "/state", "idle")
    })?;
    step("data and script go in", || {
        user.run(&["session", "cp", &text(&data), &format!("{SESSION}:arrivals.csv")])?;
        user.run(&["session", "cp", &text(&example.join("analyse.py")), &format!("{SESSION}:analyse.py")])
    })?;
    step("the agent analyses it, its output streams", || {
        let lines = user.send(SESSION, "python3 analyse.py arrivals.csv report.json")?;
        ensure!(
            lines.iter().any(|l| l.contains("400 arrivals read")),
            "the output is not all there:\n{}",
            lines.join("\n")
        );
        Ok(())
    })?;
    step("the events tell it in order", || events_in_order(user))?;
    step("the result is read back and right", || {
        let report = user.run(&["session", "cp", &format!("{SESSION}:report.json"), "-"])?;
        let report: Value = serde_json::from_str(&report).context("report.json")?;
        ensure!(report == expected, "the report is\n{report:#}\nand should be\n{expected:#}");
        Ok(())
    })?;
    let tree = "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum";
    let before = user.exec(SESSION, tree)?;
    step("close", || {
        user.run(&["session", "close", SESSION, "--wait"])?;
        is(&user.json(&["session", "get", SESSION])?, "/state", "closed")
    })?;
    step("a new message restores it, files as they were", || {
        let lines = user.send(SESSION, tree)?;
        ensure!(
            lines.join("\n").contains(before.trim()),
            "the files are not what they were: {} and {before}",
            lines.join("\n")
        );
        let messages = user.json(&["session", "messages", SESSION])?;
        let count = messages.as_array().map_or(0, |m| m.iter().filter(|m| m["role"] == "user").count());
        ensure!(count == 2, "two messages were sent, and the log has {count}");
        Ok(())
    })?;
    step("kill -9 of every process, then wharf up", || {
        server.kill_all()?;
        server.restart(dir)?;
        let after = user.exec(SESSION, tree)?;
        ensure!(after == before, "the files are not what they were: {after} and {before}");
        Ok(())
    })?;
    step("fork", || {
        user.run(&["session", "fork", SESSION, FORK])?;
        ensure!(user.exec(FORK, tree)? == before, "the fork's files are not its parent's");
        Ok(())
    })?;
    step("the fork diverges and its parent does not notice", || diverge(user, tree, &before))?;
    agent::story(user, dir, server)?;
    desktop::story(user, dir)?;
    step("no process but keeper and jailer is root", || server.check_privileges())
}

/// The fork drops a cargo from its copy of the data; the parent's report must not change.
fn diverge(user: &User, tree: &str, before: &str) -> Result<()> {
    user.send(
        FORK,
        "grep -v ,fuel, arrivals.csv > without.csv && python3 analyse.py without.csv report.json",
    )?;
    let fork: Value =
        serde_json::from_str(&user.run(&["session", "cp", &format!("{FORK}:report.json"), "-"])?)?;
    ensure!(
        fork["tonnes"]["fuel"].is_null() && fork["tonnes"]["grain"].is_number(),
        "the fork's report is {fork:#}"
    );
    let parent = user.exec(SESSION, tree)?;
    ensure!(parent == before, "the parent changed with its fork");
    let lineage = user.json(&["session", "lineage", SESSION])?.to_string();
    ensure!(lineage.contains(FORK), "the lineage does not show the fork: {lineage}");
    Ok(())
}

/// Every event has the next larger number, and the turn runs from start to done.
fn events_in_order(user: &User) -> Result<()> {
    let events = user.lines(&["session", "events", SESSION])?;
    let numbers: Vec<i64> = events.iter().filter_map(|e| e["seq"].as_i64()).collect();
    ensure!(
        numbers.len() == events.len() && numbers.is_sorted_by(|a, b| a < b),
        "numbers are not in order: {numbers:?}"
    );
    let at = |kind: &str| {
        events.iter().position(|e| e["type"] == kind).with_context(|| format!("there is no {kind}"))
    };
    ensure!(at("turn.started")? < at("turn.done")?, "the turn ended before it started");
    let deltas = events
        .iter()
        .filter(|e| e["type"].as_str().is_some_and(|t| t == "turn.output" || t == "turn.delta"))
        .count();
    ensure!(deltas > 1, "the output came in {deltas} piece, not as a stream");
    Ok(())
}

/// Below the repository where that works: the control plane's user must be able to walk there, and sockets' paths end
/// at 107 bytes.
fn place(root: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let own = root.join("target/demo");
    let open = |dir: &Path| std::fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    let walkable = own.ancestors().skip(1).filter(|dir| dir.exists()).all(open);
    if walkable && own.as_os_str().len() <= 45 { own } else { PathBuf::from("/var/tmp/wharf-demo") }
}

fn image(wharf: &Path, name: &str, dir: &Path, cache: &Path) -> Result<()> {
    let mut build = Command::new(wharf);
    build.args(["image", "build", name, "--cache"]).arg(cache).arg("--data-dir").arg(dir.join("data"));
    sh::output(&mut build).map(|_| ())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{name} ");
    std::io::stdout().flush()?;
    let begun = Instant::now();
    let result = work().with_context(|| name.to_owned());
    let dots = ".".repeat(72usize.saturating_sub(name.chars().count()));
    println!(
        "{dots} {:>8.3} s{}",
        begun.elapsed().as_secs_f64(),
        if result.is_ok() { "" } else { "  FAILED" }
    );
    result
}

fn is(value: &Value, pointer: &str, wants: &str) -> Result<()> {
    let found = value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ensure!(found == wants, "{pointer} is {found:?}, not {wants:?}");
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl User {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.wharf);
        command
            .args(args)
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        Ok(String::from_utf8(sh::output(&mut self.command(args))?)?)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let mut value: Value = serde_json::from_str(&self.run(&args)?).with_context(|| args.join(" "))?;
        // What was made or named is a list where several can be.
        Ok(match value.as_array_mut() {
            Some(list) if list.len() == 1 => list.remove(0),
            _ => value,
        })
    }

    fn lines(&self, args: &[&str]) -> Result<Vec<Value>> {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let out = self.run(&args)?;
        out.lines().map(|l| serde_json::from_str(l).with_context(|| l.to_owned())).collect()
    }

    /// Standard output of a shell line in a session; anything but exit code 0 is an error.
    fn exec(&self, session: &str, line: &str) -> Result<String> {
        self.run(&["session", "exec", session, "--", "sh", "-c", line])
    }

    /// Sends a message and answers what was streamed until its turn was over.
    fn send(&self, session: &str, message: &str) -> Result<Vec<String>> {
        let mut child = self
            .command(&["session", "send", session, message])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("wharf session send")?;
        let out = child.stdout.take().context("its output")?;
        let lines = BufReader::new(out).lines().collect::<std::io::Result<Vec<_>>>()?;
        let rest = child.wait_with_output()?;
        if !rest.status.success() {
            bail!("the message failed ({}): {}", rest.status, String::from_utf8_lossy(&rest.stderr));
        }
        Ok(lines)
    }
}
