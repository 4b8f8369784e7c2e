//! A recipe: which packages and which script make an image. A directory with `recipe.toml` and the script it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use wharf_domain::Name;

use super::archive::hex;
use crate::step::{At, Step};

/// Grows when the same recipe would come out differently for reasons of this program.
const FORMAT: u32 = 1;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    name: Name,
    #[serde(default)]
    extends: Option<Name>,
    #[serde(default)]
    suite: Option<String>,
    packages: Vec<String>,
    #[serde(default)]
    script: Option<String>,
}

/// A recipe, checked, with the machine's part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub name: Name,
    /// The distribution release; the machine's own where the recipe names none.
    pub suite: String,
    pub packages: Vec<String>,
    /// Run by `/bin/sh -eu` as root in the finished tree.
    pub script: String,
    /// SHA-256 of everything above and the architecture: the same digest builds the same image, apart from newer
    /// package versions.
    pub digest: String,
}

impl Recipe {
    /// Reads the recipe in directory `dir`; `known` gives the recipes it may extend.
    pub fn load(dir: &Path, known: &mut dyn FnMut(&Name) -> Option<Self>) -> Result<Self, Step> {
        let path = dir.join("recipe.toml");
        let text = fs::read_to_string(&path).at_with(|| format!("read {}", path.display()))?;
        let mut script = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).at_with(|| format!("read {}", path.display()))
        };
        Self::parse(&text, &mut script, known)
    }

    /// Reads a recipe's text; `script` gives the text of the script it names. One that extends another has its packages
    /// too, and its script runs first.
    pub fn parse(
        text: &str,
        script: &mut dyn FnMut(&str) -> Result<String, Step>,
        known: &mut dyn FnMut(&Name) -> Option<Self>,
    ) -> Result<Self, Step> {
        let parsed: Text = toml::from_str(text).map_err(|error| Step::refused("read the recipe", error))?;
        let script = match &parsed.script {
            None => String::new(),
            Some(name) if name.contains('/') || name.starts_with('.') => {
                return Err(Step::refused(
                    "read the recipe",
                    format!("script {name:?} is to be a file name in the recipe's own directory"),
                ));
            }
            Some(name) => script(name)?,
        };
        let Some(base) = parsed.extends else {
            return Self::new(parsed.name, parsed.suite, parsed.packages, script);
        };
        let Some(base) = known(&base) else {
            return Err(Step::refused(
                "read the recipe",
                format!("extends names {base}, which is no recipe that comes with this program"),
            ));
        };
        let mut packages = base.packages;
        packages.extend(parsed.packages);
        let mut seen = BTreeSet::new();
        packages.retain(|name| seen.insert(name.clone()));
        Self::new(parsed.name, parsed.suite.or(Some(base.suite)), packages, base.script + &script)
    }

    pub fn new(
        name: Name,
        suite: Option<String>,
        packages: Vec<String>,
        script: String,
    ) -> Result<Self, Step> {
        let suite = match suite {
            Some(suite) => suite,
            None => machine_suite()?,
        };
        // Both become arguments of programs run as root.
        for word in packages.iter().chain([&suite]) {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.:".contains(&byte);
            if !word.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
                || !word.bytes().all(plain)
            {
                return Err(Step::refused(
                    "read the recipe",
                    format!("{word:?} is no package or release name"),
                ));
            }
        }
        let mut hash = Sha256::new();
        for part in
            [&FORMAT.to_string(), name.as_str(), &suite, &packages.join(" "), &script, std::env::consts::ARCH]
        {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Ok(Self { name, suite, packages, script, digest: hex(hash) })
    }
}

/// `VERSION_CODENAME` of os-release(5).
fn machine_suite() -> Result<String, Step> {
    let text = fs::read_to_string("/etc/os-release").at("read /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches('"').to_owned())
        .ok_or_else(|| {
            Step::refused(
                "read the recipe",
                "the machine's release has no code name; name a suite in the recipe",
            )
        })
}
