#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;
use wharf_domain::TurnId;
use wharf_wire::host::turn::Reason;

use super::{INTERRUPTED, Position, messages, position};
use crate::block::{Block, ImageRef, Message, Part, Tokens, ToolResult, ToolUse};
use crate::compact;
use crate::journal::{End, Entry};

fn used(id: &str) -> Block {
    Block::ToolUse(ToolUse {
        id: id.into(),
        name: "bash".into(),
        input: json!({"command": "ls"}),
        broken: None,
    })
}

fn answer(blocks: Vec<Block>) -> Entry {
    Entry::Answer { blocks, tokens: Tokens::default(), cut: false, paused: false }
}

fn says(text: &str) -> Block {
    Block::Text { text: text.into() }
}

fn turn(text: &str) -> Entry {
    Entry::Turn { turn: TurnId::new(), seq: 1, content: vec![Part::text(text)] }
}

fn finished(id: &str, text: &str) -> Entry {
    Entry::Finished(ToolResult { id: id.into(), content: vec![Part::text(text)], is_error: false })
}

fn numbered(entries: Vec<Entry>) -> Vec<(u64, Entry)> {
    entries.into_iter().enumerate().map(|(n, e)| (n as u64, e)).collect()
}

/// What every protocol asks of a conversation.
fn check(messages: &[Message]) {
    for (at, message) in messages.iter().enumerate() {
        assert_eq!(matches!(message, Message::User { .. }), at % 2 == 0, "they alternate, a user first");
        let calls = |m: &Message| -> Vec<String> {
            match m {
                Message::Assistant(blocks) => blocks
                    .iter()
                    .filter_map(|b| match b {
                        Block::ToolUse(used) => Some(used.id.clone()),
                        _ => None,
                    })
                    .collect(),
                Message::User { .. } => Vec::new(),
            }
        };
        if let Message::User { results, content } = message {
            assert!(!results.is_empty() || !content.is_empty(), "nobody says nothing");
            let answered: Vec<String> = results.iter().map(|(_, r)| r.id.clone()).collect();
            let asked = at.checked_sub(1).map(|before| calls(&messages[before])).unwrap_or_default();
            assert_eq!(answered, asked, "every call is answered behind it, and nothing else");
            assert!(results.iter().all(|(_, r)| !r.content.is_empty()));
        } else {
            assert!(at + 1 < messages.len() || calls(message).is_empty(), "no call without an answer");
        }
    }
}

#[test]
fn a_call_that_was_running_when_the_process_died_is_answered_and_not_repeated() {
    let mut entries = numbered(vec![
        turn("go"),
        answer(vec![says("I look."), used("a"), used("b")]),
        Entry::Started { id: "a".into() },
        finished("a", "done"),
        Entry::Started { id: "b".into() },
    ]);
    let Position::Run(open) = position(&entries) else { panic!("b is open") };
    assert_eq!(open.iter().map(|(u, s)| (u.id.as_str(), *s)).collect::<Vec<_>>(), [("b", true)]);
    let shown = messages(&entries);
    check(&shown);
    let Some(Message::User { results, .. }) = shown.last() else { panic!("results are last") };
    assert_eq!(results[1].1.content, [Part::text(INTERRUPTED)]);
    entries.push((9, Entry::Finished(ToolResult::error("b", INTERRUPTED))));
    assert_eq!(position(&entries), Position::Ask);
    entries.push((10, answer(vec![says("That was it.")])));
    assert_eq!(position(&entries), Position::Over);
}

#[test]
fn an_answer_that_was_cut_or_paused_is_gone_on_with() {
    let cut =
        Entry::Answer { blocks: vec![says("half")], tokens: Tokens::default(), cut: true, paused: false };
    assert_eq!(position(&numbered(vec![turn("go"), cut])), Position::Ask);
    let paused =
        Entry::Answer { blocks: vec![says("wait")], tokens: Tokens::default(), cut: false, paused: true };
    assert_eq!(position(&numbered(vec![turn("go"), paused])), Position::Ask);
    assert_eq!(position(&numbered(vec![turn("go")])), Position::Ask);
}

#[test]
fn old_screenshots_are_left_out_several_at_once_and_pictures_of_users_never() {
    let picture = |n: usize| Part::Image {
        image: ImageRef { file: format!("{n}.png"), media_type: "image/png".into(), size: None },
    };
    let shown = |count: usize| {
        let mut entries = vec![Entry::Turn { turn: TurnId::new(), seq: 1, content: vec![picture(1000)] }];
        for n in 0..count {
            entries.push(answer(vec![used("x")]));
            let content = vec![picture(n)];
            entries.push(Entry::Finished(ToolResult { id: "x".into(), content, is_error: false }));
        }
        let shown = messages(&numbered(entries));
        check(&shown);
        let text = format!("{shown:?}");
        assert!(text.contains("1000.png"));
        (0..count).filter(|n| text.contains(&format!("\"{n}.png\""))).collect::<Vec<_>>()
    };
    assert_eq!(shown(19).len(), 19);
    assert_eq!(shown(20), (10..20).collect::<Vec<_>>());
    assert_eq!(
        shown(29),
        (10..29).collect::<Vec<_>>(),
        "what the provider has cached stays as it is for a while"
    );
    assert_eq!(shown(30), (20..30).collect::<Vec<_>>());
}

#[test]
fn a_turn_that_was_cancelled_is_told_of() {
    let entries =
        numbered(vec![turn("first"), answer(vec![used("a")]), Entry::Ended(End::Cancelled), turn("second")]);
    let shown = messages(&entries);
    check(&shown);
    let text = format!("{:?}", shown.last().unwrap());
    assert!(text.contains("ended this turn") && text.contains("second"), "{text}");
}

#[test]
fn a_summary_stands_for_all_before_it_and_keeps_the_message_in_hand() {
    let mut entries = numbered(vec![
        turn("an old question"),
        answer(vec![says(&"an old answer ".repeat(3000))]),
        turn("the question in hand"),
        answer(vec![used("a")]),
        finished("a", &"much ".repeat(3000)),
        answer(vec![used("b")]),
        finished("b", "little"),
    ]);
    let upto = compact::cut(&entries, 8000).unwrap();
    assert_eq!(upto, 5, "what is recent stays");
    let in_hand = compact::in_hand(&entries, upto).unwrap();
    assert!(in_hand.contains("the question in hand"));
    let pieces = compact::pieces(&entries, upto, 8000);
    assert!(pieces.len() > 1 && pieces[0].contains("an old question"), "{}", pieces.len());
    entries.push((7, Entry::Summary { upto, text: format!("all of it\n{in_hand}") }));
    let shown = messages(&entries);
    check(&shown);
    let text = format!("{shown:?}");
    assert!(
        text.contains("all of it")
            && text.contains("the question in hand")
            && !text.contains("an old answer")
    );
    assert_eq!(shown.len(), 3);
}

fn entry() -> impl Strategy<Value = Entry> {
    let id = prop::sample::select(vec!["a", "b", "c"]);
    let block = prop_oneof![
        "[a-z ]{0,40}".prop_map(|text| Block::Text { text }),
        id.clone().prop_map(used),
        Just(Block::Thinking { thinking: "hm".into(), signature: "s".into() }),
    ];
    let id2 = prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        2 => "[a-z]{1,2000}".prop_map(|t| turn(&t)),
        5 => prop::collection::vec(block, 0..4).prop_map(|mut blocks| {
            // Within one answer ids differ.
            let mut seen = std::collections::HashSet::new();
            blocks.retain(|b| !matches!(b, Block::ToolUse(u) if !seen.insert(u.id.clone())));
            answer(blocks)
        }),
        5 => (id.clone(), "[a-z]{0,3000}").prop_map(|(id, text)| finished(id, &text)),
        2 => id2.prop_map(|id| Entry::Started { id: id.into() }),
        1 => Just(Entry::Note { text: "go on".into() }),
        1 => Just(Entry::Resumed),
        1 => Just(Entry::Ended(End::Cancelled)),
        1 => Just(Entry::Ended(End::Failed { reason: Reason::Budget, detail: "too much".into() })),
    ]
}

proptest! {
    #[test]
    fn whatever_a_journal_holds_the_conversation_is_one_that_providers_take(
        entries in prop::collection::vec(entry(), 0..30),
    ) {
        check(&messages(&numbered(entries)));
    }

    #[test]
    fn no_cut_parts_a_call_from_its_result(
        entries in prop::collection::vec(entry(), 1..40),
        context in 8000_u32..40_000,
    ) {
        let mut entries = numbered(entries);
        if let Some(upto) = compact::cut(&entries, context) {
            let kept: Vec<(u64, Entry)> = entries.iter().filter(|(n, _)| *n >= upto).cloned().collect();
            // Everything but the first message, which is made up, was there before.
            for (_, entry) in &kept {
                if let Entry::Finished(result) = entry {
                    let is_in_front = kept.iter().take_while(|(_, e)| e != entry).any(|(_, e)| matches!(e, Entry::Answer { .. }));
                    prop_assert!(is_in_front || matches!(kept[0].1, Entry::Turn { .. }), "{} was parted", result.id);
                }
            }
            let n = entries.len() as u64;
            entries.push((n, Entry::Summary { upto, text: "memory".into() }));
            check(&messages(&entries));
            prop_assert!(compact::pieces(&entries, upto, context).iter().all(|p| !p.is_empty()));
        }
    }
}
