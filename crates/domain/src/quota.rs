//! Quotas of a space and what a session reserves of them. `None` means no limit.

use serde::{Deserialize, Serialize};

/// Limits of a space, enforced in the transaction that admits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Sessions that are not deleted.
    pub sessions: Option<u32>,
    /// Sessions with a computer up (init, idle, busy).
    pub running_sessions: Option<u32>,
    /// CPU of the running sessions together.
    pub cpu_millis: Option<u64>,
    /// Memory of the running sessions together.
    pub memory_mib: Option<u64>,
    /// Disk of all living sessions and snapshots together.
    pub disk_mib: Option<u64>,
    /// Model tokens of all kinds in a day of UTC, over all providers.
    pub model_tokens_per_day: Option<u64>,
    /// Cost of model requests in a day of UTC, in micro-dollars, over all providers.
    pub model_cost_micro_usd_per_day: Option<u64>,
    /// Bytes that leave and enter its sessions in a day of UTC.
    pub egress_bytes_per_day: Option<u64>,
    /// Bytes of its git repositories together.
    pub git_bytes: Option<u64>,
    /// Bytes of what its builds keep together: versions of agents, caches, and uploaded sources while they are built.
    pub package_bytes: Option<u64>,
}

impl Quotas {
    /// Whether model requests are limited.
    pub fn counts_models(&self) -> bool {
        self.model_tokens_per_day.is_some() || self.model_cost_micro_usd_per_day.is_some()
    }
}

/// Larger numbers would not survive JSON readers that count in doubles.
pub const MAX: u64 = 9_007_199_254_740_991;

/// What a session may use; every field is a limit that bites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// CPU time per wall time: 1000 is one core.
    #[schema(minimum = 10, maximum = 1_024_000)]
    pub cpu_millis: u32,
    /// Memory.
    #[schema(minimum = 16, maximum = 16_777_216)]
    pub memory_mib: u32,
    /// What the session may write beyond its image.
    #[schema(minimum = 16, maximum = 1_073_741_824)]
    pub disk_mib: u32,
    /// Processes and threads.
    #[schema(minimum = 8, maximum = 4_194_304)]
    pub pids: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu_millis: 1000, memory_mib: 1024, disk_mib: 4096, pids: 512 }
    }
}

impl Resources {
    /// Refuses numbers no machine can honour, naming the field.
    pub fn validate(&self) -> crate::Result<()> {
        let check = |field: &'static str, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(crate::Error::new(
                    crate::Code::InvalidField,
                    format!("{field} is {value}; it must be between {min} and {max}"),
                )
                .field(format!("resources.{field}")))
            }
        };
        check("cpu_millis", self.cpu_millis, 10, 1_024_000)?;
        check("memory_mib", self.memory_mib, 16, 16_777_216)?;
        check("disk_mib", self.disk_mib, 16, 1_073_741_824)?;
        check("pids", self.pids, 8, 4_194_304)
    }
}
