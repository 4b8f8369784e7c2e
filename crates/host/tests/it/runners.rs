//! Functions as agents: `python` and `node`, called by the host's own runners. Every promise is held by both.

use wharf_wire::host::turn::{AgentKind, Block, Outcome, PastMessage, Reason, Said, TurnEvent, TurnRequest};
use wharf_wire::host::{AgentName, Env};

use crate::harness::{Host, all, called, done, identity, lives, output, reply, said, turn_of, until_dead};

const PYTHON: &str = r#"
import asyncio, os, sys, time
count = 0

def answer(message, context):
    global count
    count += 1
    text = message.text
    if text == "return": return f"{count} {os.getpid()} {message['text']}"
    if text == "nothing": return None
    if text == "blocks": return [{"type": "text", "text": "a"}, "b"]
    if text == "block": return {"type": "image", "media_type": "image/png", "data": "AA=="}
    if text == "library":
        class Answer: content = "from a library"
        return Answer()
    if text == "print":
        print("to the log")
        os.system("echo a child too")
        return "said"
    if text == "read": return repr(sys.stdin.read())
    if text == "history": return ",".join(m.text for m in context.history())
    if text == "where": return f"{context.agent}|{context.session}|{context.instructions}|{context.agents[0]['description']}|{os.environ['WHARF_PACKAGE'] == context.package}"
    if text == "emit":
        context.emit("progress", {"at": 1})
        context.usage(input_tokens=3, output_tokens=1, model="none")
        context.usage(input_tokens=4)
        context.text("part "); context.text("two")
        return None
    if text == "raise": raise ValueError("no key")
    if text == "exit": sys.exit(3)
    if text == "wrong": return 7
    if text == "surrogate": return "\ud800 ok"
    if text == "long": return "x" * 7_000_000
    if text == "patient":
        context.text("waiting ")
        while not context.cancelled: time.sleep(0.01)
        return "obeyed"
    if text == "deaf":
        context.text("deaf")
        time.sleep(300)

def parts(message, context):
    yield "a"
    yield {"type": "event", "name": "half", "data": None}
    yield "b"
    return "c"

async def later(message, context):
    await asyncio.sleep(0.01)
    return "later, " + str(len(await context.history()))

async def stream(message, context):
    try:
        for part in ("x", "y"):
            yield part
            await asyncio.sleep(0)
        if message.text == "forever":
            await asyncio.sleep(300)
    finally:
        print("cleaned up")
"#;

const NODE: &str = r"
import { execSync } from 'node:child_process';
let count = 0;
const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

export function answer(message, context) {
  count += 1;
  switch (message.text) {
    case 'return': return `${count} ${process.pid} ${message.text}`;
    case 'nothing': return null;
    case 'blocks': return [{ type: 'text', text: 'a' }, 'b'];
    case 'block': return { type: 'image', media_type: 'image/png', data: 'AA==' };
    case 'library': return { content: 'from a library' };
    case 'print':
      console.log('to the log');
      execSync('echo a child too', { stdio: 'inherit' });
      return 'said';
    case 'read': return sleep(1).then(async () => { let all = ''; for await (const c of process.stdin) all += c; return `'${all}'`; });
    case 'history': return context.history().then((all) => all.map((m) => m.text).join(','));
    case 'where': return `${context.agent}|${context.session}|${context.instructions}|${context.agents[0].description}|${process.env.WHARF_PACKAGE === context.package}`;
    case 'emit':
      context.emit('progress', { at: 1 });
      context.usage({ input_tokens: 3, output_tokens: 1, model: 'none' });
      context.usage({ input_tokens: 4 });
      context.text('part '); context.text('two');
      return;
    case 'raise': throw new RangeError('no key');
    case 'wrong': return 7;
    case 'surrogate': return '\ud800 ok';
    case 'long': return 'x'.repeat(7_000_000);
    case 'patient': {
      context.text('waiting ');
      return new Promise((r) => context.signal.addEventListener('abort', () => r('obeyed')));
    }
    case 'deaf': context.text('deaf'); for (;;) ;
  }
}
export function* parts() {
  yield 'a';
  yield { type: 'event', name: 'half', data: null };
  yield 'b';
  return 'c';
}
export async function later(message, context) {
  await sleep(10);
  return 'later, ' + (await context.history()).length;
}
export async function* stream() {
  for (const part of ['x', 'y']) { yield part; await sleep(0); }
}
export default () => 'the default';
export const number = 7;
";

async fn started() -> Host {
    let host = Host::start().await;
    host.file("agent.py", PYTHON);
    host.file("agent.mjs", NODE);
    host
}

/// The same question to both.
fn both(function: &str, text: &str) -> [TurnRequest; 2] {
    let python = called(AgentKind::Python, &format!("agent:{function}"));
    let mut node = called(AgentKind::Node, &format!("agent.mjs#{function}"));
    node.name = "js".into();
    [turn_of(python, text), turn_of(node, text)]
}

#[tokio::test]
async fn a_function_answers_and_its_process_stays() {
    let host = started().await;
    for turn in both("answer", "return") {
        let first = host.run(&turn).await;
        assert_eq!(done(&first).outcome, Outcome::Done, "{first:?}");
        let second = host.run(&turn_of(turn.agent, "return")).await;
        let (a, b) = (reply(&first), reply(&second));
        let (a, b): (Vec<&str>, Vec<&str>) = (a.split(' ').collect(), b.split(' ').collect());
        assert_eq!((a[0], b[0], a[2], a[1]), ("1", "2", "return", b[1]));
    }
}

#[tokio::test]
async fn whatever_a_function_returns_is_the_reply() {
    let host = started().await;
    for (function, text, expected) in [
        ("answer", "nothing", ""),
        ("answer", "blocks", "ab"),
        ("answer", "library", "from a library"),
        ("answer", "surrogate", "\u{fffd} ok"),
        ("parts", "", "abc"),
        ("later", "", "later, 0"),
        ("stream", "", "xy"),
    ] {
        for turn in both(function, text) {
            let events = host.run(&turn).await;
            assert_eq!(done(&events).outcome, Outcome::Done, "{text} {events:?}");
            // What a broken character becomes is the language's own choice.
            assert_eq!(
                reply(&events).replace("? ok", "\u{fffd} ok"),
                expected,
                "{function} {text} {:?}",
                turn.agent.kind
            );
        }
    }
    for turn in both("answer", "block") {
        let events = host.run(&turn).await;
        assert!(
            said(&events)
                .iter()
                .any(|s| matches!(s, Said::Message { content } if content[0].kind() == "image"))
        );
    }
    let default = called(AgentKind::Node, "agent.mjs");
    assert_eq!(reply(&host.run(&turn_of(default, "hi")).await), "the default");
    for turn in both("answer", "long") {
        assert_eq!(reply(&host.run(&turn).await).len(), 7_000_000);
    }
}

#[tokio::test]
async fn what_it_prints_is_log_and_its_input_is_empty() {
    let host = started().await;
    for turn in both("answer", "print") {
        let events = host.run(&turn).await;
        assert_eq!(reply(&events), "said", "{events:?}");
        assert!(
            output(&events).contains("to the log") && output(&events).contains("a child too"),
            "{events:?}"
        );
        assert_eq!(reply(&host.run(&turn_of(turn.agent, "read")).await), "''");
    }
}

#[tokio::test]
async fn the_context_tells_where_it_is_and_what_was_said() {
    let host = started().await;
    let mut me = identity(wharf_domain::SessionId::new(), Env::default());
    me.agents = vec![AgentName { name: "fn".into(), description: Some("answers".into()) }];
    host.client.claim(&me).await.unwrap();
    for mut turn in both("answer", "history") {
        let name = turn.agent.name.clone();
        for (seq, text) in [(1, "hi"), (2, "there")] {
            let content = vec![Block::text(text)];
            turn.history.push(PastMessage { seq, role: "user".into(), agent: None, content });
        }
        assert_eq!(reply(&host.run(&turn).await), "hi,there");
        let events = host.run(&turn_of(turn.agent.clone(), "where")).await;
        assert_eq!(reply(&events).to_lowercase(), format!("{name}|{}|be brief|answers|true", me.session));
        let events = host.run(&turn_of(turn.agent, "emit")).await;
        assert_eq!(reply(&events), "part two");
        assert!(
            said(&events)
                .iter()
                .any(|s| matches!(s, Said::Event { name, data } if name == "progress" && data["at"] == 1))
        );
        let usage = done(&events).usage.unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.model.as_deref()), (7, 1, Some("none")));
    }
}

#[tokio::test]
async fn an_exception_fails_the_turn_with_its_place_and_the_process_stays() {
    let host = started().await;
    for turn in both("answer", "raise") {
        let first = reply(&host.run(&turn_of(turn.agent.clone(), "return")).await);
        let events = host.run(&turn).await;
        let end = done(&events);
        assert_eq!(end.reason, Some(Reason::AgentError), "{end:?}");
        let detail = end.detail.unwrap();
        assert!(detail.contains("Error: no key (agent.") && detail.contains("in answer"), "{detail}");
        assert!(output(&events).contains("no key"), "the whole is in the log");
        let again = reply(&host.run(&turn_of(turn.agent.clone(), "return")).await);
        assert_eq!(first.split(' ').nth(1), again.split(' ').nth(1));
        let end = done(&host.run(&turn_of(turn.agent, "wrong")).await);
        assert!(end.detail.unwrap().contains("text, blocks or events"));
    }
    let exits = turn_of(called(AgentKind::Python, "agent:answer"), "exit");
    assert!(done(&host.run(&exits).await).detail.unwrap().contains("SystemExit"));
}

#[tokio::test]
async fn what_cannot_be_loaded_is_told_and_may_be_mended() {
    let host = started().await;
    let kinds = [
        (AgentKind::Python, "late:answer", "late.py", "oops = ", "def answer(m, c): return 'mended'"),
        (
            AgentKind::Node,
            "late.mjs#answer",
            "late.mjs",
            "export const = ",
            "export const answer = () => 'mended'",
        ),
    ];
    for (kind, entry, file, broken, mended) in kinds {
        let mut agent = called(kind, entry);
        agent.name = file.into();
        let end = done(&host.run(&turn_of(agent.clone(), "hi")).await);
        assert_eq!(end.reason, Some(Reason::AgentError), "{end:?}");
        assert!(end.detail.unwrap().contains("late"));
        host.file(file, broken);
        let end = done(&host.run(&turn_of(agent.clone(), "hi")).await);
        assert!(end.detail.as_ref().unwrap().contains("SyntaxError"), "{end:?}");
        host.file(file, mended);
        assert_eq!(reply(&host.run(&turn_of(agent, "hi")).await), "mended");
    }
    for turn in [
        turn_of(called(AgentKind::Python, "agent:count"), ""),
        turn_of(called(AgentKind::Node, "agent.mjs#number"), ""),
    ] {
        let detail = done(&host.run(&turn).await).detail.unwrap();
        assert!(detail.contains("count") || detail.contains("number"), "{detail}");
    }
}

async fn cancel_after_words(host: &Host, turn: &TurnRequest) -> Vec<TurnEvent> {
    let mut events = host.client.turn(turn, 0).await.unwrap();
    let mut seen = Vec::new();
    while !seen.iter().any(|e: &TurnEvent| matches!(e.said, Said::Text { .. })) {
        seen.push(events.next().await.unwrap().unwrap());
    }
    host.client.cancel_turn(turn.turn).await.unwrap();
    seen.extend(all(events).await);
    seen
}

#[tokio::test]
async fn a_function_that_heeds_a_cancel_is_kept_and_one_that_does_not_is_killed() {
    let host = started().await;
    for turn in both("answer", "patient") {
        let pid = |events: &[TurnEvent]| reply(events).split(' ').nth(1).unwrap().parse::<i32>().unwrap();
        let before = pid(&host.run(&turn_of(turn.agent.clone(), "return")).await);
        let events = cancel_after_words(&host, &turn).await;
        assert_eq!((done(&events).outcome, reply(&events).as_str()), (Outcome::Cancelled, "waiting obeyed"));
        assert_eq!(pid(&host.run(&turn_of(turn.agent.clone(), "return")).await), before);
        let events = cancel_after_words(&host, &turn_of(turn.agent.clone(), "deaf")).await;
        assert_eq!((done(&events).outcome, reply(&events).as_str()), (Outcome::Cancelled, "deaf"));
        until_dead(before).await;
        let late = TurnRequest { timeout_seconds: Some(1), ..turn_of(turn.agent.clone(), "deaf") };
        assert_eq!(done(&host.run(&late).await).reason, Some(Reason::Timeout));
        assert!(lives(pid(&host.run(&turn_of(turn.agent, "return")).await)));
    }
    let stream = turn_of(called(AgentKind::Python, "agent:stream"), "forever");
    let events = cancel_after_words(&host, &stream).await;
    assert_eq!(done(&events).outcome, Outcome::Cancelled);
    assert!(output(&events).contains("cleaned up"), "a coroutine is cancelled where it waits: {events:?}");
}

#[tokio::test]
async fn a_package_elsewhere_brings_its_own_python() {
    let host = started().await;
    host.file("pkg/lib/deep.py", "import sys\ndef f(m, c): return sys.executable + '|' + sys.path[0]");
    host.file("pkg/lib/__init__.py", "");
    let own = host.home().join("pkg/.venv/bin");
    std::fs::create_dir_all(&own).unwrap();
    std::os::unix::fs::symlink("/usr/bin/env", own.join("python3")).unwrap();
    let mut agent = called(AgentKind::Python, "lib.deep:f");
    agent.package = Some("/home/agent/pkg".into());
    // `env` as an interpreter only shows that it is the one that was started.
    let end = done(&host.run(&turn_of(agent.clone(), "x")).await);
    assert_eq!(end.reason, Some(Reason::AgentExited), "{end:?}");
    std::fs::remove_file(own.join("python3")).unwrap();
    let text = reply(&host.run(&turn_of(agent, "x")).await);
    assert!(text.ends_with(&format!("|{}", host.home().join("pkg").display())), "{text}");
}
