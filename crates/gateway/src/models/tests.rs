#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use http::{HeaderMap, Method};
use wharf_domain::Plain;
use wharf_domain::model::{Protocol, ProviderSpec, Tokens};

use super::call::{Call, Kind, guess};
use super::meter::Meter;
use super::sse::{Splitter, data};
use super::upstream;

fn spec(protocol: Protocol) -> ProviderSpec {
    serde_json::from_value(serde_json::json!({"protocol": protocol, "retries": 0})).unwrap()
}

fn chat(body: &str) -> Call {
    Call::read(Kind::Chat, Bytes::copy_from_slice(body.as_bytes()))
        .unwrap_or_else(|f| panic!("{}", f.message))
}

#[test]
fn a_path_says_what_is_asked() {
    for (method, path, kind) in [
        (Method::POST, "/v1/messages", Kind::Messages),
        (Method::POST, "/v1/messages/count_tokens", Kind::Free),
        (Method::POST, "/v1/messages/batches", Kind::Uncounted),
        (Method::POST, "/v1/chat/completions", Kind::Chat),
        (Method::POST, "/openai/deployments/x/chat/completions", Kind::Chat),
        (Method::POST, "/v1/completions", Kind::Completions),
        (Method::POST, "/v1/responses", Kind::Responses),
        (Method::POST, "/v1/responses/resp_1/cancel", Kind::Free),
        (Method::POST, "/v1/embeddings", Kind::Embeddings),
        (Method::POST, "/v1/images/generations", Kind::Uncounted),
        (Method::GET, "/v1/models", Kind::Free),
        (Method::PUT, "/v1/models", Kind::Uncounted),
    ] {
        assert_eq!(Kind::of(&method, path), kind, "{method} {path}");
    }
}

#[test]
fn the_wish_for_usage_is_put_in_and_nothing_else_is_touched() {
    let call = chat(r#"{"model":"m", "stream":true,"z":[1.0, {"b":1,"a":2}],"a":"\u00e4"}"#);
    assert!(call.hides_usage());
    assert_eq!(
        call.metered_body().unwrap(),
        r#"{"model":"m","stream":true,"z":[1.0, {"b":1,"a":2}],"a":"\u00e4","stream_options":{"include_usage":true}}"#
    );
    let call =
        chat(r#"{"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":false}}"#);
    assert!(call.hides_usage());
    assert_eq!(
        call.metered_body().unwrap(),
        r#"{"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true}}"#
    );
}

#[test]
fn who_asks_for_usage_or_does_not_stream_is_left_alone() {
    for body in [
        r#"{ "stream": true, "stream_options": {"include_usage": true} }"#,
        r#"{ "stream": false, "model": "m" }"#,
        r#"{ "model": "m" }"#,
    ] {
        let call = chat(body);
        assert!(!call.hides_usage());
        assert_eq!(call.metered_body().unwrap(), body);
    }
}

#[test]
fn a_body_that_could_be_read_in_two_ways_is_refused() {
    for (body, says) in [
        (r#"{"model":"cheap","model":"dear"}"#, "twice"),
        (r#"{"model":["m"]}"#, "model"),
        (r#"{"model":"a\u0000b"}"#, "model"),
        (r#"{"stream":"yes"}"#, "stream"),
        ("[1]", "object"),
        ("", "object"),
        (r#"{"model":"m""#, "read"),
    ] {
        let refused = Call::read(Kind::Chat, Bytes::copy_from_slice(body.as_bytes())).unwrap_err();
        assert!(refused.message.contains(says), "{body}: {}", refused.message);
    }
}

#[test]
fn a_request_in_the_background_cannot_be_counted() {
    let call = Call::read(Kind::Responses, Bytes::from_static(br#"{"background":true}"#)).unwrap();
    assert_eq!(call.kind, Kind::Uncounted);
}

#[test]
fn tokens_are_guessed_from_words_and_images_are_not_words() {
    assert_eq!(guess(b""), 0);
    assert_eq!(guess(b"abcd efg"), 2);
    let image = "A".repeat(1_000_000);
    let body = format!("{{\"data\":\"{image}\"}}");
    assert!((1600..1610).contains(&guess(body.as_bytes())), "{}", guess(body.as_bytes()));
}

#[test]
fn events_are_cut_where_they_end_however_they_arrive() {
    let stream = b"event: a\ndata: 1\n\ndata: 2\r\n\r\n: note\n\ndata: 3\ndata: 4\n\nrest";
    for size in 1..stream.len() {
        let mut splitter = Splitter::default();
        let events: Vec<Bytes> = stream.chunks(size).flat_map(|c| splitter.push(c)).collect();
        let seen: Vec<_> = events.iter().map(|e| data(e).map(|d| String::from_utf8(d).unwrap())).collect();
        assert_eq!(
            seen,
            [Some("1".into()), Some("2".into()), None, Some("3\n4".into())],
            "in pieces of {size}"
        );
        let mut all: Vec<u8> = events.concat();
        all.extend_from_slice(&splitter.rest());
        assert_eq!(all, stream, "not a byte is lost");
    }
}

#[test]
fn anthropics_stream_is_read_with_its_cache_and_only_grows() {
    let mut meter = Meter::new(Kind::Messages, Some("text/event-stream"), true);
    let start = br#"data: {"type":"message_start","message":{"usage":{"input_tokens":10,"cache_creation_input_tokens":7,"cache_read_input_tokens":100,"output_tokens":1}}}"#;
    meter.event(start);
    meter.event(br#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"twelve chars"}}"#);
    assert!(!meter.complete());
    meter.event(
        br#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":42}}"#,
    );
    meter.event(br#"data: {"type":"message_stop"}"#);
    assert!(meter.complete());
    let reading = meter.reading(999);
    assert_eq!(reading.tokens, Tokens { input: 10, output: 42, cached: 100, cache_write: 7 });
    assert!(!reading.estimated);
}

#[test]
fn who_hangs_up_in_the_middle_is_charged_what_was_seen() {
    let mut meter = Meter::new(Kind::Messages, Some("text/event-stream"), true);
    meter.event(
        br#"data: {"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":1}}}"#,
    );
    meter.event(
        br#"data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"0123456789abcdef"}}"#,
    );
    let reading = meter.reading(999);
    assert_eq!((reading.tokens.input, reading.tokens.output, reading.estimated), (10, 4, true));

    let mut meter = Meter::new(Kind::Chat, Some("text/event-stream"), true);
    meter.event(br#"data: {"choices":[{"delta":{"content":"01234567"}}]}"#);
    meter.event(br#"data: {"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"a\": 1}"}}]}}]}"#);
    let reading = meter.reading(50);
    assert_eq!((reading.tokens.input, reading.tokens.output, reading.estimated), (50, 4, true));
}

#[test]
fn openais_usage_counts_the_cache_once() {
    let mut meter = Meter::new(Kind::Chat, Some("text/event-stream; charset=utf-8"), true);
    assert!(
        !meter.event(br#"data: {"choices":[{"delta":{"content":"hi"},"finish_reason":null}],"usage":null}"#)
    );
    assert!(!meter.event(br#"data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":null}"#));
    let usage = br#"data: {"choices":[],"usage":{"prompt_tokens":30,"completion_tokens":5,"total_tokens":35,"prompt_tokens_details":{"cached_tokens":20}}}"#;
    assert!(meter.event(usage), "this one only says the usage");
    assert!(meter.complete());
    let tokens = Tokens { input: 10, output: 5, cached: 20, cache_write: 0 };
    assert_eq!(meter.reading(1).tokens, tokens);

    let mut meter = Meter::new(Kind::Responses, Some("text/event-stream"), true);
    meter.event(br#"data: {"type":"response.output_text.delta","delta":"hi"}"#);
    assert!(!meter.complete());
    meter.event(br#"data: {"type":"response.completed","response":{"usage":{"input_tokens":30,"output_tokens":5,"input_tokens_details":{"cached_tokens":20}}}}"#);
    assert!(meter.complete());
    assert_eq!(meter.reading(1).tokens, tokens);
}

#[test]
fn a_whole_answer_is_read_and_an_unreadable_one_is_estimated() {
    let mut meter = Meter::new(Kind::Messages, Some("application/json"), true);
    for piece in br#"{"type":"message","content":[],"usage":{"input_tokens":3,"output_tokens":4}}"#.chunks(7)
    {
        meter.piece(piece);
    }
    let reading = meter.reading(1);
    assert_eq!((reading.tokens.input, reading.tokens.output, reading.estimated), (3, 4, false));

    let mut meter = Meter::new(Kind::Messages, Some("application/json"), false);
    meter.piece(&[0; 400]);
    let reading = meter.reading(9);
    assert_eq!((reading.tokens.input, reading.tokens.output, reading.estimated), (9, 100, true));
}

#[test]
fn the_rest_of_the_path_goes_behind_the_base_url() {
    let uri = |base: &str, rest: &str| {
        upstream::uri(&base.parse().unwrap(), rest).map(|u| u.to_string()).map_err(|f| f.message)
    };
    assert_eq!(uri("https://h", "/v1/messages?beta=true").unwrap(), "https://h/v1/messages?beta=true");
    assert_eq!(
        uri("http://h:8/v1", "/v1/models").unwrap(),
        "http://h:8/v1/models",
        "the version stands once"
    );
    assert_eq!(uri("https://h/api/v1", "/chat/completions").unwrap(), "https://h/api/v1/chat/completions");
    assert_eq!(uri("https://h/api", "/v1/models").unwrap(), "https://h/api/v1/models");
    for odd in ["/../admin", "/v1/%2e%2E/x", "/v1/./x", "/v1\\..\\x"] {
        assert!(uri("https://h/api", odd).is_err(), "{odd}");
    }
}

#[test]
fn the_sessions_keys_stay_behind_and_the_secret_goes_along() {
    let mut from = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer dummy"),
        ("x-api-key", "dummy"),
        ("cookie", "a=b"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("accept-encoding", "gzip"),
        ("anthropic-version", "2023-06-01"),
        ("content-type", "application/json"),
    ] {
        from.insert(name, value.parse().unwrap());
    }
    let mut provider = spec(Protocol::Anthropic);
    provider.headers = [("anthropic-beta".parse().unwrap(), "x".to_owned())].into();
    let out = upstream::headers(&from, &provider, Some(&Plain::new("sk-1\n"))).unwrap();
    let shown: Vec<String> =
        out.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap_or_default())).collect();
    let mut sorted = shown.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        [
            "accept-encoding=identity",
            "anthropic-beta=x",
            "anthropic-version=2023-06-01",
            "content-type=application/json",
            "x-api-key=sk-1",
        ]
    );
    assert!(out["x-api-key"].is_sensitive());
    let out = upstream::headers(&from, &spec(Protocol::Openai), Some(&Plain::new("sk-2"))).unwrap();
    assert_eq!(out["authorization"], "Bearer sk-2");
    assert!(!out.contains_key("x-api-key"));
    let out = upstream::headers(&from, &spec(Protocol::Openai), None).unwrap();
    assert!(!out.contains_key("authorization"));
    assert!(upstream::headers(&from, &provider, Some(&Plain::new("a\nb"))).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_judged_for_long_is_never_silent_for_long() {
    use http_body_util::BodyExt as _;
    use tokio::time::{Duration, Instant};

    for (kind, sign) in [(Kind::Messages, "event: ping\n"), (Kind::Chat, ": "), (Kind::Responses, ": ")] {
        let judged = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            Ok(Bytes::from_static(b"data: {}\n\n"))
        };
        let mut last = Instant::now();
        let mut body = super::guarded::held(kind, judged).await.unwrap_or_else(|f| panic!("{}", f.message));
        let mut signs = 0;
        let said = loop {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(last.elapsed() < Duration::from_secs(60), "{:?} of silence", last.elapsed());
            last = Instant::now();
            if !piece.starts_with(sign.as_bytes()) {
                break piece;
            }
            assert!(piece.ends_with(b"\n\n"));
            signs += 1;
        };
        assert_eq!((&said[..], signs > 50), (&b"data: {}\n\n"[..], true));
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_its_status_where_the_stream_has_not_begun_and_is_an_event_where_it_has() {
    use http_body_util::BodyExt as _;

    let refuse = |seconds| async move {
        tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
        Err(super::fault::Fault::new(http::StatusCode::FORBIDDEN, "guardrail", "not that"))
    };
    for (kind, wanted) in [
        (
            Kind::Messages,
            r#"event: error
data: {"error":{"message":"not that","type":"permission_error"},"type":"error"}"#,
        ),
        (
            Kind::Chat,
            r#"data: {"error":{"code":"guardrail","message":"not that","param":null,"type":"invalid_request_error"}}"#,
        ),
        (Kind::Responses, "event: error\ndata: {\"code\":\"guardrail\""),
    ] {
        let Err(fault) = super::guarded::held(kind, refuse(1)).await else { panic!("it began") };
        assert_eq!(fault.status, 403);
        let body = super::guarded::held(kind, refuse(60)).await.unwrap_or_else(|f| panic!("{}", f.message));
        let all = body.collect().await.unwrap().to_bytes();
        let all = String::from_utf8_lossy(&all);
        assert!(all.contains(wanted) && all.ends_with("}\n\n"), "{all}");
    }
}
