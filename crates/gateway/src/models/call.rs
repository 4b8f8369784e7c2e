//! A request to a model, read as far as the gateway must: what kind it is, which model, whether it streams.
//!
//! The body is passed on as it came, byte for byte, but for one insertion (see [`Call::metered_body`]). Refuses a body
//! that says the same thing twice: the gateway and the provider might hear different ones.

use std::fmt;

use bytes::Bytes;
use http::Method;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fault::Fault;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Anthropic Messages.
    Messages,
    /// OpenAI chat completions.
    Chat,
    /// OpenAI's older completions.
    Completions,
    /// OpenAI responses.
    Responses,
    Embeddings,
    /// Costs nothing: looking, deleting, counting tokens, uploading.
    Free,
    /// May cost something that the answer does not say.
    Uncounted,
}

impl Kind {
    pub fn of(method: &Method, path: &str) -> Self {
        if *method != Method::POST {
            let looks = matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
            return if looks { Self::Free } else { Self::Uncounted };
        }
        let path = path.trim_end_matches('/');
        let free = ["/count_tokens", "/input_tokens", "/moderations", "/files", "/cancel", "/tokenize"];
        let table = [
            ("/chat/completions", Self::Chat),
            ("/completions", Self::Completions),
            ("/messages", Self::Messages),
            ("/responses", Self::Responses),
            ("/embeddings", Self::Embeddings),
        ];
        if free.iter().any(|end| path.ends_with(end)) || path.contains("/uploads") {
            return Self::Free;
        }
        table.into_iter().find(|(end, _)| path.ends_with(end)).map_or(Self::Uncounted, |(_, kind)| kind)
    }

    /// Whether the answer says what was used.
    pub const fn counted(self) -> bool {
        !matches!(self, Self::Free | Self::Uncounted)
    }
}

/// A request, read.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub kind: Kind,
    /// As asked for; none where the request names none.
    pub model: Option<String>,
    pub stream: bool,
    /// The caller wants the usage at the end of a chat stream, or the protocol always says it.
    pub wants_usage: bool,
    pub body: Bytes,
}

impl Call {
    /// Refuses what cannot be counted or judged although it must be.
    pub fn read(kind: Kind, body: Bytes) -> Result<Self, Fault> {
        let mut call = Self { kind, model: None, stream: false, wants_usage: true, body };
        let json = call.body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
        if !json {
            if kind.counted() {
                return Err(Fault::bad("the body is no JSON object"));
            }
            return Ok(call);
        }
        let top: Top<'_> = match serde_json::from_slice(&call.body) {
            Ok(top) => top,
            Err(_) if !kind.counted() => return Ok(call),
            Err(e) => return Err(Fault::bad(format!("the body cannot be read: {e}"))),
        };
        let model: Option<String> = top.read("model")?;
        let stream: Option<bool> = top.read("stream")?;
        let background: Option<bool> = top.read("background")?;
        if let Some(model) = &model
            && !(model.len() <= 200 && !model.is_empty() && model.bytes().all(|b| (0x20..0x7f).contains(&b)))
        {
            return Err(Fault::bad("`model` has 1 to 200 printable ASCII characters"));
        }
        let wants_usage = match kind {
            Kind::Chat | Kind::Completions => top.asks_for_usage()?,
            _ => true,
        };
        (call.model, call.stream, call.wants_usage) = (model, stream.unwrap_or(false), wants_usage);
        if background.unwrap_or(false) {
            // Its usage is told to whoever asks later, if at all.
            call.kind = Kind::Uncounted;
        }
        Ok(call)
    }

    /// Whether the last piece of the stream is ours and not the caller's.
    pub fn hides_usage(&self) -> bool {
        self.stream && !self.wants_usage
    }

    /// The body with the wish for usage put in, where the caller did not have it: everything else stays as it stood,
    /// order and spelling included, because a model reads them.
    pub fn metered_body(&self) -> Result<Bytes, Fault> {
        if !self.hides_usage() {
            return Ok(self.body.clone());
        }
        let top: Top<'_> = serde_json::from_slice(&self.body).map_err(|e| Fault::bad(e.to_string()))?;
        let options = top.find("stream_options").map(RawValue::get).filter(|raw| *raw != "null");
        let inner: Top<'_> = match options {
            Some(raw) => {
                serde_json::from_str(raw).map_err(|_| Fault::bad("`stream_options` is no object"))?
            }
            None => Top(Vec::new()),
        };
        let options = inner.with("include_usage", "true");
        Ok(Bytes::from(top.with("stream_options", &options)))
    }
}

/// The members of an object as they stand.
struct Top<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Top<'a> {
    fn find(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw)
    }

    fn read<T: de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Fault> {
        let wrong = |e: serde_json::Error| Fault::bad(format!("`{name}` cannot be read: {e}"));
        self.find(name).map_or(Ok(None), |raw| serde_json::from_str(raw.get()).map_err(wrong))
    }

    fn asks_for_usage(&self) -> Result<bool, Fault> {
        #[derive(serde::Deserialize)]
        struct Options {
            #[serde(default)]
            include_usage: Option<bool>,
        }
        let options: Option<Options> = self.read("stream_options")?;
        Ok(options.and_then(|o| o.include_usage).unwrap_or(false))
    }

    /// The object's text with one member set.
    fn with(&self, name: &str, value: &str) -> String {
        let mut out = String::from("{");
        let others = self.0.iter().filter(|(key, _)| key != name);
        for (key, raw) in others {
            out.push_str(&serde_json::Value::from(key.as_str()).to_string());
            out.push(':');
            out.push_str(raw.get());
            out.push(',');
        }
        out.push_str(&serde_json::Value::from(name).to_string());
        out.push(':');
        out.push_str(value);
        out.push('}');
        out
    }
}

impl<'de: 'a, 'a> de::Deserialize<'de> for Top<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.iter().any(|(known, _)| *known == key) {
                        return Err(de::Error::custom(format!("{key:?} stands in it twice")));
                    }
                    if members.len() == 1000 {
                        return Err(de::Error::custom("it has more than 1000 members"));
                    }
                    members.push((key, value));
                }
                Ok(members)
            }
        }
        d.deserialize_map(Members).map(Top)
    }
}

/// Tokens of a request by its bytes: a quarter of them, and 1600 for what looks like an image.
pub(super) fn guess(body: &[u8]) -> u64 {
    const IMAGE: usize = 1000;
    let coded = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-' | b'_');
    let mut tokens = 0u64;
    let mut words = 0u64;
    let mut rest = body;
    while let Some(first) = rest.first() {
        let run = rest.iter().take_while(|b| coded(b)).count();
        if run > IMAGE {
            tokens += 1600;
        } else {
            words += run as u64;
        }
        // The characters between two runs.
        let gap = usize::from(run == 0 && !coded(first));
        words += gap as u64;
        rest = &rest[run + gap..];
    }
    tokens + words.div_ceil(4)
}
