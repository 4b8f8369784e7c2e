//! The tool `computer`: screen, pointer and keyboard, with the actions Anthropic documents for its computer-use tools.
//!
//! A picture follows every action that may change the screen, so that the model sees what it did without asking. It is taken
//! when the screen has settled, not after a fixed time.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wharf_wire::host::desktop::{Action, BATCH_MS, Button, Point, Region, Size};

use super::grid::Grid;
use super::{Outcome, Place, needed, text, whole};
use crate::block::Part;
use crate::images::Images;
use crate::model::traits::Pictures;
use crate::model::{BuiltIn, ToolDef};
use crate::screen::Screen;

pub const NAME: &str = "computer";

/// Longest wait, and longest hold of a key.
const DURATION_MAX: f64 = 300.0;
const REPEAT_MAX: i64 = 100;
const SCROLL_MAX: i64 = 100;
/// Characters of one call, and of one action.
const TYPE_CHARS_MAX: usize = 50_000;
const PIECE_CHARS: usize = 1000;

const ACTIONS: [&str; 17] = [
    "screenshot",
    "zoom",
    "left_click",
    "right_click",
    "middle_click",
    "double_click",
    "triple_click",
    "left_click_drag",
    "left_mouse_down",
    "left_mouse_up",
    "mouse_move",
    "cursor_position",
    "scroll",
    "type",
    "key",
    "hold_key",
    "wait",
];

pub struct Computer {
    screen: Arc<dyn Screen>,
    images: Arc<Images>,
    grid: Grid,
}

impl Computer {
    /// Asks how large the screen is, which starts the desktop.
    pub async fn start(place: &Place, pictures: Pictures) -> Result<Self, String> {
        let size = place.screen.size().await?;
        Ok(Self {
            screen: Arc::clone(&place.screen),
            images: Arc::clone(&place.images),
            grid: Grid::new((u32::from(size.width), u32::from(size.height)), pictures),
        })
    }

    pub fn definition(&self) -> ToolDef {
        let (width, height) = self.grid.seen;
        ToolDef {
            name: NAME.into(),
            description: format!(
                "Screen, pointer and keyboard of this computer. The screen is {width}x{height}; coordinates count from its top \
                 left corner. Take a screenshot first to see what is there. After an action that may change the screen a \
                 screenshot is given back. Click on the middle of things. `text` of clicks and scrolls names keys to hold, \
                 of `key` and `hold_key` the keys (`Return`, `ctrl+s`), of `type` what to type."
            ),
            schema: json!({
                "type": "object",
                "properties": {
                    "action": {"type": "string", "enum": ACTIONS},
                    "coordinate": {"type": "array", "items": {"type": "integer"}, "description": "[x, y]"},
                    "start_coordinate": {"type": "array", "items": {"type": "integer"},
                        "description": "[x, y] where `left_click_drag` begins"},
                    "region": {"type": "array", "items": {"type": "integer"},
                        "description": "[left, top, right, bottom] of what `zoom` shows larger"},
                    "text": {"type": "string"},
                    "repeat": {"type": "integer", "description": "How often `key` is pressed, up to 100"},
                    "scroll_direction": {"type": "string", "enum": ["up", "down", "left", "right"]},
                    "scroll_amount": {"type": "integer", "description": "Clicks of the wheel"},
                    "duration": {"type": "number", "description": "Seconds of `wait` and `hold_key`"}
                },
                "required": ["action"]
            }),
            built_in: Some(BuiltIn::Computer(width, height)),
        }
    }

    /// `more`: other actions of the same answer follow, and only what they leave is worth a picture.
    pub async fn run(&mut self, input: &Value, more: bool) -> Result<Outcome, String> {
        let action = needed(input, "action")?;
        let hold = text(input, "text").filter(|t| !t.is_empty()).map(str::to_owned);
        match action {
            "screenshot" => return self.shot().await,
            "zoom" => return self.zoom(input).await,
            "cursor_position" => {
                let (x, y) = self.grid.to_seen(self.screen.pointer().await.map_err(failed)?);
                return Ok(Outcome::text(format!("X={x}, Y={y}")));
            }
            "left_click" | "double_click" | "triple_click" | "right_click" | "middle_click" => {
                let button = match action {
                    "right_click" => Button::Right,
                    "middle_click" => Button::Middle,
                    _ => Button::Left,
                };
                let count = match action {
                    "double_click" => 2,
                    "triple_click" => 3,
                    _ => 1,
                };
                // `key` is what `computer_20250124` calls it.
                let keys = hold.or_else(|| text(input, "key").map(str::to_owned));
                let at = self.point(input, "coordinate")?;
                self.act(Action::Click { at, button, count, keys }).await?;
            }
            "left_click_drag" => {
                let from = self.point(input, "start_coordinate")?.ok_or("`start_coordinate` is required")?;
                let to = self.point(input, "coordinate")?.ok_or("`coordinate` is required")?;
                self.act(Action::Drag { path: vec![from, to], button: Button::Left, keys: hold }).await?;
            }
            "mouse_move" => {
                let to = self.point(input, "coordinate")?.ok_or("`coordinate` is required")?;
                self.act(Action::Move { to }).await?;
            }
            "left_mouse_down" => {
                let at = self.point(input, "coordinate")?;
                self.act(Action::ButtonDown { at, button: Button::Left }).await?;
            }
            "left_mouse_up" => {
                let at = self.point(input, "coordinate")?;
                self.act(Action::ButtonUp { at, button: Button::Left }).await?;
            }
            "scroll" => self.scroll(input, hold).await?,
            "type" => {
                for text in typed(needed(input, "text")?)? {
                    self.act(Action::Type { text }).await?;
                }
            }
            "key" => {
                let repeat = whole(input, "repeat")?.unwrap_or(1);
                if !(1..=REPEAT_MAX).contains(&repeat) {
                    return Err(format!("Error: `repeat` must be 1 to {REPEAT_MAX}."));
                }
                let keys = needed(input, "text")?.to_owned();
                self.act(Action::Key { keys, count: repeat as u16 }).await?;
            }
            "hold_key" => self.hold(needed(input, "text")?, duration(input)?).await?,
            "wait" => tokio::time::sleep(duration(input)?).await,
            other => return Err(format!("There is no action {other:?}; there are {}.", ACTIONS.join(", "))),
        }
        if more { Ok(Outcome::text("Done.")) } else { self.shot().await }
    }

    async fn act(&self, action: Action) -> Result<(), String> {
        self.screen.act(vec![action]).await.map(drop).map_err(failed)
    }

    /// Longer than one batch may take, the keys are pressed, waited for and let go.
    async fn hold(&self, keys: &str, time: Duration) -> Result<(), String> {
        let keys = keys.to_owned();
        if time <= Duration::from_millis(u64::from(BATCH_MS)) {
            return self.act(Action::HoldKey { keys, ms: time.as_millis() as u32 }).await;
        }
        self.act(Action::KeyDown { keys: keys.clone() }).await?;
        tokio::time::sleep(time).await;
        self.act(Action::KeyUp { keys }).await
    }

    async fn shot(&self) -> Result<Outcome, String> {
        let (width, height) = self.grid.seen;
        self.picture(None, Size { width: width as u16, height: height as u16 }).await
    }

    async fn zoom(&self, input: &Value) -> Result<Outcome, String> {
        let corners: Vec<i64> =
            input.get("region").and_then(Value::as_array).into_iter().flatten().filter_map(integer).collect();
        let corners: [i64; 4] = corners
            .try_into()
            .map_err(|_| "`region` must be four whole numbers: left, top, right, bottom")?;
        let (region, size) = self.grid.zoom(corners)?;
        self.picture(Some(region), size).await
    }

    async fn picture(&self, region: Option<Region>, size: Size) -> Result<Outcome, String> {
        let png = self.screen.shot(region, size).await.map_err(failed)?;
        let image = self
            .images
            .keep(&png, "image/png", Some((u32::from(size.width), u32::from(size.height))))
            .map_err(|e| format!("Error: the screenshot could not be kept: {e}"))?;
        Ok(Outcome { content: vec![Part::Image { image }], ..Outcome::default() })
    }

    async fn scroll(&self, input: &Value, keys: Option<String>) -> Result<(), String> {
        let amount = whole(input, "scroll_amount")?.unwrap_or(3);
        if !(0..=SCROLL_MAX).contains(&amount) {
            return Err(format!("Error: `scroll_amount` must be 0 to {SCROLL_MAX}."));
        }
        let amount = amount as i16;
        let (dx, dy) = match needed(input, "scroll_direction")? {
            "up" => (0, -amount),
            "down" => (0, amount),
            "left" => (-amount, 0),
            "right" => (amount, 0),
            other => {
                return Err(format!("Error: `scroll_direction` is up, down, left or right, not {other:?}."));
            }
        };
        let at = self.point(input, "coordinate")?;
        match (amount, at) {
            (0, None) => Ok(()),
            (0, Some(to)) => self.act(Action::Move { to }).await,
            _ => self.act(Action::Scroll { at, dx, dy, keys }).await,
        }
    }

    fn point(&self, input: &Value, name: &str) -> Result<Option<Point>, String> {
        let Some(value) = input.get(name).filter(|v| !v.is_null()) else { return Ok(None) };
        let parts: Vec<i64> = value.as_array().into_iter().flatten().filter_map(integer).collect();
        let [x, y] = parts[..] else {
            return Err(format!("Error: `{name}` must be two whole numbers, not {value}."));
        };
        self.grid.to_screen(x, y).map(Some)
    }
}

fn failed(why: String) -> String {
    format!("Error: {why}")
}

/// Pieces of a text of which each goes into one action.
fn typed(text: &str) -> Result<Vec<String>, String> {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() > TYPE_CHARS_MAX {
        return Err(format!(
            "Error: {} characters are too many to type; up to {TYPE_CHARS_MAX}.",
            chars.len()
        ));
    }
    Ok(chars.chunks(PIECE_CHARS).map(|piece| piece.iter().collect()).collect())
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|f| f.is_finite()).map(|f| f.round() as i64))
}

fn duration(input: &Value) -> Result<Duration, String> {
    let seconds = input.get("duration").and_then(Value::as_f64).ok_or("`duration` is required: seconds")?;
    if !(0.0..=DURATION_MAX).contains(&seconds) {
        return Err(format!("Error: `duration` must be 0 to {DURATION_MAX} seconds."));
    }
    Ok(Duration::from_secs_f64(seconds))
}
