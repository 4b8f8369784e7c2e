//! The desktop of a session: an X server without a monitor, a window manager, and viewers over VNC.
//!
//! Nothing of it runs until it is used. The host listens where X programs look for `$DISPLAY`; the first connection,
//! its own or a program's, starts the X server, which takes the socket over (sd_listen_fds(3)), so the program just waits
//! a moment. A server that dies is started again by the next use. Everything runs as the agent and ends with the session.
//! Pictures and input go over an X connection of their own for each request: no program is started for them.

mod capture;
mod hands;
mod keymap;
mod keysyms;
mod plan;
mod resize;
mod routes;
mod screen;
mod server;
mod view;

#[cfg(test)]
mod tests;

pub use routes::{input, screenshot, show};

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use wharf_domain::Code;
use wharf_wire::host::Identity;
use wharf_wire::host::desktop::{DEFAULT_DPI, DEFAULT_SIZE, SIZE_VARIABLE, Size};

use crate::fault::{Fault, Result};
use crate::host::Host;
use hands::Hands;

/// How long a use waits for the X server and the window manager.
const COMES_UP: Duration = Duration::from_secs(30);
/// Where X programs look for a display's socket.
const SOCKETS: &str = "/tmp/.X11-unix";

/// The desktop, if the session's image has one. Known once the session has a name.
#[derive(Default)]
pub struct Desktop(OnceLock<Arc<Display>>);

/// The one display.
pub struct Display {
    number: u32,
    /// The X server's listening socket.
    socket: PathBuf,
    setting: Result<Setting, String>,
    phase: watch::Sender<Phase>,
    wanted: Notify,
    /// Held by the batch of actions that is being done.
    hands: Arc<Mutex<Hands>>,
    viewers: Arc<AtomicU32>,
}

/// What the session asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting {
    size: Size,
    dpi: u16,
}

#[derive(Clone, Debug)]
struct Phase {
    /// How often the server was started.
    attempt: u64,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Down,
    Starting,
    Up,
    /// The last attempt came to nothing, and why.
    Failed(Arc<str>),
}

impl Setting {
    /// From the session's environment; what is wrong with it otherwise.
    fn of(identity: &Identity) -> Result<Self, String> {
        match identity.env.0.get(SIZE_VARIABLE) {
            None => Ok(Self { size: DEFAULT_SIZE, dpi: DEFAULT_DPI }),
            Some(text) => Self::parse(text),
        }
    }

    /// `1280x800` or `1280x800@96`.
    fn parse(text: &str) -> Result<Self, String> {
        let (size, dpi) = text.split_once('@').unwrap_or((text, ""));
        let size: Size = size.parse()?;
        if size.width < 320 || size.height < 240 {
            return Err(format!("a screen of {size} is too small: at least 320x240"));
        }
        let dpi = match dpi {
            "" if !text.contains('@') => DEFAULT_DPI,
            dpi => dpi
                .parse()
                .ok()
                .filter(|n| (50..=400).contains(n))
                .ok_or_else(|| format!("{dpi:?} is not a number of dots per inch: 50 to 400"))?,
        };
        Ok(Self { size, dpi })
    }
}

impl Desktop {
    /// Gets ready for the session's first use of its screen. Nothing where the image has no X server.
    ///
    /// Outside of a jail the place of X sockets is the machine's: there only a session that asks for a screen gets one.
    pub fn open(host: &Arc<Host>, identity: &Identity) {
        // The first process of a jail has it for itself, also where it may not be root.
        let whole = host.root.outside_path() == Path::new("/") && rustix::process::getpid().is_init();
        if !program(host, "Xvfb") || !(whole || identity.env.0.contains_key(SIZE_VARIABLE)) {
            return;
        }
        let Ok((number, socket, listener)) = server::bind(whole) else { return };
        let display = Arc::new(Display {
            number,
            socket,
            setting: Setting::of(identity),
            phase: watch::Sender::new(Phase { attempt: 0, state: State::Down }),
            wanted: Notify::new(),
            hands: Arc::default(),
            viewers: Arc::default(),
        });
        if host.desktop.0.set(Arc::clone(&display)).is_ok() {
            tokio::spawn(server::keep(Arc::clone(host), display, listener));
            routes::serve_inside(host, whole);
        }
    }

    /// What `$DISPLAY` is, where there is one.
    pub fn name(&self) -> Option<String> {
        self.0.get().map(|d| d.name())
    }

    /// Removes what other programs of a machine would stumble over; in a jail everything goes anyway.
    pub fn close(&self) {
        if let Some(display) = self.0.get() {
            server::unbind(display);
        }
    }

    fn get(&self) -> Result<Arc<Display>> {
        self.0.get().cloned().ok_or_else(|| {
            Fault::new(
                Code::Unsupported,
                "the session's image has no desktop (there is no Xvfb in it); use the image desktop",
            )
        })
    }

    /// The display, up.
    async fn up(&self) -> Result<Arc<Display>> {
        let display = self.get()?;
        display.up().await?;
        Ok(display)
    }
}

impl Display {
    fn name(&self) -> String {
        format!(":{}", self.number)
    }

    /// A session that asked for a screen that cannot be has none, and is told when it wants to use it.
    fn setting(&self) -> Result<Setting> {
        self.setting.clone().map_err(|e| Fault::invalid(&format!("env.{SIZE_VARIABLE}"), e))
    }

    fn is_up(&self) -> bool {
        self.phase.borrow().state == State::Up
    }

    /// Waits until the screen can be used; starts the server when it has to.
    async fn up(&self) -> Result<()> {
        let mut phase = self.phase.subscribe();
        let seen = {
            let now = phase.borrow_and_update();
            match now.state {
                State::Up => return Ok(()),
                State::Starting => now.attempt.saturating_sub(1),
                State::Down | State::Failed(_) => now.attempt,
            }
        };
        self.wanted.notify_one();
        let over = phase
            .wait_for(|p| p.state == State::Up || (p.attempt > seen && matches!(p.state, State::Failed(_))));
        match tokio::time::timeout(COMES_UP, over).await {
            Ok(Ok(phase)) => match &phase.state {
                State::Failed(why) => {
                    Err(Fault::new(Code::Unavailable, format!("the desktop does not start: {why}")))
                }
                _ => Ok(()),
            },
            Ok(Err(_)) => Err(Fault::new(Code::Unavailable, "the session is ending")),
            Err(_) => Err(Fault::new(
                Code::Timeout,
                format!("the desktop did not come up within {} s", COMES_UP.as_secs()),
            )),
        }
    }
}

/// Whether the session has a program. A test root has none of its own; those of the machine run there.
fn program(host: &Host, name: &str) -> bool {
    ["usr/bin", "usr/local/bin"].iter().any(|dir| {
        host.root.outside_path().join(dir).join(name).exists() || Path::new("/").join(dir).join(name).exists()
    })
}
