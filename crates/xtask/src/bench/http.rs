//! One kept-alive HTTP/1.1 connection, so that a sample measures the server and not a client's pool.

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;

pub struct Http {
    address: String,
    token: Option<String>,
    sender: SendRequest<Full<Bytes>>,
}

impl Http {
    pub async fn connect(address: &str, token: Option<String>) -> Result<Self> {
        let stream =
            tokio::net::TcpStream::connect(address).await.with_context(|| format!("connect {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { address: address.to_owned(), token, sender })
    }

    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.address);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let bytes = match body {
            Some(v) => {
                request = request.header("content-type", "application/json");
                Bytes::from(serde_json::to_vec(v)?)
            }
            None => Bytes::new(),
        };
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.body(Full::new(bytes))?).await?)
    }

    /// Sends and reads the whole answer; anything but 2xx is an error that shows it.
    async fn whole(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Bytes> {
        let shown = format!("{method} {path}");
        let response = self.send(method, path, body).await.with_context(|| shown.clone())?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{shown}: {status}: {}", String::from_utf8_lossy(&bytes));
        }
        Ok(bytes)
    }

    pub async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let bytes = self.whole(method, path, body).await?;
        if bytes.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(&bytes).with_context(|| path.to_owned())
        }
    }

    /// What is no JSON.
    pub async fn bytes(&mut self, path: &str) -> Result<Bytes> {
        self.whole(Method::GET, path, None).await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> Result<Value> {
        self.call(Method::POST, path, Some(&body)).await
    }

    pub async fn get(&mut self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }
}

/// Reads server-sent events from a response one by one.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    pub fn new(response: Response<Incoming>) -> Result<Self> {
        if !response.status().is_success() {
            bail!("event stream: {}", response.status());
        }
        Ok(Self { body: response.into_body(), buffer: Vec::new() })
    }

    /// The `event:` and `data:` of the next event; comments are passed over.
    pub async fn next(&mut self) -> Result<(String, Value)> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let raw: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = String::from_utf8(raw)?;
                let field = |key: &str| {
                    text.lines()
                        .filter_map(|l| l.strip_prefix(key))
                        .map(str::trim_start)
                        .collect::<Vec<_>>()
                        .join("\n")
                };
                let data = field("data:");
                if !data.is_empty() {
                    return Ok((field("event:"), serde_json::from_str(&data)?));
                }
            }
            let frame = self.body.frame().await.context("the event stream ended")??;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}
