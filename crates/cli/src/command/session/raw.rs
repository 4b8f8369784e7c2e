//! The terminal in raw mode, put back whatever happens.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use rustix::termios::{self, OptionalActions, Termios};

/// While this lives, keys come one by one and unchanged.
pub struct Raw {
    before: Termios,
}

impl Raw {
    pub fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).context("this is not a terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Flush, &raw)
            .context("the terminal cannot be set")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), OptionalActions::Drain, &self.before);
    }
}

/// Columns and rows of the terminal; 80 by 24 when it does not say.
pub fn size() -> (u16, u16) {
    match termios::tcgetwinsize(std::io::stdin().as_fd()) {
        Ok(s) if s.ws_col > 0 && s.ws_row > 0 => (s.ws_col, s.ws_row),
        _ => (80, 24),
    }
}
