//! Pointer and keyboard, over the server's test extension (XTEST): what they do, programs cannot tell from a person's.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use wharf_domain::Code;
use wharf_wire::host::desktop::{BATCH_MS, Point};
use x11rb::connection::Connection as _;
use x11rb::protocol::xproto::{self, ConnectionExt as _};
use x11rb::protocol::xtest::{self, ConnectionExt as _};

use super::keymap::{Given, Key, Keymap};
use super::keysyms::SHIFT;
use super::plan::Step;
use super::screen::{Screen, failed};
use crate::fault::{Fault, Result};

/// The server's part of a batch besides the waits in it.
const WORK: Duration = Duration::from_secs(60);
/// Programs learn of a changed keyboard, and ask what it is, in this time.
const LEARN: Duration = Duration::from_millis(60);
/// Typed text is read in this time, before a key that was in it changes.
const READ: Duration = Duration::from_millis(300);
/// Between two letters.
const LETTER: Duration = Duration::from_millis(2);
/// A pause looks this often whether the caller is still there.
const LOOK: Duration = Duration::from_millis(50);

/// What is remembered from batch to batch.
#[derive(Default)]
pub struct Hands {
    given: Given,
}

struct Act<'a> {
    screen: &'a Screen,
    map: Keymap,
    given: &'a mut Given,
    gone: &'a AtomicBool,
    /// Pressed in this batch and not let go.
    down: Vec<(u8, u8)>,
}

impl Hands {
    /// The server is another.
    pub fn forget(&mut self) {
        self.given.forget();
    }

    /// Does the steps in order. A caller who goes away (`gone`) ends a batch early; what the batch holds down is let go.
    pub fn act(&mut self, socket: &Path, steps: &[Step], gone: &AtomicBool) -> Result<Point> {
        let screen = Screen::connect(socket, WORK + Duration::from_millis(BATCH_MS.into()))?;
        screen.has(xtest::X11_EXTENSION_NAME)?;
        let map = keymap(&screen)?;
        let mut act = Act { screen: &screen, map, given: &mut self.given, gone, down: Vec::new() };
        let mut done = Ok(());
        for step in steps {
            done = act.step(step);
            if done.is_err() {
                break;
            }
        }
        if done.is_err() {
            act.let_go();
        }
        done?;
        screen.sync()?;
        screen.pointer()
    }
}

fn keymap(screen: &Screen) -> Result<Keymap> {
    let setup = screen.conn.setup();
    let (first, last) = (setup.min_keycode, setup.max_keycode);
    let ask = || screen.conn.get_keyboard_mapping(first, last - first + 1)?.reply();
    let reply = ask().map_err(|e| failed("reading the keyboard", &e))?;
    Ok(Keymap::new(first, reply.keysyms_per_keycode, reply.keysyms))
}

impl Act<'_> {
    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Move(x, y) => self.fake(xproto::MOTION_NOTIFY_EVENT, 0, *x, *y),
            Step::Press(button) => self.press(xproto::BUTTON_PRESS_EVENT, *button),
            Step::Release(button) => self.press(xproto::BUTTON_RELEASE_EVENT, *button),
            Step::KeyDown(keys) => {
                for key in self.keys(keys)? {
                    self.press(xproto::KEY_PRESS_EVENT, key)?;
                }
                Ok(())
            }
            Step::KeyUp(keys) => {
                for key in self.keys(keys)?.into_iter().rev() {
                    self.press(xproto::KEY_RELEASE_EVENT, key)?;
                }
                Ok(())
            }
            Step::Type(keys) => self.type_keys(keys),
            Step::Pause(time) => self.pause(*time),
        }
    }

    fn fake(&self, kind: u8, detail: u8, x: i16, y: i16) -> Result<()> {
        let root = if kind == xproto::MOTION_NOTIFY_EVENT { self.screen.root } else { x11rb::NONE };
        let sent = self.screen.conn.xtest_fake_input(kind, detail, x11rb::CURRENT_TIME, root, x, y, 0);
        sent.map(drop).map_err(|e| failed("acting", &e))
    }

    fn press(&mut self, kind: u8, detail: u8) -> Result<()> {
        let release = match kind {
            xproto::KEY_PRESS_EVENT => Some(xproto::KEY_RELEASE_EVENT),
            xproto::BUTTON_PRESS_EVENT => Some(xproto::BUTTON_RELEASE_EVENT),
            _ => None,
        };
        match release {
            Some(release) => self.down.push((release, detail)),
            None => self.down.retain(|held| *held != (kind, detail)),
        }
        self.fake(kind, detail, 0, 0)
    }

    fn let_go(&mut self) {
        for (kind, detail) in std::mem::take(&mut self.down).into_iter().rev() {
            let _ = self.fake(kind, detail, 0, 0);
        }
        let _ = self.screen.sync();
    }

    fn pause(&self, time: Duration) -> Result<()> {
        self.screen.conn.flush().map_err(|e| failed("acting", &e))?;
        let until = Instant::now() + time;
        loop {
            if self.gone.load(Ordering::Relaxed) {
                return Err(Fault::new(Code::Unavailable, "whoever asked for this went away"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// Makes sure that keys can be made; answers how many of them.
    fn learn(&mut self, keys: &[u32]) -> Result<usize> {
        let (many, changes) = self.given.give(&mut self.map, keys);
        if changes.is_empty() {
            return Ok(many);
        }
        for (code, keysym) in changes {
            let sent = self.screen.conn.change_keyboard_mapping(1, code, 2, &[keysym, keysym]);
            sent.map(drop).map_err(|e| failed("changing the keyboard", &e))?;
        }
        self.screen.sync()?;
        self.pause(LEARN)?;
        Ok(many)
    }

    fn key(&self, keysym: u32) -> Result<Key> {
        self.map.find(keysym).ok_or_else(|| {
            Fault::new(Code::Unsupported, format!("the keyboard has no room for keysym {keysym:#x}"))
        })
    }

    /// Codes of a chord, shift among them where one of its keys wants it.
    fn keys(&mut self, keysyms: &[u32]) -> Result<Vec<u8>> {
        self.learn(keysyms)?;
        let keys = keysyms.iter().map(|k| self.key(*k)).collect::<Result<Vec<_>>>()?;
        let shift = self.key(SHIFT)?.code;
        let mut codes = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            if key.shift && !codes.contains(&shift) {
                codes.push(shift);
            }
            codes.push(key.code);
        }
        Ok(codes)
    }

    fn type_keys(&mut self, keysyms: &[u32]) -> Result<()> {
        let shift = self.key(SHIFT)?.code;
        let mut left = keysyms;
        while !left.is_empty() {
            let many = self.learn(left)?;
            if many == 0 {
                self.key(left[0])?;
            }
            let (now, later) = left.split_at(many.max(1));
            for keysym in now {
                let key = self.key(*keysym)?;
                if key.shift {
                    self.press(xproto::KEY_PRESS_EVENT, shift)?;
                }
                self.press(xproto::KEY_PRESS_EVENT, key.code)?;
                self.press(xproto::KEY_RELEASE_EVENT, key.code)?;
                if key.shift {
                    self.press(xproto::KEY_RELEASE_EVENT, shift)?;
                }
                self.pause(LETTER)?;
            }
            if !later.is_empty() {
                self.screen.sync()?;
                self.pause(READ)?;
            }
            left = later;
        }
        Ok(())
    }
}
