//! Which built-in role may use which operation: reviewed as a snapshot, because a change of it is a change of trust.

use std::fmt::Write as _;

use crate::lab::Lab;
use crate::openapi::operations;
use crate::walk::{call, furnish};

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_of_roles_is_as_reviewed() {
    let lab = Lab::new().await;
    let things = furnish(&lab).await;
    let roles = [
        ("operator", lab.actor("olga", &[("operator", None)]).await),
        ("developer", lab.actor("dora", &[("developer", Some("lab"))]).await),
        ("viewer", lab.actor("vera", &[("viewer", Some("lab"))]).await),
        ("agent", lab.actor("alan", &[("agent", Some("lab"))]).await),
        ("stranger", lab.actor("sam", &[]).await),
    ];
    let document = wharf_server::document();
    let mut all = operations(&document);
    all.retain(|(_, _, o)| o["x-wharf-permit"]["access"] != "public");
    let mut matrix = format!("{:<26}", "operation");
    for (role, _) in &roles {
        let _ = write!(matrix, " {role:<9}");
    }
    matrix.push('\n');
    for (path, method, operation) in &all {
        let _ = write!(matrix, "{:<26}", operation["operationId"].as_str().unwrap());
        let mut row = Vec::new();
        // The least trusted first: a refusal leaves things as they are.
        for (_, caller) in roles.iter().rev() {
            if waits(operation["operationId"].as_str().unwrap()) {
                // Nobody makes sessions run here, and a right is judged before anyone waits for one.
                let word = match tokio::time::timeout(
                    std::time::Duration::from_millis(400),
                    call(caller, path, method, operation, &things),
                )
                .await
                {
                    Err(_) => "yes",
                    Ok(refused) => word(&refused),
                };
                row.push(word);
                continue;
            }
            row.push(word(&call(caller, path, method, operation, &things).await));
        }
        for word in row.iter().rev() {
            let _ = write!(matrix, " {word:<9}");
        }
        matrix.push('\n');
    }
    let matrix: String = matrix.lines().map(|l| l.trim_end().to_owned() + "\n").collect();
    insta::assert_snapshot!("role_matrix", matrix);
}

/// What a refusal says of the right: none (`no`), not even to know of the thing (`unseen`), or something else is missing.
fn word((status, code): &(u16, String)) -> &'static str {
    match (status, code.as_str()) {
        (403, _) => "no",
        (404, "not_found") => "unseen",
        _ => "yes",
    }
}

/// Operations that answer only when a computer is up, or go on for ever.
fn waits(operation: &str) -> bool {
    matches!(
        operation,
        "exec"
            | "terminal"
            | "desktop"
            | "screenshot"
            | "get_port"
            | "put_port"
            | "post_port"
            | "patch_port"
            | "delete_port"
            | "publish"
            | "get_file"
            | "put_file"
            | "post_file"
            | "delete_file"
            | "session_events"
            | "build_log"
            | "space_events"
    )
}
