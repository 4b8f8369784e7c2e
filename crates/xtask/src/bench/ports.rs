//! A port of a session beside the same program on this machine's loopback: what the way in adds to a request, and how
//! many bytes go through it.
//!
//! There is no bar for either; the ratios are for those who compare. The peer is asked between our samples, so that both
//! see the same machine.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::json;

use super::http::Http;
use super::report::{Peer, Quantiles, Row, Samples};
use super::sessions::{delete, make};
use super::wharf::{SPACE, Wharf};

pub const ROW: &str = "port";

const NAME: &str = "ports";
/// Bytes of one download.
const DOWNLOAD: usize = 256 * 1024 * 1024;
const DOWNLOADS: usize = 3;
const PEER: &str = "the same program on loopback";

/// HTTP/1.1 with connections kept: `/` answers two bytes, `/large` as many as asked for.
const PROGRAM: &str = r"
import socket, sys, threading
piece = b'x' * 65536
def serve(c):
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    f = c.makefile('rb')
    while True:
        line = f.readline()
        if not line:
            return
        while f.readline() not in (b'\r\n', b''):
            pass
        large = line.startswith(b'GET /large')
        size = int(sys.argv[2]) if large else 2
        c.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n' % size + (b'' if large else b'ok'))
        sent = 0
        while large and sent < size:
            sent += c.send(piece[:size - sent])
s = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=128)
print(s.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
";

struct Outside {
    child: Child,
    address: String,
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outside {
    fn start() -> Result<Self> {
        use std::io::BufRead as _;
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM, "0", &DOWNLOAD.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("start the program outside: python3")?;
        let out = child.stdout.take().context("its output")?;
        let mut line = String::new();
        std::io::BufReader::new(out).read_line(&mut line)?;
        Ok(Self { child, address: format!("127.0.0.1:{}", line.trim()) })
    }
}

pub async fn rows(wharf: &Wharf, samples: usize) -> Result<Vec<Row>> {
    let outside = Outside::start()?;
    let mut http = wharf.http().await?;
    make(&mut http, NAME).await?;
    let port = 8000;
    let argv = json!(["python3", "-c", PROGRAM, port.to_string(), DOWNLOAD.to_string()]);
    let body = json!({ "argv": argv, "background": true });
    http.post(&format!("{SPACE}/sessions/{NAME}/exec"), body).await?;
    let at = format!("{SPACE}/sessions/{NAME}/ports/{port}");
    let mut peer = Http::connect(&outside.address, None).await?;
    let since = Instant::now();
    while get(&mut http, &format!("{at}/")).await.is_err() {
        ensure!(since.elapsed() < Duration::from_secs(20), "the program inside does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..samples {
        let since = Instant::now();
        ensure!(get(&mut http, &format!("{at}/")).await? == 2, "two bytes were expected");
        ours.push(since.elapsed());
        let since = Instant::now();
        ensure!(get(&mut peer, "/").await? == 2, "two bytes were expected");
        theirs.push(since.elapsed());
    }
    let (mut fast, mut direct) = (Vec::new(), Vec::new());
    for _ in 0..DOWNLOADS {
        fast.push(download(&mut http, &format!("{at}/large")).await?);
        direct.push(download(&mut peer, "/large").await?);
    }
    delete(&mut http, NAME).await?;
    Ok(vec![
        beside("request to a port → answer", "ms", ours.quantiles()?, theirs.quantiles()?),
        beside("download through a port", "MiB/s", middle(fast), middle(direct)),
    ])
}

fn beside(row: &str, unit: &'static str, ours: Quantiles, peer: Quantiles) -> Row {
    Row {
        peer: Some(Peer { name: PEER.to_owned(), p50: peer.p50, p99: peer.p99 }),
        ratio: Some(ours.p50 / peer.p50),
        ..Row::figure(row, unit, ours)
    }
}

/// The median, and the slowest.
fn middle(mut rates: Vec<f64>) -> Quantiles {
    rates.sort_by(f64::total_cmp);
    Quantiles { p50: rates[rates.len() / 2], p99: rates[0] }
}

/// Bytes of the answer.
async fn get(http: &mut Http, path: &str) -> Result<usize> {
    let response = http.send(Method::GET, path, None).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, hyper::body::Bytes::len);
    }
    ensure!(status.is_success(), "{path}: {status}");
    Ok(bytes)
}

/// MiB a second.
async fn download(http: &mut Http, path: &str) -> Result<f64> {
    let since = Instant::now();
    ensure!(get(http, path).await? == DOWNLOAD, "the download is not whole");
    Ok(DOWNLOAD as f64 / 1024.0 / 1024.0 / since.elapsed().as_secs_f64())
}
