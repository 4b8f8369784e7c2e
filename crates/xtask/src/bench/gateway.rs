//! What the gateway costs: the same client asks the same server from inside a session through the gateway, and from the machine
//! directly, in turns. A model's stream is measured by the age of each piece when it arrives.
//!
//! With the image `desktop` there, also how long a picture of the screen takes, and a turn of the built-in agent whose model is
//! a script.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::GatewayArgs;
use super::http::Http;
use super::report::{Row, Samples, finish};
use super::sessions::{delete, find_archive};
use super::wharf::{SPACE, Wharf, session};

const PROBE: &str = include_str!("gateway/probe.py");
const SERVER: &str = include_str!("gateway/server.py");
/// The machine's loopback under an address that no session takes for its own.
const HOST: &str = "127.0.0.2";
const ROUNDS: usize = 5;

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &Path) -> Result<Self> {
        std::fs::write(dir.join("server.py"), SERVER)?;
        let mut child = Command::new("python3")
            .arg(dir.join("server.py"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        Ok(Self { child, port: line.trim().parse().context("the server's port")? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn run(args: GatewayArgs) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the bench starts jails: run it as root");
    let dir = PathBuf::from("target/bench/gateway");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let server = Server::start(&dir)?;
    std::fs::write(dir.join("probe.py"), PROBE)?;
    let port = server.port;
    let settings = format!(
        "[warm]\nbase = 1\n\n[gateway]\nallow_private = [\"{HOST}:{port}\"]\nmax_connections = 256\nconnections_per_second = 10000\n"
    );
    let wharf = Wharf::configured(&dir, &settings).await?;
    wharf.furnish(&find_archive("base")?).await?;
    let mut http = wharf.http().await?;
    let mut body = session("probe");
    body["network"] = json!({ "egress": "allowlist", "allow": [format!("{HOST}:{port}")] });
    let provider =
        json!({ "name": "bench", "protocol": "openai", "base_url": format!("http://{HOST}:{port}") });
    http.post(&format!("{SPACE}/providers"), provider).await?;
    http.post(&format!("{SPACE}/sessions?wait=ready"), body).await?;
    let write = json!({ "argv": ["sh", "-c", "cat > probe.py"], "stdin": PROBE });
    let done = http.post(&format!("{SPACE}/sessions/probe/exec"), write).await?;
    ensure!(done["exit_code"] == 0, "the probe cannot be written: {done}");

    let outside = format!("http://{HOST}:{port}");
    let model = "/v1/chat/completions";
    let mut rows = Vec::new();
    let small = format!("{outside}/small");
    for (kind, row, ours, peer) in [
        ("get", "GET of 1 KiB on a new connection", small.clone(), small.clone()),
        ("kept", "GET of 1 KiB on a kept connection", small.clone(), small),
        (
            "stream",
            "a piece of a model's stream, from sent to read",
            format!("http://gateway/bench{model}"),
            format!("{outside}{model}"),
        ),
    ] {
        let times = if kind == "stream" { 1 } else { args.samples.div_ceil(ROUNDS) };
        let (ours, peer) = pair(&mut http, &dir, kind, [&ours, &peer], times).await?;
        rows.push(Row::beside(row, &ours, "direct", &peer)?);
        let added = ours.quantiles()?.minus(peer.quantiles()?);
        rows.push(Row::figure(&format!("{row}: added"), "ms", added));
    }
    let blob = format!("{outside}/blob");
    let (ours, peer) = pair(&mut http, &dir, "bytes", [&blob, &blob], 1).await?;
    rows.push(Row { unit: "MiB/s", ..Row::beside("bytes out of the gateway", &ours, "direct", &peer)? });
    delete(&mut http, "probe").await?;
    rows.push(turn(&mut http, args.samples).await?);
    if let Ok(archive) = find_archive("desktop") {
        wharf.import(&archive, "desktop")?;
        rows.extend(screen(&wharf, args.samples).await?);
    }
    wharf.stop().await?;
    finish("gateway", &rows)
}

/// Ours and the peer's, in turns.
async fn pair(
    http: &mut Http,
    dir: &Path,
    kind: &str,
    [ours, peer]: [&str; 2],
    times: usize,
) -> Result<(Samples, Samples)> {
    let (mut inside, mut outside) = (Samples::default(), Samples::default());
    let times = times.to_string();
    for _ in 0..ROUNDS {
        let body = json!({ "argv": ["python3", "probe.py", kind, ours, "127.0.0.1:3128", times], "timeout_seconds": 120 });
        let done = http.post(&format!("{SPACE}/sessions/probe/exec"), body).await?;
        ensure!(done["exit_code"] == 0, "{kind} through the gateway: {done}");
        inside.extend(&numbers(done["stdout"].as_str().unwrap_or_default())?);
        let out = Command::new("python3")
            .arg(dir.join("probe.py"))
            .args([kind, peer, "direct", &times])
            .output()?;
        ensure!(out.status.success(), "{kind} directly: {}", String::from_utf8_lossy(&out.stderr));
        outside.extend(&numbers(std::str::from_utf8(&out.stdout)?)?);
    }
    Ok((inside, outside))
}

fn numbers(text: &str) -> Result<Vec<f64>> {
    serde_json::from_str(text).with_context(|| format!("not a list of numbers: {text}"))
}

/// A message to the built-in agent until its reply, when the model answers at once.
async fn turn(http: &mut Http, samples: usize) -> Result<Row> {
    let say = json!([{ "say": [{ "type": "text", "text": "Aye." }] }]);
    let provider =
        json!({ "name": "script", "protocol": "scripted", "script": { "turns": say, "repeat": true } });
    http.post(&format!("{SPACE}/providers"), provider).await?;
    let mut body = session("agent");
    body["agent"] = json!({ "kind": "computer-use", "provider": "script", "model": "scripted" });
    http.post(&format!("{SPACE}/sessions?wait=ready"), body).await?;
    let mut found = Samples::default();
    for n in 0..=samples {
        let since = Instant::now();
        let path = format!("{SPACE}/sessions/agent/messages?wait=done");
        let said = http.post(&path, json!({ "content": "Ready?" })).await?;
        ensure!(said["state"] == "done", "a turn failed: {said}");
        // The first starts the agent.
        if n > 0 {
            found.push(since.elapsed());
        }
    }
    delete(http, "agent").await?;
    Ok(Row::figure("turn of `computer-use` with a scripted model: message → done", "ms", found.quantiles()?))
}

/// A picture of a screen at rest, and of the whole screen when something has just changed on it.
async fn screen(wharf: &Wharf, samples: usize) -> Result<Vec<Row>> {
    let mut http = wharf.http().await?;
    let mut body = session("screen");
    body["image"] = json!("desktop");
    body["resources"]["memory_mib"] = json!(1024);
    http.post(&format!("{SPACE}/sessions?wait=ready"), body).await?;
    let (mut still, mut settled) = (Samples::default(), Samples::default());
    let path = format!("{SPACE}/sessions/screen/screenshot");
    http.bytes(&path).await?;
    for _ in 0..samples {
        let since = Instant::now();
        http.bytes(&path).await?;
        still.push(since.elapsed());
    }
    for _ in 0..samples.min(20) {
        let since = Instant::now();
        http.bytes(&format!("{path}?settle=50")).await?;
        settled.push(since.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    delete(&mut http, "screen").await?;
    Ok(vec![
        Row::figure("screenshot of 1280x800, PNG over HTTP", "ms", still.quantiles()?),
        Row::figure("screenshot once nothing has changed for 50 ms", "ms", settled.quantiles()?),
    ])
}
