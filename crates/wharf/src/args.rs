//! The part of the command line that is about the server side: settings as flags.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use wharf_chassis::settings::{Loaded, Role, Sources};

/// Settings given on the command line; they win over environment and file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingsArgs {
    /// Read settings from this file instead of <data_dir>/wharf.toml
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,
    /// Where everything is kept
    #[arg(long, global = true, value_name = "DIR", help_heading = "Settings")]
    pub data_dir: Option<PathBuf>,
    /// Any setting by its name, as in `wharf config schema`; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value, help_heading = "Settings")]
    pub set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    if matches!(key, "database_url") {
        return Err("others on this machine can read arguments: give database_url_file instead".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

impl SettingsArgs {
    pub fn load(&self) -> Result<Loaded> {
        self.load_with(None, None)
    }

    pub fn load_with(&self, listen: Option<SocketAddr>, roles: Option<&[Role]>) -> Result<Loaded> {
        let mut flags: Vec<(String, String, String)> = Vec::new();
        let mut flag = |key: &str, value: String, name: &str| flags.push((key.into(), value, name.into()));
        for (key, value) in &self.set {
            flag(key, value.clone(), &format!("--set {key}"));
        }
        if let Some(dir) = &self.data_dir {
            flag("data_dir", dir.display().to_string(), "--data-dir");
        }
        if let Some(listen) = listen {
            flag("listen", listen.to_string(), "--listen");
        }
        if let Some(roles) = roles {
            flag("roles", roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(","), "--role");
        }
        Ok(Sources::of_process(self.config.clone(), flags, crate::is_root()).load()?)
    }
}
