//! Calls that are banned where they do harm, each with its reason.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::files::is_test;
use super::scan::layers;
use super::{Finding, finding};

struct Ban {
    call: &'static str,
    why: &'static str,
    /// Beginnings of paths where it is right.
    except: &'static [&'static str],
    /// Whether test code may.
    tests_may: bool,
}

/// Where text for people goes to stdout: what a user typed a command for. Build scripts talk to cargo that way.
const TALKERS: &[&str] =
    &["crates/cli/", "crates/wharf/", "crates/xtask/", "crates/host/src/main.rs", "crates/host/src/bin/"];

const BANS: &[Ban] = &[
    Ban {
        call: "process::exit(",
        why: "skips destructors and drains: return from main instead",
        except: &[
            "crates/wharf/src/main.rs",
            "crates/xtask/src/main.rs",
            "crates/host/src/main.rs",
            "crates/host/src/bin/",
        ],
        tests_may: false,
    },
    Ban {
        call: "println!(",
        why: "libraries do not talk: trace or return",
        except: TALKERS,
        tests_may: true,
    },
    Ban { call: "print!(", why: "libraries do not talk: trace or return", except: TALKERS, tests_may: true },
    Ban {
        call: "SystemTime::now(",
        why: "the time comes in through ports::Clock",
        except: &[
            "crates/ports/src/clock.rs",
            "crates/xtask/",
            "crates/host/",
            "crates/cli/src/output.rs",
            "crates/jail/src/image.rs",
        ],
        tests_may: true,
    },
    Ban {
        call: "Utc::now(",
        why: "the time comes in through ports::Clock",
        except: &["crates/ports/src/clock.rs", "crates/xtask/"],
        tests_may: true,
    },
    Ban {
        call: "env::set_var(",
        why: "races with every thread that reads it: hand values over",
        except: &[],
        tests_may: false,
    },
    Ban {
        call: "env::remove_var(",
        why: "races with every thread that reads it: hand values over",
        except: &[],
        tests_may: false,
    },
    Ban { call: "todo!(", why: "no stubs", except: &[], tests_may: false },
    Ban { call: "unimplemented!(", why: "no stubs", except: &[], tests_may: false },
    Ban { call: "dbg!(", why: "left over from looking", except: &[], tests_may: false },
    Ban { call: "#[ignore", why: "a test that does not run proves nothing", except: &[], tests_may: false },
    Ban {
        call: "allow(unsafe_code",
        why: "unsafe lives in jail and host",
        except: &["crates/jail/", "crates/host/"],
        tests_may: false,
    },
];

pub fn check(root: &Path, path: &Path) -> Result<Vec<Finding>> {
    let text = std::fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())?;
    Ok(banned(path, &text))
}

pub fn banned(path: &Path, text: &str) -> Vec<Finding> {
    let code = layers(text).code;
    let shown = path.to_string_lossy();
    let test = is_test(path) || path.ends_with("build.rs");
    let mut findings = Vec::new();
    for (at, line) in code.lines().enumerate() {
        for ban in BANS {
            if !calls(line, ban.call)
                || (test && ban.tests_may)
                || ban.except.iter().any(|ok| shown.starts_with(ok))
            {
                continue;
            }
            let name = ban.call.trim_end_matches('(');
            findings.push(finding(path, at + 1, format!("`{name}` is banned here: {}", ban.why)));
        }
        if !test && line.trim_start().starts_with("mod tests {") {
            findings.push(finding(
                path,
                at + 1,
                "tests live in a sibling tests.rs, not in the file they test",
            ));
        }
    }
    findings
}

/// Whether the call occurs as itself and not as the end of a longer word (`eprintln!` is not `println!`).
fn calls(line: &str, call: &str) -> bool {
    line.match_indices(call).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        call.starts_with('#') || before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}
