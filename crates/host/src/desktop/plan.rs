//! A batch of actions, checked whole before the first is done: places on the screen, keys that exist, bounded times.

use std::time::Duration;

use wharf_wire::host::desktop::{
    ACTIONS, Action, BATCH_MS, Button, DRAG_POINTS, InputRequest, Point, REPEAT, Size, TYPE_CHARS,
};

use super::keysyms::{chord, of_char};
use crate::fault::{Fault, Result};

/// What is done, in words of the X server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Move(i16, i16),
    Press(u8),
    Release(u8),
    KeyDown(Vec<u32>),
    /// In the order they were pressed; let go the other way round.
    KeyUp(Vec<u32>),
    Type(Vec<u32>),
    Pause(Duration),
}

/// Programs tell a click from a press and a release, and two clicks from a double click, by time.
const CLICK: Duration = Duration::from_millis(12);
const BETWEEN: Duration = Duration::from_millis(40);
/// Steps of a drag: programs begin to drag only after some pixels.
const DRAG_STEP: f64 = 24.0;
const DRAG_PAUSE: Duration = Duration::from_millis(8);
/// The wheel's turn is animated; more at once is lost.
const WHEEL: Duration = Duration::from_millis(10);

pub fn button(button: Button) -> u8 {
    match button {
        Button::Left => 1,
        Button::Middle => 2,
        Button::Right => 3,
        Button::Back => 8,
        Button::Forward => 9,
    }
}

/// The steps of a batch on a screen of `size`.
pub fn plan(request: &InputRequest, size: Size) -> Result<Vec<Step>> {
    if request.actions.is_empty() || request.actions.len() > ACTIONS {
        let detail = format!("there are {} actions; 1 to {ACTIONS} are allowed", request.actions.len());
        return Err(Fault::invalid("actions", detail));
    }
    let mut plan = Planner { size, steps: Vec::new(), at: String::new() };
    let mut held = 0_u32;
    for (n, action) in request.actions.iter().enumerate() {
        plan.at = format!("actions[{n}]");
        held = held.saturating_add(plan.act(action)?);
        if held > BATCH_MS {
            return Err(plan.wrong("ms", format!("waits and holds take more than {BATCH_MS} ms together")));
        }
    }
    Ok(plan.steps)
}

struct Planner {
    size: Size,
    steps: Vec<Step>,
    at: String,
}

impl Planner {
    fn wrong(&self, field: &str, detail: impl Into<String>) -> Fault {
        Fault::invalid(&format!("{}.{field}", self.at), detail)
    }

    fn go(&mut self, field: &str, to: Point) -> Result<()> {
        let inside = (0..i32::from(self.size.width)).contains(&to.x)
            && (0..i32::from(self.size.height)).contains(&to.y);
        if !inside {
            return Err(
                self.wrong(field, format!("{},{} is outside of the screen of {}", to.x, to.y, self.size))
            );
        }
        self.steps.push(Step::Move(to.x as i16, to.y as i16));
        Ok(())
    }

    fn go_if(&mut self, at: Option<Point>) -> Result<()> {
        at.map_or(Ok(()), |to| self.go("at", to))
    }

    fn chord(&self, keys: &str) -> Result<Vec<u32>> {
        chord(keys).map_err(|e| self.wrong("keys", e))
    }

    fn holding(&mut self, keys: Option<&str>, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Some(keys) = keys else { return act(self) };
        let keys = self.chord(keys)?;
        self.steps.push(Step::KeyDown(keys.clone()));
        act(self)?;
        self.steps.push(Step::KeyUp(keys));
        Ok(())
    }

    fn count(&self, count: u16) -> Result<u16> {
        if (1..=REPEAT).contains(&count) {
            return Ok(count);
        }
        Err(self.wrong("count", format!("{count} times is not 1 to {REPEAT}")))
    }

    fn times(&mut self, count: u16, button: u8, pause: Duration) {
        for n in 0..count {
            if n > 0 {
                self.steps.push(Step::Pause(pause));
            }
            self.steps.extend([Step::Press(button), Step::Pause(CLICK), Step::Release(button)]);
        }
    }

    /// Answers the milliseconds the action waits.
    fn act(&mut self, action: &Action) -> Result<u32> {
        match action {
            Action::Move { to } => self.go("to", *to)?,
            Action::Click { at, button: b, count, keys } => {
                let count = self.count(*count)?;
                self.go_if(*at)?;
                self.holding(keys.as_deref(), |this| {
                    this.times(count, button(*b), BETWEEN);
                    Ok(())
                })?;
            }
            Action::ButtonDown { at, button: b } => {
                self.go_if(*at)?;
                self.steps.push(Step::Press(button(*b)));
            }
            Action::ButtonUp { at, button: b } => {
                self.go_if(*at)?;
                self.steps.push(Step::Release(button(*b)));
            }
            Action::Drag { path, button: b, keys } => self.drag(path, button(*b), keys.as_deref())?,
            Action::Scroll { at, dx, dy, keys } => {
                if dx.unsigned_abs() > REPEAT || dy.unsigned_abs() > REPEAT || (*dx, *dy) == (0, 0) {
                    let detail =
                        format!("dx and dy are up to {REPEAT} clicks of the wheel, one of them not 0");
                    return Err(self.wrong("dy", detail));
                }
                self.go_if(*at)?;
                self.holding(keys.as_deref(), |this| {
                    this.times(dy.unsigned_abs(), if *dy < 0 { 4 } else { 5 }, WHEEL);
                    this.times(dx.unsigned_abs(), if *dx < 0 { 6 } else { 7 }, WHEEL);
                    Ok(())
                })?;
            }
            Action::Key { keys, count } => {
                let count = self.count(*count)?;
                let chords =
                    keys.split_whitespace().map(|keys| self.chord(keys)).collect::<Result<Vec<_>>>()?;
                if chords.is_empty() || chords.len() > usize::from(REPEAT) {
                    return Err(self.wrong("keys", format!("give 1 to {REPEAT} keys")));
                }
                for _ in 0..count {
                    for keys in &chords {
                        self.steps.push(Step::KeyDown(keys.clone()));
                        self.steps.push(Step::Pause(CLICK));
                        self.steps.push(Step::KeyUp(keys.clone()));
                    }
                }
            }
            Action::KeyDown { keys } => self.steps.push(Step::KeyDown(self.chord(keys)?)),
            Action::KeyUp { keys } => self.steps.push(Step::KeyUp(self.chord(keys)?)),
            Action::HoldKey { keys, ms } => {
                let keys = self.chord(keys)?;
                self.steps.push(Step::KeyDown(keys.clone()));
                self.steps.push(Step::Pause(Duration::from_millis((*ms).into())));
                self.steps.push(Step::KeyUp(keys));
                return Ok(*ms);
            }
            Action::Type { text } => self.type_text(text)?,
            Action::Wait { ms } => {
                self.steps.push(Step::Pause(Duration::from_millis((*ms).into())));
                return Ok(*ms);
            }
        }
        Ok(0)
    }

    fn drag(&mut self, path: &[Point], button: u8, keys: Option<&str>) -> Result<()> {
        if !(2..=DRAG_POINTS).contains(&path.len()) {
            return Err(self.wrong("path", format!("a drag has 2 to {DRAG_POINTS} points")));
        }
        for point in path {
            self.go("path", *point)?;
            self.steps.pop();
        }
        self.holding(keys, |this| {
            this.go("path", path[0])?;
            this.steps.extend([Step::Press(button), Step::Pause(BETWEEN)]);
            for leg in path.windows(2) {
                let (dx, dy) = (f64::from(leg[1].x - leg[0].x), f64::from(leg[1].y - leg[0].y));
                let steps = (dx.hypot(dy) / DRAG_STEP).ceil().max(1.0);
                for n in 1..=steps as u32 {
                    let part = f64::from(n) / steps;
                    let x = (f64::from(leg[0].x) + dx * part).round();
                    let y = (f64::from(leg[0].y) + dy * part).round();
                    this.steps.extend([Step::Move(x as i16, y as i16), Step::Pause(DRAG_PAUSE)]);
                }
            }
            this.steps.extend([Step::Pause(BETWEEN), Step::Release(button)]);
            Ok(())
        })
    }

    fn type_text(&mut self, text: &str) -> Result<()> {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        if text.is_empty() || text.chars().count() > TYPE_CHARS {
            return Err(self.wrong("text", format!("text has 1 to {TYPE_CHARS} characters")));
        }
        let keys = text
            .chars()
            .map(|c| of_char(c).ok_or_else(|| self.wrong("text", format!("{c:?} cannot be typed"))))
            .collect::<Result<_>>()?;
        self.steps.push(Step::Type(keys));
        Ok(())
    }
}
