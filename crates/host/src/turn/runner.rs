//! What is started for an agent: the program itself, or the runner that calls its function.
//!
//! A runner is a script of the host's own, handed to the interpreter as descriptor 3. It speaks the protocol on descriptors 4
//! and 5, so that whatever the agent prints or reads on its standard streams is log and nothing.

use wharf_wire::host::path::{normalise, normalise_from};
use wharf_wire::host::turn::{AgentKind, AgentSpec};

use super::process::Program;
use crate::accounts;
use crate::host::Host;

const PYTHON: &str = include_str!("runner/runner.py");
const NODE: &str = include_str!("runner/runner.js");

const PYTHON_START: &str = "exec(compile(open(3, encoding='utf-8').read(), 'wharf-runner', 'exec'))";
const NODE_START: &str = "const { readFileSync } = await import('node:fs'); \
    await new (async () => {}).constructor('load', readFileSync(3, 'utf8'))((what) => import(what));";

/// The protocol moves out of the way of the agent's own standard streams.
const STREAMS: &str = "exec 5<&0 4>&1 0</dev/null 1>&2; exec \"$@\"";

/// The host's own program, by the name it has for every process that runs it.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// The variable that tells an agent where its package lies.
const PACKAGE: &str = "WHARF_PACKAGE";

pub fn program(host: &Host, spec: &AgentSpec) -> Result<Program, String> {
    if spec.kind == AgentKind::ComputerUse {
        let argv = vec![OWN_PROGRAM.to_owned(), "agent".to_owned()];
        return Ok(Program { argv, script: None, env: spec.env.clone() });
    }
    let account = accounts::find(&host.root, host.power, None).map_err(|fault| fault.0.detail)?;
    let home = normalise(&account.home).map_err(|e| e.to_string())?;
    let package = match spec.package.as_deref().or(spec.cwd.as_deref()) {
        Some(path) => normalise_from(&home, path).map_err(|e| e.to_string())?,
        None => home,
    };
    let at = host.root.outside(&package);
    let shown = at.to_string_lossy().into_owned();
    let mut env = spec.env.clone();
    env.0.entry(PACKAGE.to_owned()).or_insert_with(|| shown.clone());
    let runner = |interpreter: String, start: &[&str]| {
        let entry = spec.entry.first().cloned().unwrap_or_default();
        let mut argv: Vec<String> = ["/bin/sh", "-c", STREAMS, "wharf-agent"].map(str::to_owned).to_vec();
        argv.push(interpreter);
        argv.extend(start.iter().map(|s| (*s).to_owned()));
        argv.extend([entry, shown.clone()]);
        argv
    };
    Ok(match spec.kind {
        AgentKind::Python => {
            // What the build installed beside the agent.
            let own = at.join(".venv/bin/python3");
            let interpreter =
                if own.exists() { own.to_string_lossy().into_owned() } else { "python3".to_owned() };
            Program { argv: runner(interpreter, &["-uc", PYTHON_START]), script: Some(PYTHON), env }
        }
        AgentKind::Node => Program {
            argv: runner("node".to_owned(), &["--input-type=module", "-e", NODE_START]),
            script: Some(NODE),
            env,
        },
        _ => {
            let mut argv = spec.entry.clone();
            if let (Some(program), Some(_)) = (argv.first_mut(), &spec.package)
                && program.contains('/')
                && !program.starts_with('/')
            {
                *program = at.join(&*program).to_string_lossy().into_owned();
            }
            Program { argv, script: None, env }
        }
    })
}
