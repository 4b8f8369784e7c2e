//! `wharf.toml`: what an agent package says of itself.
//!
//! Strict on purpose: a key that is not known is an error that names the nearest one that is, because a limit or a secret
//! that was misspelt and ignored is a promise dropped. Nothing here reads a file: callers bring the text.

mod detect;
mod raw;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::egress::Pattern;
use crate::error::{Code, Error, Result};
use crate::limits;
use crate::name::Name;
use crate::quota::Resources;

pub use detect::{Source, detect, lockfiles};

/// The file's name, at the top of a package.
pub const FILE: &str = "wharf.toml";

/// How an agent is run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Each message is a shell script; the reply is its output and exit code.
    #[default]
    Shell,
    /// The built-in model loop.
    ComputerUse,
    /// A program: one JSON object per line on stdin, JSON events per line on stdout.
    Command,
    /// `module:function`, called with `(message, context)`.
    Python,
    /// `file#export`, called with `(message, context)`.
    Node,
    /// A program speaking the Agent Client Protocol on its standard streams.
    Acp,
}

impl Kind {
    pub const ALL: &'static [Self] =
        &[Self::Shell, Self::ComputerUse, Self::Command, Self::Python, Self::Node, Self::Acp];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::ComputerUse => "computer-use",
            Self::Command => "command",
            Self::Python => "python",
            Self::Node => "node",
            Self::Acp => "acp",
        }
    }

    /// Whether it is part of Wharf and so has nothing to build or to start.
    pub const fn is_built_in(self) -> bool {
        matches!(self, Self::Shell | Self::ComputerUse)
    }

    /// Checks program and arguments, or what is called, against the kind. The error says what is expected.
    pub fn check_entry(self, entry: &[String]) -> std::result::Result<(), String> {
        if entry.len() > 256 {
            return Err("an entry has at most 256 parts".into());
        }
        if entry.iter().any(|part| part.contains('\0')) {
            return Err("an entry holds no U+0000".into());
        }
        match (self, entry) {
            (Self::Shell | Self::ComputerUse, []) => Ok(()),
            (Self::Shell | Self::ComputerUse, _) => {
                Err(format!("an agent of kind {self} is part of Wharf and has no entry"))
            }
            (Self::Command | Self::Acp, [program, ..]) if !program.is_empty() => Ok(()),
            (Self::Command | Self::Acp, _) => Err(format!(
                "an agent of kind {self} needs its program and arguments, such as [\"./run\", \"--fast\"]"
            )),
            (Self::Python, [target]) => check_python(target),
            (Self::Node, [target]) => check_node(target),
            (Self::Python, _) => Err(PYTHON_ENTRY.into()),
            (Self::Node, _) => Err(NODE_ENTRY.into()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|k| k.as_str() == s).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|k| k.as_str()).collect();
            let detail = format!("{:?} is no kind of agent", s.chars().take(80).collect::<String>());
            let hint = match nearest(s, known.iter().copied()) {
                Some(near) => format!("; did you mean {near:?}?"),
                None => format!("; kinds are {}", known.join(", ")),
            };
            Error::new(Code::InvalidField, format!("{detail}{hint}")).field("kind")
        })
    }
}

const PYTHON_ENTRY: &str = "the entry of a python agent is \"module:function\", such as \"agent:answer\"";
const NODE_ENTRY: &str = "the entry of a node agent is \"file#export\", such as \"agent.mjs#answer\"; without an export it is the default one";

fn check_python(target: &str) -> std::result::Result<(), String> {
    let is_name = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c == '_' || c.is_alphanumeric())
    };
    let dotted = |text: &str| text.split('.').all(is_name);
    match target.split_once(':') {
        Some((module, function)) if dotted(module) && dotted(function) => Ok(()),
        _ => Err(format!("{PYTHON_ENTRY}; {:?} is not", shown(target))),
    }
}

fn check_node(target: &str) -> std::result::Result<(), String> {
    let (file, export) = target.split_once('#').unwrap_or((target, "default"));
    let stays_inside = !file.split('/').any(|part| part == "..");
    if !file.is_empty() && stays_inside && !export.is_empty() && !export.contains(['#', '/']) {
        Ok(())
    } else {
        Err(format!("{NODE_ENTRY}; {:?} is not", shown(target)))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

/// What a package may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// Nothing outside.
    #[default]
    None,
    /// Hosts by pattern, with a port or without: `pypi.org`, `*.debian.org:443`.
    Allow(Vec<Pattern>),
    /// Everything that is not private.
    Open,
}

/// Hosts of the public package registries: what builds may reach where the space does not say.
const REGISTRIES: [&str; 14] = [
    "index.crates.io",
    "static.crates.io",
    "crates.io",
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "proxy.golang.org",
    "sum.golang.org",
    "rubygems.org",
    "index.rubygems.org",
    "repo.maven.apache.org",
    "deb.debian.org",
    "security.debian.org",
];

/// The public package registries, by name.
pub fn registries() -> Vec<Pattern> {
    REGISTRIES.iter().filter_map(|host| host.parse().ok()).collect()
}

impl Egress {
    /// What of it is not among the hosts that were granted, in words for whoever asked.
    pub fn beyond(&self, granted: &[Pattern]) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Open => vec!["every host (egress open)".to_owned()],
            Self::Allow(hosts) => hosts
                .iter()
                .filter(|host| !granted.iter().any(|g| host.within(g)))
                .map(ToString::to_string)
                .collect(),
        }
    }
}

/// Limits a package asks for; those absent are the space's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl Limits {
    /// What is asked for here, and what it leaves open as `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.or(other.cpu_millis),
            memory_mib: self.memory_mib.or(other.memory_mib),
            disk_mib: self.disk_mib.or(other.disk_mib),
            pids: self.pids.or(other.pids),
        }
    }

    /// `base` with what is asked for here.
    #[must_use]
    pub fn over(self, base: Resources) -> Resources {
        Resources {
            cpu_millis: self.cpu_millis.unwrap_or(base.cpu_millis),
            memory_mib: self.memory_mib.unwrap_or(base.memory_mib),
            disk_mib: self.disk_mib.unwrap_or(base.disk_mib),
            pids: self.pids.unwrap_or(base.pids),
        }
    }
}

/// How a package is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Run in order by a shell in the package's directory, as `agent`. The first that fails ends the build.
    pub commands: Vec<String>,
    /// What the build may reach.
    pub egress: Egress,
    /// The image it is built in; the package's own when absent.
    pub image: Option<Name>,
    pub timeout_seconds: u32,
    pub resources: Limits,
}

/// A package, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub name: Option<Name>,
    pub description: Option<String>,
    pub kind: Kind,
    /// Program and arguments, or the one thing that is called.
    pub entry: Vec<String>,
    /// The image its sessions start from.
    pub image: Option<Name>,
    pub env: BTreeMap<String, String>,
    /// Names of the space's secrets it wants connections with. Their values never enter its sessions.
    pub secrets: Vec<Name>,
    /// What it may reach when it runs.
    pub egress: Egress,
    pub resources: Limits,
    pub instructions: Option<String>,
    pub build: Build,
    /// Where it comes from: the file, or what the package looks like.
    pub recognised: Recognised,
}

/// How a manifest came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// It was written.
    Manifest,
    Cargo,
    Requirements,
    Pyproject,
    PackageJson,
}

impl Recognised {
    pub const fn file(self) -> &'static str {
        match self {
            Self::Manifest => FILE,
            Self::Cargo => "Cargo.toml",
            Self::Requirements => "requirements.txt",
            Self::Pyproject => "pyproject.toml",
            Self::PackageJson => "package.json",
        }
    }
}

/// Where a package wants to be built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub image: Option<Name>,
    pub resources: Limits,
}

/// What the text of a `wharf.toml` says of where it is built. One that does not read says nothing: its build tells why.
pub fn place(text: &str) -> Place {
    if text.len() > limits::MANIFEST_BYTES {
        Place::default()
    } else {
        raw::Raw::parse(text).map_or_else(|_| Place::default(), raw::Raw::place)
    }
}

impl Manifest {
    /// Where it is built: what it says of its sessions' image holds for the build where nothing else is said.
    pub fn place(&self) -> Place {
        Place {
            image: self.build.image.clone().or_else(|| self.image.clone()),
            resources: self.build.resources,
        }
    }

    /// Reads `wharf.toml`. What it does not say of the build is taken from the other files of the package.
    pub fn parse(text: &str, source: &dyn Source) -> Result<Self> {
        let most = limits::MANIFEST_BYTES;
        if text.len() > most {
            let detail =
                format!("it takes {} bytes; at most {most} are read (limit MANIFEST_BYTES)", text.len());
            return Err(refused(detail));
        }
        raw::Raw::parse(text)?.understood(source)
    }
}

/// An error in a manifest: every one names the file.
fn refused(detail: impl fmt::Display) -> Error {
    Error::new(Code::InvalidField, format!("{FILE}: {detail}")).field(FILE)
}

/// The known word nearest to a wrong one, when one is near enough to be meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(wrong, k), k))
        .min()
        .filter(|(distance, k)| *distance <= (k.len().max(wrong.len()) / 3).max(1))
        .map(|(_, k)| k)
}
