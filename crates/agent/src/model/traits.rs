//! What is known of models by their names: which tools they were trained on, how they think, how large a picture they take.
//!
//! From the vendors' documentation. A Claude that is newer than this list is taken for the newest on it; what a provider
//! refuses is stepped back from at run time, so a wrong guess costs one request.

/// Generations of Anthropic's client tools. Bash and editor are the same in the first three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// Any model: tools with a description and a schema.
    Described,
    /// `computer_20250124`, with a beta header.
    V20250124,
    /// `computer_20251124`, with a beta header; knows `zoom`.
    V20251124,
    /// `computer_toolset_20260801`: each action a tool of its own.
    Toolset,
}

impl Generation {
    /// The next one to try when a provider does not know this one.
    pub fn below(self) -> Option<Self> {
        match self {
            Self::Toolset => Some(Self::V20251124),
            Self::V20251124 => Some(Self::V20250124),
            Self::V20250124 => Some(Self::Described),
            Self::Described => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinks {
    /// Told a number of tokens.
    Budget,
    /// Chooses for itself when it is let.
    Adaptive,
}

/// What one Claude can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claude {
    pub generation: Generation,
    pub thinks: Thinks,
    /// Effort needs a beta header.
    pub effort_beta: bool,
    /// Takes thinking between tools only with a beta header.
    pub interleaved_beta: bool,
    pub pictures: Pictures,
}

/// Largest picture that is not refused or scaled down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pictures {
    pub long_edge: u32,
    /// Patches of 28 × 28 pixels.
    pub patches: u32,
}

/// What every model with eyes takes.
pub const STANDARD: Pictures = Pictures { long_edge: 1568, patches: 1568 };

/// What speaks Messages and is no Claude, as far as its name tells: it is asked for what was configured, in the oldest form.
pub const OTHER: Claude = Claude {
    generation: Generation::Described,
    thinks: Thinks::Budget,
    effort_beta: false,
    interleaved_beta: false,
    pictures: STANDARD,
};

/// None: no Claude.
pub fn claude(model: &str) -> Option<Claude> {
    let name = model.rsplit(['/', ':']).find(|part| part.contains("claude")).unwrap_or(model);
    let rest = &name[name.find("claude")? + "claude".len()..];
    let mut numbers = rest
        .split(['-', '.', '@', '_'])
        .filter(|part| (1..=2).contains(&part.len()))
        .filter_map(|part| part.parse::<u32>().ok());
    let major = numbers.next().unwrap_or(u32::MAX);
    let minor = numbers.next().unwrap_or(0);
    let version = (major, minor);
    let is_opus = rest.contains("opus");
    let generation = match version {
        (..=3, _) | (4, ..=4) => Generation::V20250124,
        (4, 5) if !is_opus => Generation::V20250124,
        (4, _) => Generation::V20251124,
        _ => Generation::Toolset,
    };
    Some(Claude {
        generation,
        thinks: if version <= (4, 5) { Thinks::Budget } else { Thinks::Adaptive },
        effort_beta: version == (4, 5),
        interleaved_beta: major == 4 && minor <= 5,
        // Larger ones take 2576; a grid of this size is what they were tuned on and costs a third.
        pictures: STANDARD,
    })
}

/// Whether an OpenAI model reasons, and so takes settings and gives back items for it.
pub fn reasons(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let is_o = name.strip_prefix('o').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    let is_gpt = name.strip_prefix("gpt-").is_some_and(|r| {
        r.split(['-', '.']).next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n >= 5)
    });
    (is_o || is_gpt || name.starts_with("codex")) && !name.contains("chat")
}

impl Pictures {
    fn holds(self, width: u32, height: u32) -> bool {
        width.max(height) <= self.long_edge && width.div_ceil(28) * height.div_ceil(28) <= self.patches
    }

    /// The largest size of the same proportions that fits; never larger than it is.
    pub fn fit(self, width: u32, height: u32) -> (u32, u32) {
        let (width, height) = (width.max(1), height.max(1));
        if self.holds(width, height) {
            return (width, height);
        }
        let long = width.max(height);
        // Whole pixels of the long edge, from the largest on: at most a few thousand steps.
        for edge in (1..=self.long_edge.min(long)).rev() {
            let scale = |side: u32| {
                ((u64::from(side) * u64::from(edge) + u64::from(long) / 2) / u64::from(long)).max(1) as u32
            };
            let (w, h) = (scale(width), scale(height));
            if self.holds(w, h) {
                return (w, h);
            }
        }
        (1, 1)
    }
}
