//! From the grid a model points at to the pixels of the screen, and back.

use wharf_wire::host::desktop::{Point, Region, Size};

use crate::model::traits::Pictures;

/// A screen, and the pictures of it a model sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub screen: (u32, u32),
    pub seen: (u32, u32),
    pictures: Pictures,
}

impl Grid {
    pub fn new(screen: (u32, u32), pictures: Pictures) -> Self {
        Self { screen, seen: pictures.fit(screen.0, screen.1), pictures }
    }

    /// The pixel a model means. Outside of what it sees is refused, not moved to the edge.
    pub fn to_screen(self, x: i64, y: i64) -> Result<Point, String> {
        let (w, h) = self.seen;
        if x < 0 || y < 0 || x >= i64::from(w) || y >= i64::from(h) {
            return Err(format!("Error: Coordinates ({x}, {y}) are outside display bounds ({w}x{h})."));
        }
        // The middle of the cell: edges of the screen stay within reach.
        let scale = |at: i64, seen: u32, screen: u32| {
            let at = (u64::from(at as u32) * 2 + 1) * u64::from(screen) / (u64::from(seen) * 2);
            (at as u32).min(screen.saturating_sub(1)) as i32
        };
        Ok(Point { x: scale(x, w, self.screen.0), y: scale(y, h, self.screen.1) })
    }

    pub fn to_seen(self, at: Point) -> (u32, u32) {
        let scale = |at: i32, seen: u32, screen: u32| {
            let at = (u64::from(at.max(0) as u32) * 2 + 1) * u64::from(seen) / (u64::from(screen.max(1)) * 2);
            (at as u32).min(seen.saturating_sub(1))
        };
        (scale(at.x, self.seen.0, self.screen.0), scale(at.y, self.seen.1, self.screen.1))
    }

    /// A part of the screen, and the size its picture shall have: as large as a screenshot at the most.
    pub fn zoom(self, corners: [i64; 4]) -> Result<(Region, Size), String> {
        let [x0, y0, x1, y1] = corners;
        let (w, h) = (i64::from(self.seen.0), i64::from(self.seen.1));
        if x0 < 0 || y0 < 0 || x1 > w || y1 > h || x1 <= x0 || y1 <= y0 {
            return Err(format!(
                "Error: Region ({x0}, {y0}, {x1}, {y1}) is not a part of the display ({w}x{h}): give left, top, right, bottom."
            ));
        }
        let scale =
            |at: i64, seen: i64, screen: u32| (at as u64 * u64::from(screen) / seen.max(1) as u64) as u32;
        let (x, y) = (scale(x0, w, self.screen.0), scale(y0, h, self.screen.1));
        let right = scale(x1, w, self.screen.0).clamp(x + 1, self.screen.0.max(x + 1));
        let bottom = scale(y1, h, self.screen.1).clamp(y + 1, self.screen.1.max(y + 1));
        let region =
            Region { x: x as u16, y: y as u16, width: (right - x) as u16, height: (bottom - y) as u16 };
        // Scaled up, too: small text becomes legible that way.
        let factor = (f64::from(self.seen.0) / f64::from(region.width))
            .min(f64::from(self.seen.1) / f64::from(region.height));
        let side = |s: u16| ((f64::from(s) * factor) as u32).max(1);
        let (width, height) = self.pictures.fit(side(region.width), side(region.height));
        let least = u32::from(wharf_wire::host::desktop::SIDE_MIN);
        Ok((region, Size { width: width.max(least) as u16, height: height.max(least) as u16 }))
    }
}
