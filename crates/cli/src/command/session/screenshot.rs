//! `wharf session screenshot`: a picture of a session's screen, into a file or to stdout.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use wharf_client::ScreenshotOptions;

use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::note;

/// Take a picture of a session's screen
///
/// A PNG of the desktop, into SESSION.png here unless told otherwise; `-o -` writes it to stdout. The session's image must
/// have a desktop (image desktop has); a closed session is restored first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf session screenshot demo
  wharf session screenshot demo --file - | display
  wharf session screenshot demo --region 0,0,640,400 --scale 2 --file corner.png
  wharf session screenshot demo --settle 500        when nothing has moved for half a second")]
pub struct Screenshot {
    #[arg(add = crate::complete::sessions())]
    session: String,
    /// Where to put it; `-` is stdout. SESSION.png when absent
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A part of the screen
    #[arg(long, value_name = "X,Y,WIDTH,HEIGHT")]
    region: Option<String>,
    /// Larger or smaller: 0.1 to 8
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f32>,
    /// Wait until nothing has changed for so many milliseconds
    #[arg(long, value_name = "MS")]
    settle: Option<u32>,
    /// Leave the pointer out
    #[arg(long)]
    no_cursor: bool,
}

impl Screenshot {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let file = self.file.unwrap_or_else(|| PathBuf::from(format!("{}.png", self.session)));
        let pipe = file.as_os_str() == "-";
        if pipe && std::io::stdout().is_terminal() {
            return Err(Refusal::usage(
                "a picture is no text for a terminal",
                "name a file with --file, or redirect stdout",
            )
            .into());
        }
        let options = ScreenshotOptions {
            region: self.region,
            scale: self.scale,
            settle: self.settle,
            no_cursor: self.no_cursor,
        };
        let png = ctx.session(&self.session)?.screenshot(&options).await?;
        if pipe {
            let mut out = std::io::stdout().lock();
            return out.write_all(&png).and_then(|()| out.flush()).context("cannot write to stdout");
        }
        std::fs::write(&file, &png).with_context(|| format!("cannot write {}", file.display()))?;
        note(format!("{}: {} bytes", file.display(), png.len()));
        Ok(())
    }
}
