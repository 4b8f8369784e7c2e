//! The part of the demonstration with a screen: an agent with a scripted model fills in a form in Chromium, by looking and
//! clicking, on a real desktop. Its screenshots are kept.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{User, step, text};
use crate::sh;

const SESSION: &str = "screen";

pub fn story(user: &User, dir: &Path) -> Result<()> {
    let form = sh::root().join("examples/form");
    step("a session with a desktop and an agent whose model is scripted", || {
        let script = text(&form.join("turns.json"));
        user.run(&["provider", "create", "robot", "--protocol", "scripted", "--script", &script])?;
        let create =
            ["session", "create", SESSION, "--wait", "--image", "desktop", "--env", "WHARF_DESKTOP=1024x768"];
        let agent = ["--agent", "computer-use", "--provider", "robot", "--model", "scripted"];
        let limits = ["--cpu", "2", "--memory", "1Gi", "--disk", "512Mi", "--pids", "512"];
        user.run(&[&create[..], &agent, &limits].concat())?;
        for file in ["page.html", "serve.py"] {
            user.run(&["session", "cp", &text(&form.join(file)), &format!("{SESSION}:{file}")])?;
        }
        user.run(&["session", "exec", SESSION, "--background", "--", "python3", "serve.py"]).map(drop)
    })?;
    step("the agent fills in a web form by looking and clicking", || {
        let lines = user.send(SESSION, "Fill in the form at http://127.0.0.1:8000/ and send it.")?;
        let said = lines.join("\n");
        ensure!(said.contains("The form is sent."), "the agent said\n{said}");
        Ok(())
    })?;
    step("what it sent has arrived", || {
        let sent: Value =
            serde_json::from_str(&user.run(&["session", "cp", &format!("{SESSION}:sent.json"), "-"])?)
                .context("sent.json")?;
        let wanted = json!({"name": "Żuraw 日本丸 🎉", "text": "grain, 400 t", "agreed": true});
        ensure!(sent == wanted, "it is {sent}, and should be {wanted}");
        Ok(())
    })?;
    let kept = dir.join("screenshots");
    step(&format!("screenshots are in {}", kept.display()), || {
        std::fs::create_dir_all(&kept)?;
        user.run(&["session", "screenshot", SESSION, "--file", &text(&kept.join("last.png"))])?;
        let found = user.exec(SESSION, "find .wharf/agent -name '*.png' | sort")?;
        for (n, path) in found.lines().enumerate() {
            let to = kept.join(format!("{:02}.png", n + 1));
            user.run(&["session", "cp", &format!("{SESSION}:{path}"), &text(&to)])?;
        }
        ensure!(found.lines().count() >= 7, "the agent kept {} pictures", found.lines().count());
        Ok(())
    })?;
    step("the session closes", || user.run(&["session", "close", SESSION, "--wait"]).map(drop))
}
