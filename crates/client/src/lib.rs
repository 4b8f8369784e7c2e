//! A typed client of Wharf's HTTP API.
//!
//! It knows what a caller should not have to: that a problem has a code, that a read may be repeated and a POST carries
//! a key so that it may be too, that a login renews itself, that a broken event stream goes on where it was. It keeps
//! nothing on disk and prints nothing.
//!
//! ```no_run
//! # async fn f() -> wharf_client::Result<()> {
//! use wharf_client::{Client, Credential};
//! let client = Client::builder("http://127.0.0.1:7878").credential(Credential::token("wharf_…")).build()?;
//! let sessions: Vec<wharf_wire::api::Session> = client.space("lab").sessions().list().take(None).await?.0;
//! # Ok(()) }
//! ```

pub mod api;
pub mod call;
pub mod client;
pub mod credential;
pub mod error;
pub mod page;
pub mod sse;
pub mod stream;
pub mod terminal;
pub mod tunnel;

pub use api::{Crud, FileTarget, ScreenshotOptions, SessionApi, SpaceApi};
pub use call::Call;
pub use client::{Builder, Client, Patience, base_url};
pub use credential::{Credential, Login, TokenSource};
pub use error::{Error, Problem, Result};
pub use page::{List, Page};
pub use reqwest::{Body, Method, Response, StatusCode, header};
pub use sse::Frame;
pub use stream::EventStream;
pub use terminal::{Terminal, TerminalEvent};
pub use tunnel::{Tunnel, TunnelReader, TunnelWriter};
