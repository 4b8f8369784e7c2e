//! The settings as text: for `wharf config show`, and for the children of `wharf up`, which get what was read
//! once instead of reading again.

use std::fmt::Write as _;

use serde_json::Value;

use super::{KEYS, Key, Loaded, Origin, Secret, Settings};

impl Loaded {
    /// Every setting as TOML, each with where it came from. Secrets are hidden.
    pub fn to_annotated_toml(&self) -> String {
        let tree = serde_json::to_value(&self.settings).unwrap_or_default();
        let mut out = String::new();
        let mut section = "";
        // Keys of the root first: in TOML they cannot follow a section.
        let (root, nested): (Vec<&Key>, Vec<&Key>) = KEYS.iter().partition(|k| !k.path.contains('.'));
        for key in root.into_iter().chain(nested) {
            let (table, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            if table != section {
                let _ = write!(out, "\n[{table}]\n");
                section = table;
            }
            let value = tree.pointer(&format!("/{}", key.path.replace('.', "/"))).unwrap_or(&Value::Null);
            let origin = self.origins.get(key.path).unwrap_or(&Origin::Default);
            match value {
                Value::Null => {
                    let _ = writeln!(out, "# {name} is not set: {}", key.doc);
                }
                value => {
                    let _ = writeln!(out, "{name} = {} # {origin}", to_toml(value));
                }
            }
        }
        out
    }
}

pub(super) fn to_toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(to_toml).collect::<Vec<_>>().join(", ")),
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => format!(
            "{{ {} }}",
            map.iter().map(|(k, v)| format!("{k} = {}", to_toml(v))).collect::<Vec<_>>().join(", ")
        ),
        // JSON strings, numbers and booleans are TOML ones.
        scalar => scalar.to_string(),
    }
}

/// Settings on their way to a child over a pipe: the only form that carries the secrets.
pub fn hand_over(settings: &Settings) -> serde_json::Result<Vec<u8>> {
    let mut tree = serde_json::to_value(settings)?;
    tree["database_url"] = settings.database_url.as_ref().map_or(Value::Null, |s| Value::from(s.expose()));
    serde_json::to_vec(&tree)
}

/// The other end of [`hand_over`].
pub fn take_over(bytes: &[u8]) -> serde_json::Result<Settings> {
    serde_json::from_slice(bytes)
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}
