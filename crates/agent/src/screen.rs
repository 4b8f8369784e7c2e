//! The session's screen, as the agent reaches it: the desktop's endpoints on a socket of the session's own processes.
//!
//! A trait, because tests have no screen.

use std::path::PathBuf;

use async_trait::async_trait;
use hyper::Method;
use serde_json::Value;
use wharf_wire::host::desktop::{
    Action, DESKTOP_SOCKET, DesktopInfo, InputDone, InputRequest, Point, Region, Size,
};

use crate::http::Gateway;

/// Silence after which a screenshot is taken, in milliseconds: longer than a caret blinks would never be reached.
const SETTLE_MS: u32 = 120;
/// Bytes of a screenshot.
const PNG_BYTES: usize = 32 * 1024 * 1024;

/// Positions are pixels of the real screen.
#[async_trait]
pub trait Screen: Send + Sync {
    /// How large it is. `Err`: there is none.
    async fn size(&self) -> Result<Size, String>;
    /// A PNG of the screen or a part of it, exactly `size` large, once the screen is quiet.
    async fn shot(&self, region: Option<Region>, size: Size) -> Result<Vec<u8>, String>;
    /// Does these things in their order; where the pointer is then.
    async fn act(&self, actions: Vec<Action>) -> Result<Point, String>;
    async fn pointer(&self) -> Result<Point, String>;
}

/// The desktop of this session.
pub struct Desktop(Gateway);

impl Desktop {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self(Gateway::new(socket))
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>, String> {
        let mut answer = self.0.send(method, path, &[], body).await?;
        let body = answer.bytes(PNG_BYTES).await?;
        if answer.status == 200 {
            return Ok(body);
        }
        let why = serde_json::from_slice::<Value>(&body).ok();
        let why = why.as_ref().and_then(|v| v.get("detail")).and_then(Value::as_str);
        Err(why.map_or_else(|| format!("the desktop answered HTTP {}", answer.status), str::to_owned))
    }

    async fn info(&self) -> Result<DesktopInfo, String> {
        let body = self.ask(Method::GET, "/desktop", Vec::new()).await?;
        serde_json::from_slice(&body).map_err(|e| format!("the desktop's answer is not understood: {e}"))
    }
}

impl Default for Desktop {
    fn default() -> Self {
        Self::new(DESKTOP_SOCKET)
    }
}

#[async_trait]
impl Screen for Desktop {
    async fn size(&self) -> Result<Size, String> {
        if !self.0.socket().exists() {
            return Err("this session has no desktop: its image comes without one".into());
        }
        self.info().await.map(|i| Size { width: i.width, height: i.height })
    }

    async fn shot(&self, region: Option<Region>, size: Size) -> Result<Vec<u8>, String> {
        let region = region.map(|r| format!("&region={r}")).unwrap_or_default();
        let path = format!("/screenshot?size={size}&settle={SETTLE_MS}{region}");
        self.ask(Method::GET, &path, Vec::new()).await
    }

    async fn act(&self, actions: Vec<Action>) -> Result<Point, String> {
        let body = serde_json::to_vec(&InputRequest { actions }).map_err(|e| e.to_string())?;
        let done = self.ask(Method::POST, "/input", body).await?;
        serde_json::from_slice::<InputDone>(&done)
            .map(|d| d.pointer)
            .map_err(|e| format!("the desktop's answer is not understood: {e}"))
    }

    async fn pointer(&self) -> Result<Point, String> {
        // Moving it to where it is would start a desktop that does not run; asking does not.
        Ok(self.info().await?.pointer.unwrap_or(Point { x: 0, y: 0 }))
    }
}
