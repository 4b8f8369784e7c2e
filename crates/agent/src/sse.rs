//! Reads server-sent events (WHATWG HTML, 9.2) from bytes that arrive in any pieces.
//!
//! Lines end with LF, CR or CRLF, also when those two arrive apart; comments and unknown fields are skipped; data of
//! several lines is joined. A line or an event beyond its bound is an error, not memory. An event that the stream ends within
//! was never dispatched and is not given out.

/// Bytes of one event: more than any provider sends, pictures included.
pub const EVENT_BYTES: usize = 32 * 1024 * 1024;

/// One event. `name` is empty where none was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// An event was larger than [`EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    begun: bool,
    name: String,
    data: String,
    has_data: bool,
}

impl Parser {
    /// Takes the next bytes; complete events go to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<(), TooLong> {
        for &byte in bytes {
            let joined = std::mem::take(&mut self.after_cr) && byte == b'\n';
            if joined {
                continue;
            }
            match byte {
                b'\n' => self.end_line(out),
                b'\r' => {
                    self.after_cr = true;
                    self.end_line(out);
                }
                _ => {
                    if self.line.len() + self.data.len() >= EVENT_BYTES {
                        return Err(TooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    /// Whether an event has begun that did not end.
    pub fn is_torn(&self) -> bool {
        !self.line.is_empty() || self.has_data
    }

    fn end_line(&mut self, out: &mut Vec<Event>) {
        let mut line = std::mem::take(&mut self.line);
        if !self.begun {
            self.begun = true;
            if line.starts_with(b"\xef\xbb\xbf") {
                line.drain(..3);
            }
        }
        if line.is_empty() {
            let event = Event { name: std::mem::take(&mut self.name), data: std::mem::take(&mut self.data) };
            if std::mem::take(&mut self.has_data) {
                out.push(event);
            }
            return;
        }
        // A character split between two pieces is whole by now; bytes that are no UTF-8 are replaced.
        let line = String::from_utf8_lossy(&line);
        let (field, value) = match line.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line.as_ref(), ""),
        };
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            // Comments have an empty field; `id` and `retry` concern readers that reconnect.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
