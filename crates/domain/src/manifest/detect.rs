//! What a package without `wharf.toml` is, from the files at its top.
//!
//! It recognises and does not guess: where two readings are possible it says what to write into `wharf.toml`.

use super::{Build, Egress, FILE, Kind, Limits, Manifest, Recognised};
use crate::error::{Code, Error, Result};
use crate::name::Name;

/// The top of a package: which files are there, and the text of the small ones. Pure to its reader.
pub trait Source {
    fn has(&self, name: &str) -> bool;
    /// None when it is not there or is no text.
    fn read(&self, name: &str) -> Option<&str>;
}

/// Names with texts; a name without one is there and was not read.
impl Source for std::collections::BTreeMap<String, Option<String>> {
    fn has(&self, name: &str) -> bool {
        self.contains_key(name)
    }

    fn read(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_deref()
    }
}

/// What the other files say of kind, entry and build.
pub(super) struct Seen {
    pub kind: Kind,
    pub entry: Vec<String>,
    pub commands: Vec<String>,
    egress: Vec<&'static str>,
    name: Option<Name>,
    by: Recognised,
}

impl Seen {
    /// Whether its build commands are what a package of another kind needs as well: a command agent written in Python
    /// needs its requirements installed just so.
    pub fn suits(&self, kind: Kind) -> bool {
        match kind {
            Kind::Python => matches!(self.by, Recognised::Requirements | Recognised::Pyproject),
            Kind::Node => self.by == Recognised::PackageJson,
            Kind::Command | Kind::Acp => true,
            Kind::Shell | Kind::ComputerUse => false,
        }
    }

    /// What its build commands reach.
    pub fn egress(&self) -> Egress {
        if self.commands.is_empty() {
            return Egress::None;
        }
        Egress::Allow(self.egress.iter().filter_map(|host| host.parse().ok()).collect())
    }
}

const PIP: &str = "python3 -m venv .venv";
const PIP_PROJECT: &str = ".venv/bin/pip install --no-input .";

/// Debian's own, where an image of Debian has none.
const CARGO: &str = "command -v cargo >/dev/null || { sudo apt-get update -qq && \
    sudo DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends cargo; }";

/// npm is a package of its own registry: an image with Node alone can fetch it.
const NPM: &str = "npm() { if command -v npm >/dev/null; then command npm \"$@\"; else \
    [ -e /tmp/npm/package/bin/npm-cli.js ] || { mkdir -p /tmp/npm && \
    curl -fsSL \"$(curl -fsSL https://registry.npmjs.org/npm/latest-10 | jq -r .dist.tarball)\" | tar xz -C /tmp/npm; }; \
    node /tmp/npm/package/bin/npm-cli.js \"$@\"; fi; }";

pub(super) fn of(source: &dyn Source) -> Option<Seen> {
    cargo(source).or_else(|| python(source)).or_else(|| node(source))
}

fn table(source: &dyn Source, file: &str) -> toml::Table {
    source.read(file).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn cargo(source: &dyn Source) -> Option<Seen> {
    source.has("Cargo.toml").then(|| {
        let manifest = table(source, "Cargo.toml");
        let named = |t: Option<&toml::Value>| {
            t.and_then(|t| t.get("name")).and_then(toml::Value::as_str).map(str::to_owned)
        };
        let bins = manifest.get("bin").and_then(toml::Value::as_array);
        let package = named(manifest.get("package"));
        let binary = match bins.map(Vec::as_slice) {
            Some([one]) => named(Some(one)),
            Some([_, _, ..]) => None,
            _ => package.clone(),
        };
        let locked = if source.has("Cargo.lock") { " --locked" } else { "" };
        Seen {
            kind: Kind::Command,
            entry: binary.iter().map(|b| format!("./bin/{b}")).collect(),
            commands: vec![
                CARGO.to_owned(),
                // Sources and objects are not what runs: what is kept is the program.
                format!("cargo install{locked} --path . --root . --target-dir /tmp/wharf-cargo"),
            ],
            egress: vec![
                "index.crates.io",
                "static.crates.io",
                "crates.io",
                "deb.debian.org",
                "security.debian.org",
            ],
            name: package.and_then(|n| n.replace('_', "-").parse().ok()),
            by: Recognised::Cargo,
        }
    })
}

/// The tool whose lockfile it is, where the image has it; else what installs without it, and a word about that.
fn locked(lockfile: &str, tool: &str, with: &str, instead: &str, without: &str) -> String {
    format!(
        "if command -v {tool} >/dev/null; then {with}; \
         else echo '{lockfile} is not followed: the image has no {tool}, and {instead}' >&2; {without}; fi"
    )
}

/// Installs a project into `.venv`, by its lockfile where it has one.
fn project(source: &dyn Source) -> Vec<String> {
    let instead = "pip installs what pyproject.toml allows today";
    let plain = format!("{PIP} && {PIP_PROJECT}");
    if source.has("uv.lock") {
        // Not linked to the cache, which does not come along.
        let uv = "UV_LINK_MODE=copy uv sync --frozen --no-dev";
        vec![locked("uv.lock", "uv", uv, instead, &plain)]
    } else if source.has("poetry.lock") {
        let poetry = "POETRY_VIRTUALENVS_IN_PROJECT=true poetry install --only main --no-interaction";
        vec![locked("poetry.lock", "poetry", poetry, instead, &plain)]
    } else {
        vec![PIP.to_owned(), PIP_PROJECT.to_owned()]
    }
}

fn python(source: &dyn Source) -> Option<Seen> {
    let (by, commands) = if source.has("requirements.txt") {
        let install = ".venv/bin/pip install --no-input -r requirements.txt";
        (Recognised::Requirements, vec![PIP.to_owned(), install.to_owned()])
    } else if source.has("pyproject.toml") {
        (Recognised::Pyproject, project(source))
    } else {
        return None;
    };
    let about = table(source, "pyproject.toml");
    let name = about.get("project").and_then(|p| p.get("name")).and_then(toml::Value::as_str);
    let module = ["agent", "main", "app"].into_iter().find(|m| source.has(&format!("{m}.py")));
    Some(Seen {
        kind: Kind::Python,
        entry: module.map(|m| format!("{m}:answer")).into_iter().collect(),
        commands,
        egress: vec!["pypi.org", "files.pythonhosted.org"],
        name: name.and_then(|n| n.to_lowercase().replace(['_', '.'], "-").parse().ok()),
        by,
    })
}

fn node(source: &dyn Source) -> Option<Seen> {
    source.has("package.json").then(|| {
        let package: serde_json::Value =
            source.read("package.json").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        let main = package.get("main").and_then(serde_json::Value::as_str).map(str::to_owned).or_else(|| {
            ["agent.mjs", "agent.js", "index.mjs", "index.js"]
                .into_iter()
                .find(|f| source.has(f))
                .map(str::to_owned)
        });
        let needs_packages =
            package.get("dependencies").and_then(serde_json::Value::as_object).is_some_and(|d| !d.is_empty());
        let scripted = package.get("scripts").and_then(|s| s.get("build")).is_some();
        // npm takes what a yarn.lock says into account, and nothing of pnpm's.
        let install = if source.has("package-lock.json") { "npm ci" } else { "npm install" };
        // What builds is often among the development packages.
        let (npm, pnpm) = if scripted {
            (
                format!("{install} && npm run build && npm prune --omit=dev"),
                "pnpm install --frozen-lockfile && pnpm run build && pnpm prune --prod",
            )
        } else {
            (format!("{install} --omit=dev"), "pnpm install --frozen-lockfile --prod")
        };
        let mut commands = Vec::new();
        if scripted || needs_packages {
            commands.push(if source.has("pnpm-lock.yaml") && !source.has("package-lock.json") {
                let instead = "npm installs what package.json allows today";
                format!("{NPM}; {}", locked("pnpm-lock.yaml", "pnpm", pnpm, instead, &npm))
            } else {
                format!("{NPM}; {npm}")
            });
        }
        let name = package.get("name").and_then(serde_json::Value::as_str);
        Seen {
            kind: Kind::Node,
            entry: main.into_iter().collect(),
            commands,
            egress: vec!["registry.npmjs.org"],
            name: name.and_then(|n| n.rsplit('/').next()).and_then(|n| n.parse().ok()),
            by: Recognised::PackageJson,
        }
    })
}

/// A package without `wharf.toml`.
///
/// # Errors
///
/// When nothing is recognised, or what is recognised does not say what to run.
pub fn detect(source: &dyn Source) -> Result<Manifest> {
    let refused = |detail: String| Error::new(Code::InvalidField, detail).field(FILE);
    let Some(seen) = of(source) else {
        return Err(refused(format!(
            "the package has no {FILE}, and none of Cargo.toml, requirements.txt, pyproject.toml and package.json \
             at its top; add a {FILE} with kind and entry"
        )));
    };
    if let Err(why) = seen.kind.check_entry(&seen.entry) {
        return Err(refused(format!(
            "the package looks like kind {} by its {}, but what to run is not to be seen; add a {FILE}: {why}",
            seen.kind,
            seen.by.file()
        )));
    }
    let egress = seen.egress();
    Ok(Manifest {
        name: seen.name,
        description: None,
        kind: seen.kind,
        entry: seen.entry,
        image: None,
        env: std::collections::BTreeMap::new(),
        secrets: Vec::new(),
        egress: Egress::None,
        resources: Limits::default(),
        instructions: None,
        build: Build {
            egress,
            commands: seen.commands,
            image: None,
            timeout_seconds: crate::limits::BUILD_SECONDS,
            resources: Limits::default(),
        },
        recognised: seen.by,
    })
}

/// Files whose content decides what a build installs, in the order a cache's digest takes them.
pub const fn lockfiles() -> &'static [&'static str] {
    &[
        "Cargo.lock",
        "package-lock.json",
        "pnpm-lock.yaml",
        "poetry.lock",
        "pyproject.toml",
        "requirements.txt",
        "uv.lock",
        "yarn.lock",
    ]
}
