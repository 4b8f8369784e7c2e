//! What every role stands on: settings, telemetry, start and stop, health. No business rule lives here.

pub mod authority;
pub mod health;
pub mod host_client;
pub mod lifecycle;
pub mod seal;
pub mod settings;
pub mod telemetry;

pub use health::Health;
pub use host_client::{HostClient, HostError};
pub use lifecycle::Stop;
pub use settings::Settings;
