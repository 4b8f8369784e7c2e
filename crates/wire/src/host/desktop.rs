//! The desktop of a session: its screen as an image, the hands at it, and what VNC viewers see.
//!
//! Coordinates are pixels of the screen from its upper left corner. A batch of actions is checked whole before the first of
//! them is done. The same endpoints are served to the session's own processes on the socket [`DESKTOP_SOCKET`]:
//! whatever runs there may use the screen anyway.

use serde::{Deserialize, Serialize};

/// The protocol token of `GET /desktop` with `Connection: upgrade`; then both sides speak RFB (RFC 6143).
pub const DESKTOP_PROTOCOL: &str = "wharf-rfb";
/// Where the session's own processes find the desktop's endpoints, and none but them.
pub const DESKTOP_SOCKET: &str = "/run/wharf/desktop.sock";
/// The environment variable of a session that says how large its screen is: `1280x800` or `1280x800@96` with dots per inch.
pub const SIZE_VARIABLE: &str = "WHARF_DESKTOP";
/// Media type of a screenshot.
pub const PNG: &str = "image/png";

/// The screen nobody chose.
pub const DEFAULT_SIZE: Size = Size { width: 1280, height: 800 };
pub const DEFAULT_DPI: u16 = 96;
/// Each side of a screen, and of a scaled screenshot, in pixels.
pub const SIDE_MIN: u16 = 16;
pub const SIDE_MAX: u16 = 4096;
/// Actions of one batch.
pub const ACTIONS: usize = 100;
/// Characters of one `type` action.
pub const TYPE_CHARS: usize = 10_000;
/// Points of one `drag` action.
pub const DRAG_POINTS: usize = 256;
/// Clicks of a wheel, or of a button, or strokes of a key, in one action.
pub const REPEAT: u16 = 100;
/// Milliseconds all waits and holds of a batch take together.
pub const BATCH_MS: u32 = 120_000;
/// Milliseconds a screenshot may wait for the screen to become quiet.
pub const SETTLE_MAX_MS: u32 = 30_000;
/// What a screenshot that waits for quiet waits at the most when nothing else is said.
pub const SETTLE_LIMIT_MS: u32 = 3_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    pub width: u16,
    pub height: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    pub x: i32,
    pub y: i32,
}

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    pub x: u16,
    pub y: u16,
    pub width: u16,
    pub height: u16,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    /// `1280x800`.
    fn from_str(text: &str) -> Result<Self, String> {
        let side = |side: &str| {
            side.parse::<u16>()
                .ok()
                .filter(|n| (SIDE_MIN..=SIDE_MAX).contains(n) && side.bytes().all(|b| b.is_ascii_digit()))
        };
        text.split_once('x').and_then(|(w, h)| Some(Self { width: side(w)?, height: side(h)? })).ok_or_else(
            || format!("{text:?} is not a size: WIDTHxHEIGHT, each {SIDE_MIN} to {SIDE_MAX}, as in 1280x800"),
        )
    }
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{},{},{}", self.x, self.y, self.width, self.height)
    }
}

impl std::str::FromStr for Region {
    type Err = String;

    /// `x,y,width,height`.
    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            |part: &str| part.parse::<u16>().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()));
        let parts: Vec<Option<u16>> = text.split(',').map(number).collect();
        match parts[..] {
            [Some(x), Some(y), Some(width @ 1..), Some(height @ 1..)] => Ok(Self { x, y, width, height }),
            _ => Err(format!("{text:?} is not a region: x,y,width,height in pixels, as in 0,0,640,400")),
        }
    }
}

/// `GET /desktop` without an upgrade. Starts nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesktopInfo {
    /// What `$DISPLAY` is for programs of the session.
    pub display: String,
    pub width: u16,
    pub height: u16,
    pub dpi: u16,
    /// Whether the X server is up; it starts with the first use.
    pub running: bool,
    /// VNC viewers at this moment.
    pub viewers: u32,
    /// Where the pointer is, when the X server is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<Point>,
}

/// What a viewer of `GET /desktop?mode=` may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewMode {
    /// Look and act.
    #[default]
    Control,
    /// Look only: keys, pointer and clipboard of the viewer are passed over.
    View,
}

impl ViewMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::View => "view",
        }
    }
}

/// `GET /screenshot`: a PNG of the screen. In the query: `region=x,y,width,height`, `size=WIDTHxHEIGHT` or `scale=0.5`,
/// `settle=MS`, `settle_limit=MS`, `cursor=false`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Screenshot {
    /// The whole screen when absent.
    pub region: Option<Region>,
    /// Exactly this large, whatever the region's proportions. Not together with `scale`.
    pub size: Option<Size>,
    /// 0.1 to 8.
    pub scale: Option<f32>,
    /// Milliseconds without a change before the picture is taken; not waited for when absent.
    pub settle_ms: Option<u32>,
    /// Milliseconds after which it is taken although the screen is not quiet; [`SETTLE_LIMIT_MS`] when absent.
    pub settle_limit_ms: Option<u32>,
    /// Leaves the pointer out of the picture.
    pub no_cursor: bool,
}

pub const SCALE_MIN: f32 = 0.1;
pub const SCALE_MAX: f32 = 8.0;

/// `POST /input`: actions, done in their order. Two batches never mix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRequest {
    pub actions: Vec<Action>,
}

/// Answer to `POST /input`, when all actions were done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputDone {
    /// Where the pointer is now.
    pub pointer: Point,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Button {
    #[default]
    Left,
    Middle,
    Right,
    Back,
    Forward,
}

/// One thing done with pointer or keyboard.
///
/// A chord is keys joined by `+`: `ctrl+shift+t`, `Return`, `alt+F4`, `é`. Names are those of X11 (`Page_Down`, `BackSpace`,
/// `KP_Enter`), the usual short ones (`enter`, `esc`, `pgdn`, `cmd`), `U20AC` or a single character; capitals matter in
/// single characters only. `at` absent: where the pointer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    Move {
        to: Point,
    },
    Click {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Point>,
        #[serde(default)]
        button: Button,
        /// 2 is a double click.
        #[serde(default = "once")]
        count: u16,
        /// A chord held meanwhile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keys: Option<String>,
    },
    ButtonDown {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Point>,
        #[serde(default)]
        button: Button,
    },
    ButtonUp {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Point>,
        #[serde(default)]
        button: Button,
    },
    /// Presses at the first point, moves along the others, lets go at the last.
    Drag {
        path: Vec<Point>,
        #[serde(default)]
        button: Button,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keys: Option<String>,
    },
    /// Clicks of the wheel: `dy` downwards, `dx` to the right.
    Scroll {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Point>,
        #[serde(default)]
        dx: i16,
        #[serde(default)]
        dy: i16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keys: Option<String>,
    },
    /// Strikes chords, several separated by spaces.
    Key {
        keys: String,
        #[serde(default = "once")]
        count: u16,
    },
    KeyDown {
        keys: String,
    },
    KeyUp {
        keys: String,
    },
    /// Holds a chord for a while.
    HoldKey {
        keys: String,
        ms: u32,
    },
    /// Types text as it is, whatever the alphabet; a line break is Return, a tab is Tab.
    Type {
        text: String,
    },
    Wait {
        ms: u32,
    },
}

const fn once() -> u16 {
    1
}
