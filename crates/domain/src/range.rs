//! Byte ranges of HTTP (RFC 9110, section 14): what a `Range` header asks for, and what that is of content whose length
//! is known.
//!
//! One range is honoured. A header that is malformed, speaks of another unit or wants several ranges is as if it were
//! absent, which the standard allows: the whole content is never the wrong answer.

/// One range, before the length is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From a byte on, to the end or through a last byte.
    From(u64, Option<u64>),
    /// The last bytes.
    Last(u64),
}

/// What to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// From `first` through `last`, both within the content.
    Bytes {
        first: u64,
        last: u64,
    },
    /// Nothing of it is there: 416.
    Outside,
}

impl ByteRange {
    /// Reads a header; `None` where it is to be ignored.
    pub fn parse(header: &str) -> Option<Self> {
        let header = header.trim();
        let (unit, set) = header.split_once('=')?;
        if !unit.trim_end().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (first.trim(), last.trim()) {
            ("", "") => None,
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// Which bytes of a content of `length` it is.
    pub fn of(self, length: u64) -> Part {
        match self {
            Self::From(first, _) if first >= length => Part::Outside,
            Self::From(first, last) => {
                Part::Bytes { first, last: last.map_or(length - 1, |last| last.min(length - 1)) }
            }
            Self::Last(0) => Part::Outside,
            Self::Last(_) if length == 0 => Part::Outside,
            Self::Last(count) => Part::Bytes { first: length.saturating_sub(count), last: length - 1 },
        }
    }
}

/// Digits alone; a number that no content is long enough for stands for the largest there is.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
