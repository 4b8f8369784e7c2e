//! Cutting bytes without cutting characters.

/// Splits a stream of bytes so that a character is never torn between two pieces. Bytes that are no UTF-8 pass at once.
#[derive(Default)]
pub struct Chunker {
    held: Vec<u8>,
}

impl Chunker {
    /// What can be shown now. An unfinished character at the end (up to three bytes) waits for the rest.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let keep = unfinished(&all);
        self.held = all.split_off(all.len() - keep);
        all
    }

    /// What is left at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    pub fn held(&self) -> usize {
        self.held.len()
    }
}

/// Bytes at the end that begin a character whose rest is missing.
pub fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let tail = &bytes[bytes.len() - back..];
        if tail[0] & 0b1100_0000 == 0b1000_0000 {
            continue;
        }
        return match std::str::from_utf8(tail) {
            Err(e) if e.error_len().is_none() && e.valid_up_to() == 0 => back,
            _ => 0,
        };
    }
    0
}

/// The first and the last part of an output, for a reply of bounded size.
pub struct HeadTail {
    half: usize,
    head: Vec<u8>,
    tail: std::collections::VecDeque<u8>,
    total: u64,
}

impl HeadTail {
    pub fn new(bytes: usize) -> Self {
        Self { half: bytes / 2, head: Vec::new(), tail: std::collections::VecDeque::new(), total: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let first = (self.half - self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..first]);
        let rest = &bytes[first..];
        let rest = &rest[rest.len().saturating_sub(self.half)..];
        let over = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..over);
        self.tail.extend(rest);
    }

    /// As text, with a line in the middle that says how much is missing there.
    pub fn text(&self) -> String {
        let cut = self.total - (self.head.len() + self.tail.len()) as u64;
        let (a, b) = self.tail.as_slices();
        if cut == 0 {
            return String::from_utf8_lossy(&[&self.head, a, b].concat()).into_owned();
        }
        let head = &self.head[..self.head.len() - unfinished(&self.head)];
        let mut tail = [a, b].concat();
        let torn = tail.iter().take(3).take_while(|b| **b & 0b1100_0000 == 0b1000_0000).count();
        tail.drain(..torn);
        let cut = self.total - (head.len() + tail.len()) as u64;
        let line = |head: &[u8]| if head.ends_with(b"\n") { "" } else { "\n" };
        format!(
            "{}{}[{cut} bytes left out]\n{}",
            String::from_utf8_lossy(head),
            line(head),
            String::from_utf8_lossy(&tail)
        )
    }
}
