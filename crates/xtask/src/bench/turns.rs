//! Message to first event, beside a raw loop on the same disk: HTTP post, one PostgreSQL commit, one round trip on
//! a unix socket, one server-sent event.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::http::{Events, Http};
use super::report::{Row, Samples};
use super::sessions::{delete, make};
use super::wharf::{SPACE, Wharf};

pub const ROW: &str = "message";

pub async fn rows(wharf: &Wharf, dir: &Path, samples: usize) -> Result<Vec<Row>> {
    let (first, output) = ours(wharf, samples).await?;
    let peer = raw_loop(dir, samples).await?;
    let name = "raw loop";
    Ok(vec![
        Row::against(
            "message → first event of a `shell` turn at an SSE subscriber",
            &first,
            name,
            &peer,
            3.0,
            None,
        )?,
        Row::figure("message → first output of the script", "ms", output.quantiles()?),
    ])
}

async fn ours(wharf: &Wharf, samples: usize) -> Result<(Samples, Samples)> {
    let (mut http, mut stream) = (wharf.http().await?, wharf.http().await?);
    make(&mut http, "turns").await?;
    let path = format!("{SPACE}/sessions/turns/events");
    let mut events = Events::new(stream.send(Method::GET, &path, None).await?)?;
    let (mut first, mut output) = (Samples::default(), Samples::default());
    for i in 0..samples {
        let text = format!("echo output-{i}");
        let body = json!({ "content": [{ "type": "text", "text": text }] });
        let since = Instant::now();
        http.post(&format!("{SPACE}/sessions/turns/messages"), body).await?;
        let (mut started, mut said) = (false, false);
        loop {
            let (kind, data) = events.next().await?;
            if kind == "turn.started" {
                first.push(since.elapsed());
                started = true;
            }
            if kind == "turn.output" && !said {
                output.push(since.elapsed());
                said = true;
            }
            if kind == "turn.done" {
                break;
            }
            ensure!(kind != "turn.failed", "a turn failed: {data}");
        }
        ensure!(started && said, "a turn ended without its events");
    }
    delete(&mut http, "turns").await?;
    Ok((first, output))
}

/// A PostgreSQL of its own with stock settings, spoken to by one psql that stays.
struct Postgres {
    server: Child,
    psql: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Postgres {
    fn start(dir: &Path) -> Result<Self> {
        let bin = newest_postgres()?;
        let dir = dir.join("peer-postgres");
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let data = dir.join("data");
        let user = "nobody";
        ensure!(Command::new("chown").arg(user).arg(&dir).status()?.success(), "chown");
        let as_user = |program: &Path| {
            let mut c = Command::new("setpriv");
            c.args(["--reuid", user, "--regid", "nogroup", "--clear-groups", "--"])
                .arg(program)
                .env("HOME", &dir);
            c.current_dir(&dir);
            c
        };
        let init = as_user(&bin.join("initdb"))
            .args(["--auth", "trust", "--username", "peer", "--pgdata"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()?;
        ensure!(init.success(), "initdb failed");
        let server = as_user(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c"])
            .arg(format!("unix_socket_directories={}", dir.display()))
            .stderr(std::fs::File::create(dir.join("log"))?)
            .spawn()?;
        let since = Instant::now();
        loop {
            let probe = Command::new("psql")
                .args(["-qAt", "-U", "peer", "-d", "postgres", "-c", "select 1", "-h"])
                .arg(&dir)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            if probe.success() {
                break;
            }
            ensure!(since.elapsed().as_secs() < 20, "the peer's PostgreSQL does not start");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let mut psql = Command::new("psql")
            .args(["-qAt", "-U", "peer", "-d", "postgres", "-h"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = psql.stdin.take().context("psql's stdin")?;
        let stdout = BufReader::new(psql.stdout.take().context("psql's stdout")?);
        let mut this = Self { server, psql, stdin, stdout };
        this.ask("create table log (id bigserial primary key, body text); select 1;")?;
        Ok(this)
    }

    fn ask(&mut self, sql: &str) -> Result<()> {
        writeln!(self.stdin, "{sql}")?;
        self.stdin.flush()?;
        let mut line = String::new();
        ensure!(self.stdout.read_line(&mut line)? > 0, "psql ended");
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.ask("insert into log (body) values ('a message') returning id;")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
        let _ = Command::new("kill").args(["-INT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

fn newest_postgres() -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .context("PostgreSQL is not installed")?
        .filter_map(|e| Some(e.ok()?.path().join("bin")))
        .filter(|p| p.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().context("no PostgreSQL binaries")
}

type Part = Result<Frame<Bytes>, std::convert::Infallible>;
type Stream = StreamBody<tokio_stream::wrappers::ReceiverStream<Part>>;

struct Raw {
    postgres: Mutex<Postgres>,
    unix: tokio::sync::Mutex<UnixStream>,
    subscriber: Mutex<Option<mpsc::Sender<Part>>>,
}

async fn serve(raw: Arc<Raw>, request: Request<Incoming>) -> Result<Response<Stream>> {
    let (tx, rx) = mpsc::channel(16);
    if request.method() == Method::GET {
        *raw.subscriber.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = Some(tx);
    } else {
        tokio::task::block_in_place(|| {
            raw.postgres.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.commit()
        })?;
        let mut unix = raw.unix.lock().await;
        unix.write_all(b"x").await?;
        unix.read_u8().await?;
        let to = raw
            .subscriber
            .lock()
            .map_err(|_| anyhow::anyhow!("poisoned"))?
            .clone()
            .context("a subscriber")?;
        to.send(Ok(Frame::data(Bytes::from_static(b"event: done\ndata: {}\n\n")))).await?;
    }
    Ok(Response::new(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(rx))))
}

async fn raw_loop(dir: &Path, samples: usize) -> Result<Samples> {
    let socket = dir.join("echo.sock");
    let echo = UnixListener::bind(&socket)?;
    tokio::spawn(async move {
        if let Ok((mut s, _)) = echo.accept().await {
            while let Ok(b) = s.read_u8().await {
                if s.write_u8(b).await.is_err() {
                    break;
                }
            }
        }
    });
    let raw = Arc::new(Raw {
        postgres: Mutex::new(Postgres::start(dir)?),
        unix: tokio::sync::Mutex::new(UnixStream::connect(&socket).await?),
        subscriber: Mutex::new(None),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let served = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let raw = raw.clone();
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |r| serve(raw.clone(), r));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    let (mut http, mut stream) = (Http::connect(&address, None).await?, Http::connect(&address, None).await?);
    let mut events = Events::new(stream.send(Method::GET, "/events", None).await?)?;
    let mut out = Samples::default();
    for _ in 0..samples {
        let since = Instant::now();
        let post = http.post("/", json!({}));
        let (answer, event) = tokio::join!(post, events.next());
        answer?;
        event?;
        out.push(since.elapsed());
    }
    served.abort();
    Ok(out)
}
