//! A stranger's property tests: schemathesis reads the served OpenAPI document and calls everything in it.

use std::process::Command;

use serde_json::json;

use crate::installation::{Installation, SPACE, possible};

/// Pinned: a newer release may check more, and then the document is what has to follow on purpose.
const RELEASE: &str = "schemathesis==4.32.5";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemathesis_finds_no_failure() {
    if !possible() {
        return;
    }
    let Some(program) = installed() else { return };
    let wharf = Installation::start().await;
    wharf
        .post(&format!("/v1/spaces/{SPACE}/sessions?wait=ready"), json!({ "name": "one", "image": "tiny" }))
        .await;
    // A service account of its own: the run may end logins and change users.
    wharf.post("/v1/service-accounts", json!({ "name": "fuzz" })).await;
    let binding = json!({ "name": "fuzz", "role": "admin", "principal": "service-account/fuzz" });
    wharf.post("/v1/role-bindings", binding).await;
    let token = wharf.post("/v1/service-accounts/fuzz/tokens", json!({ "name": "fuzz" })).await;
    let bearer = token["token"].as_str().unwrap();
    let examples = std::env::var("WHARF_SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "12".into());
    let mut run = Command::new(program);
    run.args(["--config-file", concat!(env!("CARGO_MANIFEST_DIR"), "/../../schemathesis.toml")])
        .arg("run")
        .arg(format!("http://{}/openapi.json", wharf.address))
        .args(["--header", &format!("Authorization: Bearer {bearer}")])
        .args(["--max-examples", &examples, "--phases", "examples,coverage,fuzzing"])
        .args(["--request-timeout", "30", "--continue-on-failure", "--seed", "20261120"])
        .env("NO_COLOR", "1");
    let out = tokio::task::spawn_blocking(move || run.output().unwrap()).await.unwrap();
    let printed = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/schemathesis.txt"), &printed).unwrap();
    assert!(out.status.success(), "{printed}");
    wharf.finish();
}

/// In an environment of the build's own, made once.
fn installed() -> Option<std::path::PathBuf> {
    let venv = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let program = venv.join("bin/schemathesis");
    if !program.exists() {
        let made =
            Command::new("python3").args(["-m", "venv"]).arg(&venv).status().is_ok_and(|s| s.success())
                && Command::new(venv.join("bin/pip"))
                    .args(["install", "--quiet", RELEASE])
                    .status()
                    .is_ok_and(|s| s.success());
        let required = std::env::var("WHARF_TEST_REQUIRE").is_ok_and(|r| r.split(',').any(|w| w == "python"));
        assert!(made || !required, "WHARF_TEST_REQUIRE names python, but {RELEASE} cannot be installed");
        if !made {
            eprintln!("skipped: {RELEASE} cannot be installed");
            return None;
        }
    }
    Some(program)
}
