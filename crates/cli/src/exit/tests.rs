#![allow(clippy::unwrap_used)]
use super::*;
use wharf_client::Problem;

fn problem(code: Code) -> anyhow::Error {
    Error::Problem(Box::new(Problem {
        status: code.status(),
        code: Some(code),
        code_text: code.as_str().into(),
        detail: "no".into(),
        field: None,
        retryable: code.retryable(),
        request_id: Some("r-1".into()),
        retry_after: None,
    }))
    .into()
}

#[test]
fn every_problem_code_has_its_exit_code() {
    let table: Vec<String> =
        Code::ALL.iter().map(|c| format!("{} {}", code(&problem(*c)), c.as_str())).collect();
    insta::assert_snapshot!(table.join("\n"), @r"
    2 bad_request
    2 unknown_field
    2 invalid_field
    2 invalid_name
    2 invalid_reference
    4 unauthenticated
    4 token_expired
    4 forbidden
    3 not_found
    2 method_not_allowed
    5 already_exists
    5 invalid_state
    5 in_use
    5 idempotency_mismatch
    5 in_progress
    5 lease_lost
    5 precondition_failed
    2 too_large
    2 unsupported_media_type
    2 range_not_satisfiable
    1 quota_exceeded
    1 unsupported
    6 rate_limited
    1 internal
    6 bad_gateway
    6 unavailable
    6 timeout
    ");
}

#[test]
fn a_context_around_an_error_keeps_its_code_and_its_request_id() {
    let e = problem(Code::NotFound).context("cannot copy");
    assert_eq!(code(&e), NOT_FOUND);
    assert_eq!(describe(&e), "error: cannot copy: no\n  request id: r-1");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let e = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).context("writing");
    assert_eq!(code(&e), 0);
}

#[test]
fn escape_sequences_of_a_server_do_not_reach_the_terminal() {
    let e = anyhow::Error::from(Refusal::failed("bad \u{1b}[31mred"));
    assert!(!describe(&e).contains('\u{1b}'));
}
