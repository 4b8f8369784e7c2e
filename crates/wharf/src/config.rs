//! `wharf config check | show | schema`: what the settings are, and where each came from.

use anyhow::Result;
use wharf_chassis::settings::{Loaded, schema};

#[derive(clap::Subcommand)]
pub enum ConfigCommand {
    /// Say whether the settings are right, and what is wrong
    Check,
    /// Print every setting and where it came from; secrets are hidden
    Show,
    /// Print the settings' JSON Schema
    Schema,
}

pub fn run(command: &ConfigCommand, load: impl FnOnce() -> Result<Loaded>) -> Result<()> {
    match command {
        ConfigCommand::Check => {
            let loaded = load()?;
            let place =
                loaded.file.as_ref().map_or_else(|| "no wharf.toml".to_owned(), |p| p.display().to_string());
            println!("the settings are right ({place}, {} not default)", loaded.origins.len());
        }
        ConfigCommand::Show => print!("{}", load()?.to_annotated_toml()),
        ConfigCommand::Schema => println!("{}", serde_json::to_string_pretty(&schema())?),
    }
    Ok(())
}
