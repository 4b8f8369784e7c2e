//! What every role stands on: settings, telemetry, start and stop, health. No business rule lives here.

pub mod health;
pub mod lifecycle;
pub mod settings;
pub mod telemetry;

pub use health::Health;
pub use lifecycle::Stop;
pub use settings::Settings;
