//! A connection to the X server. Everything asked over it has one deadline: a server that hangs is an error, not a wait.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wharf_domain::Code;
use wharf_wire::host::desktop::Point;
use x11rb::connection::{Connection as _, RequestConnection as _};
use x11rb::protocol::damage::{self, ConnectionExt as _, ReportLevel};
use x11rb::protocol::xproto::{AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, ImageOrder};
use x11rb::protocol::{Event, xfixes};
use x11rb::rust_connection::{PollMode, RustConnection, Stream};
use x11rb::utils::RawFdContainer;

use crate::fault::{Fault, Result};

/// What is behind the windows: a quiet blue-grey.
const BACKGROUND: u32 = 0x0033_4155;
/// A blinking text cursor is no change worth waiting for.
const CARET_WIDTH: u16 = 4;

pub type Connection = RustConnection<Line>;

pub struct Screen {
    pub conn: Connection,
    pub root: u32,
    pub width: u16,
    pub height: u16,
}

/// The socket, and until when it may be waited on.
pub struct Line {
    socket: UnixStream,
    deadline: Cell<Instant>,
}

impl Line {
    /// Waits for the socket until `until`. False when nothing came.
    fn wait(&self, flags: PollFlags, until: Instant) -> io::Result<bool> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), flags)], Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(n) => return Ok(n > 0),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Stream for Line {
    fn poll(&self, mode: PollMode) -> io::Result<()> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, mode.readable());
        flags.set(PollFlags::OUT, mode.writable());
        if self.wait(flags, self.deadline.get())? {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the X server does not answer"))
    }

    fn read(&self, buffer: &mut [u8], _: &mut Vec<RawFdContainer>) -> io::Result<usize> {
        loop {
            match io::Read::read(&mut &self.socket, buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write(&self, bytes: &[u8], _: &mut Vec<RawFdContainer>) -> io::Result<usize> {
        loop {
            match rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// What went wrong with a request to the server.
pub fn failed(doing: &str, error: &(impl std::error::Error + ?Sized)) -> Fault {
    let text = error.to_string();
    let code = if text.contains("does not answer") { Code::Timeout } else { Code::Unavailable };
    Fault::new(code, format!("{doing}: the X server: {text}"))
}

impl Screen {
    /// Connects; all that follows must be over within `limit`.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self> {
        let socket = UnixStream::connect(path).map_err(|e| failed("connecting", &e))?;
        socket.set_nonblocking(true).map_err(|e| failed("connecting", &e))?;
        let line = Line { socket, deadline: Cell::new(Instant::now() + limit) };
        let conn = RustConnection::connect_to_stream(line, 0).map_err(|e| failed("connecting", &e))?;
        let setup = conn.setup();
        let (root, width, height, depth) = match setup.roots.first() {
            Some(r) => (r.root, r.width_in_pixels, r.height_in_pixels, r.root_depth),
            None => return Err(Fault::new(Code::Unsupported, "the X server has no screen")),
        };
        let is_plain = setup.image_byte_order == ImageOrder::LSB_FIRST
            && setup.pixmap_formats.iter().any(|f| f.depth == depth && f.bits_per_pixel == 32);
        if depth != 24 || !is_plain {
            return Err(Fault::new(Code::Unsupported, "the screen is not one of 24 bits in 32"));
        }
        Ok(Self { conn, root, width, height })
    }

    pub fn has(&self, extension: &'static str) -> Result<()> {
        match self.conn.extension_information(extension) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                Err(Fault::new(Code::Unsupported, format!("the X server has no extension {extension}")))
            }
            Err(e) => Err(failed("asking for extensions", &e)),
        }
    }

    pub fn pointer(&self) -> Result<Point> {
        let query = || self.conn.query_pointer(self.root)?.reply();
        let at = query().map_err(|e| failed("asking for the pointer", &e))?;
        Ok(Point { x: at.root_x.into(), y: at.root_y.into() })
    }

    /// Everything asked so far was done when this returns.
    pub fn sync(&self) -> Result<()> {
        let ask = || self.conn.get_input_focus()?.reply();
        ask().map(drop).map_err(|e| failed("waiting", &e))
    }

    pub fn paint_background(&self) -> Result<()> {
        let paint = || {
            let plain = ChangeWindowAttributesAux::new().background_pixel(BACKGROUND);
            self.conn.change_window_attributes(self.root, &plain)?;
            self.conn.clear_area(false, self.root, 0, 0, 0, 0).map(drop)
        };
        paint().map_err(|e: x11rb::errors::ConnectionError| failed("painting the background", &e))?;
        self.sync()
    }

    /// Waits until somebody manages windows.
    pub fn wait_for_manager(&self) -> Result<()> {
        let ask = || {
            let atom = self.conn.intern_atom(false, b"_NET_SUPPORTING_WM_CHECK")?.reply()?.atom;
            loop {
                let window =
                    self.conn.get_property(false, self.root, atom, AtomEnum::WINDOW, 0, 1)?.reply()?;
                if window.value_len > 0 || Instant::now() >= self.conn.stream().deadline.get() {
                    return Ok::<_, x11rb::errors::ReplyError>(());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        ask().map_err(|e| failed("waiting for the window manager", &e))
    }

    /// Waits until nothing on the screen has changed for `quiet`, at most for `limit`. False when it never was quiet.
    pub fn settle(&self, quiet: Duration, limit: Duration) -> Result<bool> {
        self.has(damage::X11_EXTENSION_NAME)?;
        self.has(xfixes::X11_EXTENSION_NAME)?;
        let watch = || {
            self.conn.damage_query_version(1, 1)?.reply()?;
            let id = self.conn.generate_id()?;
            self.conn.damage_create(id, self.root, ReportLevel::RAW_RECTANGLES)?.check()?;
            Ok::<_, x11rb::errors::ReplyOrIdError>(())
        };
        watch().map_err(|e| failed("watching the screen", &e))?;
        let end = Instant::now() + limit;
        let mut still = Instant::now() + quiet;
        loop {
            // Whatever has come is read before the clock is looked at.
            let mut changed = false;
            while let Some(event) = self.conn.poll_for_event().map_err(|e| failed("watching", &e))? {
                if let Event::DamageNotify(damage) = event {
                    changed |= damage.area.width > CARET_WIDTH;
                }
            }
            let now = Instant::now();
            if changed {
                still = now + quiet;
            }
            if now >= still || now >= end {
                return Ok(now >= still);
            }
            self.conn
                .stream()
                .wait(PollFlags::IN, still.min(end))
                .map_err(|e| failed("watching the screen", &e))?;
        }
    }
}
