//! What a manifest names must be there and be callable: better known now than in somebody's first turn.
//!
//! It is looked for as it will be in a session: with the package's own interpreter, in its directory, with its variables. What a
//! session may have and a build has not (a host to reach, variables of its own) can make an import fail here and not there: that
//! is said in the log and is no failure.

use std::path::Path;

use wharf_domain::manifest::{Kind, Manifest};
use wharf_wire::host::Env;
use wharf_wire::host::exec::{ExecRequest, ExecResult};

use super::Trouble;
use super::site::Site;

/// Seconds a package may take to be imported.
const SECONDS: u32 = 60;
/// How a look ends that found something wrong for sure, and one that could not tell.
const WRONG: i32 = 90;
const UNSURE: i32 = 91;

const PYTHON: &str = include_str!("entry/look.py");
const NODE: &str = include_str!("entry/look.mjs");

const PYTHON_START: &str = r#"if [ -x .venv/bin/python3 ]; then own=.venv/bin/python3; else own=python3; fi
command -v "$own" >/dev/null || { echo "the image has no python3"; exit 90; }
exec "$own" -c "$WHARF_LOOK" "$WHARF_ENTRY""#;
const NODE_START: &str = r#"command -v node >/dev/null || { echo "the image has no node"; exit 90; }
exec node --input-type=module -e "$WHARF_LOOK""#;
const PROGRAM: &str = r#"case "$WHARF_ENTRY" in
*/*) [ -e "$WHARF_ENTRY" ] || { echo "is not there after the build"; exit 90; }
    [ -f "$WHARF_ENTRY" ] && [ -x "$WHARF_ENTRY" ] || { echo "is no program: make it one with chmod +x"; exit 90; } ;;
*) command -v "$WHARF_ENTRY" >/dev/null || { echo "is no program that is found: name it by its path in the package, such as ./run"; exit 90; } ;;
esac"#;

impl Site<'_> {
    pub(super) async fn entry(&mut self, manifest: &Manifest) -> Result<(), Trouble> {
        let Some(entry) = manifest.entry.first() else { return Ok(()) };
        let (script, look) = match manifest.kind {
            Kind::Python => (PYTHON_START, PYTHON),
            Kind::Node => {
                let file = entry.split('#').next().unwrap_or(entry);
                self.there(file).await?;
                (NODE_START, NODE)
            }
            Kind::Command | Kind::Acp => (PROGRAM, ""),
            Kind::Shell | Kind::ComputerUse => return Ok(()),
        };
        let mut env = Env(manifest.env.clone());
        for (name, value) in [
            ("WHARF_ENTRY", entry.as_str()),
            ("WHARF_LOOK", look),
            ("WHARF_PACKAGE", &self.dir),
            // A look leaves nothing behind.
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ] {
            env.0.insert(name.to_owned(), value.to_owned());
        }
        let request = ExecRequest {
            cwd: Some(self.dir.clone()),
            env,
            timeout_seconds: Some(SECONDS),
            max_output_bytes: Some(64 * 1024),
            ..ExecRequest::argv(["/bin/sh", "-c", script])
        };
        let ended = self.client.exec(&request).await?;
        let said = last_line(&ended.stdout);
        match ended.exit.exit_code {
            Some(0) => Ok(()),
            Some(WRONG) => {
                if !ended.stderr.is_empty() {
                    self.say("stderr", &ended.stderr).await?;
                }
                Err(Trouble::Failed(format!("its entry {entry} {said}")))
            }
            _ => self.unsure(entry, &ended, said).await,
        }
    }

    async fn unsure(&mut self, entry: &str, ended: &ExecResult, said: &str) -> Result<(), Trouble> {
        let why = match ended.exit.exit_code {
            _ if ended.timed_out => format!("its import took longer than {SECONDS} s"),
            Some(UNSURE) => said.to_owned(),
            Some(code) => format!("its import ended the process with exit code {code}"),
            None => "its import was ended by a signal".to_owned(),
        };
        if !ended.stderr.is_empty() {
            self.say("stderr", &ended.stderr).await?;
        }
        let text = format!("whether the entry {entry} can be called is not known: {why}; a turn will tell\n");
        self.say("wharf", &text).await
    }

    async fn there(&self, file: &str) -> Result<(), Trouble> {
        let path = Path::new(&self.dir).join(file);
        match self.client.stat(&path.to_string_lossy(), true).await {
            Ok(_) => Ok(()),
            Err(e) if e.code() == wharf_domain::Code::NotFound => {
                Err(Trouble::Failed(format!("its entry {file} is not there after the build")))
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default()
}
