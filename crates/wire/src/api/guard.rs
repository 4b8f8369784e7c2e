//! Policies of a space, and what waits for somebody's yes.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_domain::guard::{ApprovalState, Phase, Rule};
use wharf_domain::{ApprovalId, Labels, Name, PolicyId, SessionId, Time, TurnId};

use super::LabelsPatch;

/// Guardrails: ordered rules for what sessions send to models, what models answer, tools and egress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Policy {
    /// The policy's id.
    pub id: PolicyId,
    /// The policy's name.
    pub name: Name,
    /// The smaller is asked first; of equals the one whose name comes first.
    pub priority: u16,
    /// Its rules. The first that matches decides; what none matches goes through.
    pub rules: Vec<Rule>,
    /// Labels to find it by.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Time,
    /// When it was changed last.
    pub updated_at: Time,
    /// Grows with every change; goes into `If-Match`.
    pub resource_version: i64,
}

/// A policy to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePolicy {
    /// The policy's name.
    pub name: Name,
    /// The smaller is asked first; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub priority: Option<u16>,
    /// Its rules, in the order they are asked.
    #[schema(min_items = 1, max_items = 64)]
    pub rules: Vec<Rule>,
    /// Labels to find it by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Changes to a policy; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchPolicy {
    /// The smaller is asked first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub priority: Option<u16>,
    /// All the new rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 64)]
    pub rules: Option<Vec<Rule>>,
    /// Labels to set; null removes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<LabelsPatch>,
}

/// Something an agent wants to do that waits, or waited, for somebody's yes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Approval {
    /// The approval's id.
    pub id: ApprovalId,
    /// The session whose agent asks.
    pub session: SessionId,
    /// That session's name.
    pub session_name: Name,
    /// The turn that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// What was judged.
    pub phase: Phase,
    /// Where it stands.
    pub state: ApprovalState,
    /// The policy that asks.
    pub policy: Name,
    /// The rule's place in it, from 0.
    pub rule: u32,
    /// Why the rule asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The tool it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What it is about, in one line.
    pub summary: String,
    /// What it is about: a tool with its input, a host or a request with its body, texts for a model. `truncated` is true
    /// where only a part is shown: the answer is for all of it.
    pub subject: Value,
    /// When it was asked for.
    pub requested_at: Time,
    /// When it is denied, if nobody decides before.
    pub expires_at: Time,
    /// When it was decided or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Time>,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// What they said; the agent is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision_reason: Option<String>,
    /// Grows with every change.
    pub resource_version: i64,
}

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// Yes or no.
    pub allow: bool,
    /// Why; the agent is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000)]
    pub reason: Option<String>,
}
