//! Messages of a session: what users and agents say.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use wharf_domain::session::TurnState;
use wharf_domain::{Name, Time, TurnId};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MessageRole {
    /// A user or a program that uses the session.
    User,
    /// The session's agent.
    Agent,
}

/// One part of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    Image {
        /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`.
        media_type: String,
        /// Standard base64.
        data: String,
    },
    /// A tool the agent called.
    ToolUse {
        /// Ties the result to the call.
        id: String,
        /// The tool's name.
        name: String,
        /// What it was called with.
        input: serde_json::Value,
    },
    /// What a tool answered.
    ToolResult {
        /// The call's id.
        tool_use_id: String,
        /// The answer.
        content: String,
        /// Whether the tool failed.
        #[serde(default)]
        is_error: bool,
    },
    /// A file of the session.
    File {
        /// Its absolute path.
        path: String,
    },
}

/// One part of a message as it is kept: an object with a `type`; blocks of `Block`'s types look like those.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AnyBlock(pub serde_json::Map<String, serde_json::Value>);

impl AnyBlock {
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(serde_json::Value::as_str).unwrap_or_default()
    }

    /// The text of a text block.
    pub fn as_text(&self) -> Option<&str> {
        if self.kind() == "text" { self.0.get("text").and_then(serde_json::Value::as_str) } else { None }
    }

    /// The block as one of the known types.
    pub fn known(&self) -> Option<Block> {
        serde_json::from_value(serde_json::Value::Object(self.0.clone())).ok()
    }
}

impl utoipa::PartialSchema for AnyBlock {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Type};
        ObjectBuilder::new()
            .property(
                "type",
                ObjectBuilder::new().schema_type(Type::String).description(Some("What kind of block it is.")),
            )
            .required("type")
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .description(Some("One part of a message as it is kept: an object with a `type`; blocks of `Block`'s types look like those."))
            .into()
    }
}

impl utoipa::ToSchema for AnyBlock {}

/// Content of a message: a list of blocks, or a string, which stands for one text block.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Content(pub Vec<Block>);

impl Content {
    pub fn text(text: impl Into<String>) -> Self {
        Self(vec![Block::Text { text: text.into() }])
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of content blocks")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Content, E> {
                Ok(Content::text(s))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut blocks = Vec::new();
                while let Some(block) = seq.next_element()? {
                    blocks.push(block);
                }
                Ok(Content(blocks))
            }
        }
        d.deserialize_any(Either)
    }
}

impl utoipa::PartialSchema for Content {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};
        OneOfBuilder::new()
            .item(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)))
            .item(
                ArrayBuilder::new()
                    .items(utoipa::openapi::Ref::from_schema_name("Block"))
                    .min_items(Some(1))
                    .max_items(Some(1000)),
            )
            .description(Some("Content of a message: a list of blocks, or a string, which stands for one text block. Up to 4 MiB."))
            .into()
    }
}

impl utoipa::ToSchema for Content {
    fn schemas(schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>) {
        schemas.push((Block::name().into(), <Block as utoipa::PartialSchema>::schema()));
        Block::schemas(schemas);
    }
}

/// A message to a session's agent.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostMessage {
    /// What to say.
    pub content: Content,
    /// Which of the session's agents shall answer; the default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Name>,
}

impl PostMessage {
    /// To the default agent.
    pub fn of(content: Content) -> Self {
        Self { content, to: None }
    }
}

/// One message of a session's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Message {
    /// Its number in the session's log, shared with events: larger is later.
    pub seq: i64,
    /// Who speaks.
    pub role: MessageRole,
    /// Which agent, where one speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Which agent it was addressed to, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Who said it, where a principal did: `user/alice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What is said. Agents may say blocks of types that are not listed in `Block`.
    pub content: Vec<AnyBlock>,
    /// The turn it started (of a user) or belongs to (of an agent).
    pub turn: TurnId,
    /// Where its turn stands.
    pub state: TurnState,
    /// Why the turn failed or was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What the turn used; null until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<serde_json::Value>,
    /// When it was said.
    pub created_at: Time,
    /// When its turn started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When its turn ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
}

/// A message of a user with what was answered, when the caller waited for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PostedMessage {
    /// The message that was posted.
    #[serde(flatten)]
    pub message: Message,
    /// What the agent said in the turn; empty unless the caller waited until it ended.
    #[serde(default)]
    pub replies: Vec<Message>,
}
