//! The file as it is written, and what it means.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Build, Egress, Kind, Limits, Manifest, Place, Recognised, Source, detect, nearest, refused};
use crate::error::Result;
use crate::limits;
use crate::name::Name;
use crate::quota::Resources;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    name: Option<Name>,
    description: Option<String>,
    kind: Option<String>,
    entry: Option<Entry>,
    image: Option<Name>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    secrets: Vec<Name>,
    egress: Option<Egress>,
    #[serde(default)]
    resources: Limits,
    instructions: Option<String>,
    build: Option<RawBuild>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBuild {
    commands: Option<Vec<String>>,
    egress: Option<Egress>,
    image: Option<Name>,
    timeout_seconds: Option<u32>,
    #[serde(default)]
    resources: Limits,
}

/// One string or a list.
#[derive(Debug)]
struct Entry {
    parts: Vec<String>,
    is_list: bool,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> std::result::Result<Entry, E> {
                Ok(Entry { parts: vec![s.to_owned()], is_list: false })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Entry, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Entry { parts, is_list: true })
            }
        }
        d.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Egress {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Egress;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"none\", \"open\" or a list of hosts such as [\"pypi.org\", \"*.debian.org:443\"]",
                )
            }
            fn visit_str<E: de::Error>(self, s: &str) -> std::result::Result<Egress, E> {
                match s {
                    "none" => Ok(Egress::None),
                    "open" => Ok(Egress::Open),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Egress, A::Error> {
                let mut hosts = Vec::new();
                while let Some(host) = seq.next_element::<String>()? {
                    let most = limits::MANIFEST_HOSTS;
                    if hosts.len() == most {
                        return Err(de::Error::custom(format!(
                            "at most {most} hosts (limit MANIFEST_HOSTS)"
                        )));
                    }
                    hosts.push(host.parse().map_err(|e: crate::Error| de::Error::custom(e.public))?);
                }
                Ok(if hosts.is_empty() { Egress::None } else { Egress::Allow(hosts) })
            }
        }
        d.deserialize_any(Either)
    }
}

impl Raw {
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            let line = e.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let mut detail = e.message().trim().to_owned();
            if let Some((wrong, known)) = unknown(&detail) {
                let hint = match nearest(&wrong, known.iter().map(String::as_str)) {
                    Some(near) => format!("; did you mean {near:?}?"),
                    None => format!("; known are {}", known.join(", ")),
                };
                detail = format!("there is no key {wrong:?} here{hint}");
            }
            match line {
                Some(line) => refused(format_args!("line {line}: {detail}")),
                None => refused(detail),
            }
        })
    }

    pub(super) fn place(self) -> Place {
        let build = self.build.unwrap_or_default();
        Place { image: build.image.or(self.image), resources: build.resources }
    }

    pub(super) fn understood(self, source: &dyn Source) -> Result<Manifest> {
        let seen = detect::of(source);
        let kind = match &self.kind {
            Some(word) => word.parse::<Kind>().map_err(|e| refused(e.public))?,
            None => seen.as_ref().map(|s| s.kind).ok_or_else(|| {
                refused("it names no kind; say kind = \"command\", \"python\", \"node\" or \"acp\"")
            })?,
        };
        let entry = match self.entry {
            Some(Entry { parts, is_list: false }) if matches!(kind, Kind::Command | Kind::Acp) => {
                if parts[0].contains(char::is_whitespace) {
                    return Err(refused(format_args!(
                        "entry = {:?} would be one program of that name; write program and arguments as a list",
                        parts[0]
                    )));
                }
                parts
            }
            Some(entry) => entry.parts,
            None => seen.as_ref().filter(|s| s.kind == kind).map_or_else(Vec::new, |s| s.entry.clone()),
        };
        kind.check_entry(&entry).map_err(|why| refused(format_args!("entry: {why}")))?;
        check_env(&self.env)?;
        check_limits("resources", self.resources)?;
        let most = limits::MANIFEST_SECRETS;
        if self.secrets.len() > most {
            return Err(refused(format_args!("secrets: at most {most} (limit MANIFEST_SECRETS)")));
        }
        if self.description.as_ref().is_some_and(|d| d.len() > 1024) {
            return Err(refused("description: at most 1024 bytes"));
        }
        if self.instructions.as_ref().is_some_and(|i| i.len() > limits::TEXT_BYTES || i.contains('\0')) {
            return Err(refused(format_args!(
                "instructions: at most {} bytes, none of them NUL",
                limits::TEXT_BYTES
            )));
        }
        let raw = self.build.unwrap_or_default();
        check_limits("build.resources", raw.resources)?;
        let egress = self.egress.unwrap_or_default();
        let seen = seen.filter(|s| s.suits(kind));
        let (commands, needed) = match (raw.commands, seen) {
            (Some(commands), _) => (check_commands(commands)?, Egress::None),
            (None, Some(seen)) => (seen.commands.clone(), seen.egress()),
            (None, None) => (Vec::new(), Egress::None),
        };
        let timeout_seconds = raw.timeout_seconds.unwrap_or(limits::BUILD_SECONDS);
        let most = limits::BUILD_MAX_SECONDS;
        if !(1..=most).contains(&timeout_seconds) {
            let detail = format_args!("build.timeout_seconds is 1 to {most} (limit BUILD_MAX_SECONDS)");
            return Err(refused(detail));
        }
        // Named once it holds for both; not named at all, the build gets what its own commands need.
        let build_egress = match (raw.egress, &egress) {
            (Some(own), _) => own,
            (None, Egress::None) => needed,
            (None, both) => both.clone(),
        };
        Ok(Manifest {
            name: self.name,
            description: self.description,
            kind,
            entry,
            image: self.image,
            env: self.env,
            secrets: self.secrets,
            resources: self.resources,
            instructions: self.instructions,
            build: Build {
                egress: build_egress,
                commands,
                image: raw.image,
                timeout_seconds,
                resources: raw.resources,
            },
            egress,
            recognised: Recognised::Manifest,
        })
    }
}

fn check_env(env: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = env.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > limits::ENV_BYTES {
        return Err(refused(format_args!("env takes {bytes} bytes; at most {}", limits::ENV_BYTES)));
    }
    for (k, v) in env {
        if k.is_empty() || k.contains(['=', '\0']) || v.contains('\0') {
            return Err(refused(format_args!(
                "env: {k:?} cannot be set; names hold no '=', nothing holds U+0000"
            )));
        }
    }
    Ok(())
}

fn check_limits(field: &str, asked: Limits) -> Result<()> {
    asked.over(Resources::default()).validate().map_err(|e| refused(format_args!("{field}: {}", e.public)))
}

fn check_commands(commands: Vec<String>) -> Result<Vec<String>> {
    let most = limits::BUILD_COMMANDS;
    if commands.len() > most {
        return Err(refused(format_args!("build.commands: at most {most} (limit BUILD_COMMANDS)")));
    }
    for command in &commands {
        if command.trim().is_empty() || command.len() > limits::BUILD_COMMAND_BYTES || command.contains('\0')
        {
            return Err(refused(format_args!(
                "build.commands: each is 1 to {} bytes of shell (limit BUILD_COMMAND_BYTES), none of them NUL",
                limits::BUILD_COMMAND_BYTES
            )));
        }
    }
    Ok(commands)
}

/// The wrong word and the known ones of serde's "unknown field".
fn unknown(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (wrong, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((wrong.to_owned(), known))
}
