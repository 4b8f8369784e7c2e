#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use wharf_agent::guard::Verdict;
use wharf_wire::host::turn::{Outcome, Reason, Said};

use super::permission::{decide, question};
use super::rpc::{Heard, parse};
use super::terminals::Output;
use super::{blocks, stopped};

#[test]
fn the_least_that_allows_is_chosen_and_a_no_is_said_where_it_can_be() {
    let ask = |kinds: &[&str]| {
        let options: Vec<Value> =
            kinds.iter().map(|k| json!({"optionId": format!("o-{k}"), "kind": k})).collect();
        json!({"toolCall": {"title": "rm"}, "options": options})
    };
    let outcome = |params: &Value, verdict: &Verdict| decide(params, verdict).0["outcome"].clone();
    let (yes, no) = (Verdict::Run(None), Verdict::Refused("not that".into()));
    let all = ask(&["reject_once", "allow_always", "allow_once"]);
    assert_eq!(outcome(&all, &yes), json!({"outcome": "selected", "optionId": "o-allow_once"}));
    assert_eq!(outcome(&ask(&["allow_always"]), &yes)["optionId"], "o-allow_always");
    assert_eq!(outcome(&ask(&["reject_once"]), &yes), json!({"outcome": "cancelled"}));
    assert_eq!(outcome(&all, &no)["optionId"], "o-reject_once");
    assert_eq!(outcome(&all, &Verdict::Run(Some(json!({}))))["optionId"], "o-reject_once");
    assert_eq!(outcome(&ask(&["allow_once"]), &no), json!({"outcome": "cancelled"}));
    assert_eq!(
        outcome(&all, &Verdict::Cancelled),
        json!({"outcome": "cancelled"}),
        "a turn that ends allows nothing more"
    );
    let Said::Event { name, data } = decide(&all, &yes).1 else { panic!("no event") };
    assert_eq!(
        (name.as_str(), &data["allowed"], &data["tool_call"]["title"]),
        ("permission", &json!(true), &json!("rm"))
    );
    let Said::Event { data, .. } = decide(&all, &no).1 else { panic!("no event") };
    assert_eq!((&data["allowed"], &data["reason"]), (&json!(false), &json!("not that")));
}

#[test]
fn a_call_is_asked_about_by_what_it_would_do() {
    let turn = "01890000-0000-7000-8000-000000000001";
    let call = json!({"toolCall": {"toolCallId": "t", "kind": "execute", "title": "`ls`", "locations": [{"path": "/x"}]}});
    let asked = question(turn, "lab", &call).unwrap();
    assert_eq!((asked.tool.as_str(), asked.call.as_str()), ("execute", "acp/t"));
    // A title is no command.
    assert_eq!((asked.input.get("command"), &asked.input["paths"]), (None, &json!(["/x"])));
    assert!(asked.unseen);
    let asked = |call: Value| question(turn, "lab", &json!({"toolCall": call})).unwrap();
    let shown = asked(json!({"kind": "execute", "title": "Clean", "rawInput": {"command": ["rm", "x"]}}));
    assert_eq!((&shown.input["input"]["command"], shown.input.get("command")), (&json!(["rm", "x"]), None));
    assert!(!shown.unseen);
    let said = asked(json!({"kind": "execute", "title": "Clean", "rawInput": "rm x"}));
    assert_eq!((&said.input["command"], said.unseen), (&json!("rm x"), false));
    for unseen in [
        json!({"kind": "execute", "rawInput": {"description": "cleans"}}),
        json!({"kind": "execute", "rawInput": {"command": ""}}),
        json!({"title": "Nobody knows"}),
    ] {
        assert!(asked(unseen.clone()).unseen, "{unseen}");
    }
    assert!(!asked(json!({"kind": "edit", "title": "main.rs"})).unseen);
    assert!(question("setup", "lab", &json!({})).is_none());
}

#[test]
fn what_was_told_of_a_call_need_not_be_said_again() {
    let mut reply = super::update::Reply::default();
    reply.remember(json!({"toolCallId": "t", "title": "Clean", "kind": "execute"}).as_object().unwrap());
    reply.remember(json!({"toolCallId": "t", "rawInput": {"command": "rm x"}}).as_object().unwrap());
    let asks = json!({"toolCall": {"toolCallId": "t", "title": "Clean up", "kind": null}});
    let call = reply.complete(asks.clone())["toolCall"].clone();
    assert_eq!(
        call,
        json!({"toolCallId": "t", "title": "Clean up", "kind": "execute", "rawInput": {"command": "rm x"}})
    );
    reply.remember(json!({"toolCallId": "t", "status": "completed"}).as_object().unwrap());
    assert_eq!(reply.complete(asks.clone()), asks);
}

#[test]
fn lines_are_requests_notices_or_answers() {
    let heard = |text: &str| parse(text.as_bytes());
    assert!(matches!(
        heard(r#"{"id":"x","method":"fs/read_text_file","params":{}}"#),
        Ok(Heard::Request { .. })
    ));
    assert!(matches!(heard(r#"{"method":"session/update","params":{}}"#), Ok(Heard::Notice { .. })));
    assert!(matches!(heard(r#"{"id":3,"result":{"a":1}}"#), Ok(Heard::Answer { id: 3, result: Ok(_) })));
    let Ok(Heard::Answer { result: Err(fault), .. }) =
        heard(r#"{"id":3,"error":{"code":-32603,"message":"Internal error","data":{"details":"no key"}}}"#)
    else {
        panic!("no fault");
    };
    assert!(fault.text().contains("no key"));
    for wrong in ["", "[]", "{}", "{\"id\":null,\"result\":1}", "{\"method\":5}", "Loading…"] {
        assert!(heard(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_way_to_stop_has_an_end() {
    let end = |reason: &str| stopped(&json!({"stopReason": reason}));
    assert_eq!((end("end_turn").outcome, end("end_turn").is_error), (Outcome::Done, false));
    for reason in ["max_tokens", "max_turn_requests", "refusal"] {
        assert!(end(reason).is_error && end(reason).detail.is_some(), "{reason}");
    }
    assert_eq!(end("whatever").reason, Some(Reason::AgentProtocol));
    let counted = stopped(&json!({"stopReason": "end_turn", "usage": {"inputTokens": 5, "outputTokens": 7}}));
    assert_eq!(counted.usage.unwrap().output_tokens, 7);
}

#[test]
fn a_message_becomes_a_prompt_or_is_refused() {
    let of = |value: Value| blocks(&serde_json::from_value::<Vec<_>>(value).unwrap(), false);
    let prompt =
        of(json!([{"type": "text", "text": "hi"}, {"type": "file", "path": "/home/agent/a b.txt"}])).unwrap();
    assert_eq!(
        (prompt[1]["type"].as_str(), prompt[1]["name"].as_str()),
        (Some("resource_link"), Some("a b.txt"))
    );
    assert!(
        of(json!([{"type": "image", "media_type": "image/png", "data": ""}]))
            .unwrap_err()
            .contains("no images")
    );
    assert!(of(json!([{"type": "hologram"}])).unwrap_err().contains("hologram"));
}

proptest! {
    #[test]
    fn no_line_makes_the_reader_fall(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn kept_output_is_the_end_of_what_was_written(parts in prop::collection::vec("[a-zäß€😀]{0,9}", 0..20), limit in 1_usize..40) {
        let mut output = Output::new(limit);
        for part in &parts {
            output.push(part.as_bytes());
        }
        let (all, (text, cut)) = (parts.concat(), output.text());
        prop_assert!(all.ends_with(&text) && text.len() <= limit);
        prop_assert_eq!(cut, text.len() < all.len());
    }
}
