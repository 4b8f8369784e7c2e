//! The part of the demonstration with an agent of one's own: Python in a git repository of Wharf's own, built in a session of its
//! own, talked to, and built again by a push.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::server::Server;
use super::{User, step, text};
use crate::sh;

pub fn story(user: &User, dir: &Path, server: &Server) -> Result<()> {
    let tree = dir.join("triage");
    let url = format!("{}/git/demo/triage.git", server.url);
    let git = |line: &[&str]| {
        let password = text(&server.password_file());
        // git asks its helper, so that no password is an argument of a process.
        let helper =
            format!("credential.helper=!f() {{ echo username=admin; echo password=$(cat {password}); }}; f");
        let mut git = Command::new("git");
        git.args(["-c", &helper, "-c", "user.name=demo", "-c", "user.email=demo@example.org", "-C"])
            .arg(&tree);
        sh::output(git.args(line))
    };
    step("a repository, and a Python agent pushed to it", || {
        let source = sh::root().join("examples/agents/triage");
        std::fs::create_dir_all(&tree)?;
        for file in ["wharf.toml", "graph.py", "triage.py"] {
            std::fs::copy(source.join(file), tree.join(file)).with_context(|| file.to_owned())?;
        }
        user.run(&["repo", "create", "triage"])?;
        git(&["init", "-q", "-b", "main"])?;
        git(&["add", "-A"])?;
        git(&["commit", "-q", "-m", "triage"])?;
        git(&["push", "-q", &url, "main"]).map(drop)
    })?;
    step("it is built", || user.run(&["agent", "build", "triage", "--git", &url]).map(drop))?;
    step("it answers in a session", || {
        user.run(&["session", "create", "pilot", "--agent", "triage", "--wait"])?;
        let said = user.send("pilot", "A tanker asks for a place")?.join("\n");
        ensure!(said.contains("The tanker goes to berth 5."), "it said\n{said}");
        Ok(())
    })?;
    step("a push builds it again, and a new session has the new one", || {
        let path = tree.join("triage.py");
        let source = std::fs::read_to_string(&path)?;
        std::fs::write(&path, source.replace("\"tanker\": 5", "\"tanker\": 6"))?;
        git(&["commit", "-qam", "the tankers have moved"])?;
        git(&["push", "-q", &url, "main"])?;
        let builds = user.json(&["agent", "builds", "triage"])?;
        let newest = builds.as_array().and_then(|all| all.last()).context("no build after the push")?;
        let id = newest["id"].as_str().context("a build without an id")?.to_owned();
        user.run(&["agent", "log", &id])?;
        user.run(&["session", "create", "pilot-2", "--agent", "triage", "--wait"])?;
        let said = user.send("pilot-2", "A tanker asks for a place")?.join("\n");
        ensure!(said.contains("The tanker goes to berth 6."), "it said\n{said}");
        Ok(())
    })
}
