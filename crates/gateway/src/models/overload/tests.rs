use super::{Verdict, verdict};

#[test]
fn each_protocols_word_for_come_back_later_is_known_and_the_others_are_left_alone() {
    for (begin, expected) in [
        ("", Verdict::Unsaid),
        (": ping\n\n", Verdict::Unsaid),
        ("event: error\ndata: {\"type\":\"error\"", Verdict::Unsaid),
        (
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"\"}}\n\n",
            Verdict::Passing,
        ),
        (
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\"}}\n\n",
            Verdict::Stands,
        ),
        ("data: {\"type\":\"message_start\",\"message\":{}}\n\n", Verdict::Stands),
        // Chat completions have no names of events.
        (
            "data: {\"error\":{\"message\":\"busy\",\"type\":\"server_error\",\"code\":null}}\n\n",
            Verdict::Passing,
        ),
        ("data: {\"error\":{\"message\":\"busy\",\"code\":503}}\r\n\r\n", Verdict::Passing),
        (
            "data: {\"error\":{\"type\":\"rate_limit_error\",\"code\":\"insufficient_quota\"}}\n\n",
            Verdict::Stands,
        ),
        ("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"error\":null}\n\n", Verdict::Stands),
        // Responses begin with events that say nothing.
        (
            "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n",
            Verdict::Unsaid,
        ),
        (
            "data: {\"type\":\"response.created\",\"response\":{}}\n\ndata: {\"type\":\"response.in_progress\"}\n\n\
             data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\",\"message\":\"\"}}}\n\n",
            Verdict::Passing,
        ),
        (
            "data: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"\"}\n\n",
            Verdict::Passing,
        ),
        ("data: {\"type\":\"error\",\"code\":\"invalid_prompt\",\"message\":\"\"}\n\n", Verdict::Stands),
        ("data: {\"type\":\"response.output_item.added\",\"item\":{}}\n\n", Verdict::Stands),
        ("data: [DONE]\n\n", Verdict::Stands),
    ] {
        assert_eq!(verdict(begin.as_bytes()), expected, "{begin}");
    }
}
