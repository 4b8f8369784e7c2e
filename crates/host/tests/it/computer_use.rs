//! The built-in agent as its callers see it: the real program, started by the real host, with a provider of our own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_domain::SessionId;
use wharf_wire::api::{McpServer, ModelProtocol};
use wharf_wire::host::Env;
use wharf_wire::host::computer_use::ComputerUse;
use wharf_wire::host::turn::{
    AgentKind, AgentSpec, Block, Outcome, PastMessage, Reason, Said, TurnEvent, TurnRequest,
};

use crate::harness::{Host, all, done, identity, lives, reply, said, turn_of, until, until_dead};
use crate::provider::{Answer, Provider, anthropic, bash, calls, says};

fn agent(provider: &Provider, change: impl FnOnce(&mut ComputerUse)) -> AgentSpec {
    let mut config = ComputerUse::new("lab", "scripted-1");
    change(&mut config);
    AgentSpec {
        name: "computer-use".into(),
        kind: AgentKind::ComputerUse,
        env: Env::from([("WHARF_GATEWAY_SOCKET", provider.socket().to_str().unwrap())]),
        computer_use: Some(Box::new(config)),
        ..AgentSpec::shell()
    }
}

pub fn ask(provider: &Provider, text: &str) -> TurnRequest {
    turn_of(agent(provider, |_| {}), text)
}

pub async fn run(host: &Host, turn: &TurnRequest) -> Vec<TurnEvent> {
    all(host.client.turn(turn, 0).await.unwrap()).await
}

pub fn named<'a>(events: &'a [TurnEvent], wanted: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter_map(|e| match &e.said {
            Said::Event { name, data } if name == wanted => Some(data),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_model_works_in_a_shell_that_keeps_its_state() {
    let provider = Provider::start([
        Answer::Events(
            anthropic(
                "I look around.",
                &[("t1", "bash", json!({"command": "mkdir -p deep && cd deep && word=grüße"}))],
            ),
            None,
        ),
        bash("t2", "echo $word from $PWD; echo oops >&2; (exit 3)"),
        says("It says grüße."),
    ]);
    let host = Host::start().await;
    let events = run(&host, &ask(&provider, "What does it say?")).await;
    let end = done(&events);
    assert_eq!((end.outcome, end.reason), (Outcome::Done, None), "{end:?}");
    said(&events);
    assert_eq!(reply(&events), "I look around.It says grüße.");
    let text: String = events
        .iter()
        .filter_map(|e| match &e.said {
            Said::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(text, "I look around.It says grüße.", "the words come while they are said");
    let usage = end.usage.unwrap();
    assert_eq!(
        (usage.input_tokens, usage.output_tokens, usage.model.as_deref()),
        (300, 60, Some("scripted-1"))
    );
    let (used, results) = (named(&events, "tool_use"), named(&events, "tool_result"));
    assert_eq!((used.len(), results.len()), (2, 2));
    assert_eq!(used[0]["input"]["command"], "mkdir -p deep && cd deep && word=grüße");
    let output = results[1]["content"].as_str().unwrap();
    assert!(output.starts_with("grüße from ") && output.contains("/deep\noops\n[exit code 3]"), "{output}");
    assert_eq!(results[1]["is_error"], true);
    let asked = provider.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].path, "/lab/v1/messages");
    assert!(asked[0].headers.contains("host: gateway") && !asked[0].headers.contains("x-api-key"));
    let messages = asked[2].body["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 5);
    assert_eq!(messages[4]["content"][0]["tool_use_id"], "t2");
    // The next turn is the same conversation, in the same shell.
    provider.say(bash("t3", "echo still $word in $PWD"));
    provider.say(says("Still."));
    let events = run(&host, &ask(&provider, "And now?")).await;
    assert!(named(&events, "tool_result")[0]["content"].as_str().unwrap().contains("still grüße in "));
    assert_eq!(provider.asked()[3].body["messages"].as_array().unwrap().len(), 7);
}

#[tokio::test]
async fn what_passes_is_waited_out_and_asked_for_again() {
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "later"}});
    let provider = Provider::start([
        Answer::Refusal(
            429,
            "retry-after: 0\r\n",
            json!({"error": {"type": "rate_limit_error", "message": "slow down"}}),
        ),
        Answer::Events(anthropic("A torn answer", &[]), Some(4)),
        Answer::Refusal(529, "retry-after-ms: 1\r\n", overloaded),
        says("A whole answer"),
    ]);
    let host = Host::start().await;
    let events = run(&host, &ask(&provider, "Well?")).await;
    assert_eq!(reply(&events), "A whole answer");
    let retries = named(&events, "model_retry");
    assert_eq!(retries.len(), 3, "{retries:?}");
    assert!(retries[0]["because"].as_str().unwrap().contains("slow down"));
    assert!(retries[1]["because"].as_str().unwrap().contains("broke"));
}

#[tokio::test]
async fn what_does_not_pass_fails_the_turn_with_the_providers_words() {
    let provider = Provider::start([Answer::Refusal(
        401,
        "",
        json!({"error": {"type": "authentication_error", "message": "no such key"}}),
    )]);
    let host = Host::start().await;
    let end = done(&run(&host, &ask(&provider, "Well?")).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::Model)));
    assert!(end.detail.unwrap().contains("no such key"));
    // The conversation goes on all the same.
    provider.say(says("Here I am."));
    assert_eq!(reply(&run(&host, &ask(&provider, "And now?")).await), "Here I am.");
    assert!(provider.last().contains("Well?"));
}

#[tokio::test]
async fn what_a_provider_does_not_know_is_stepped_back_from() {
    let unknown = |what: &str| {
        Answer::Refusal(400, "", json!({"error": {"type": "invalid_request_error", "message": what}}))
    };
    let provider = Provider::start([
        unknown("tools.0: bash_20250124 is not a tool type"),
        unknown("tools.0: bash_20250124 is not a tool type"),
        unknown("thinking: not allowed"),
        says("Plainly."),
    ]);
    let host = Host::start().await;
    let turn = turn_of(agent(&provider, |c| c.model = "claude-opus-4-6".into()), "Well?");
    let events = run(&host, &turn).await;
    assert_eq!(reply(&events), "Plainly.");
    assert_eq!(named(&events, "model_step_back").len(), 3);
    let tools = provider.asked()[3].body["tools"].to_string();
    assert!(tools.contains("input_schema") && !tools.contains("bash_2025"));
}

#[tokio::test]
async fn cancel_ends_the_tool_and_what_it_started_but_not_the_shell() {
    let provider = Provider::start([
        bash("t1", "keep=1; sleep 400 >/dev/null 2>&1 & echo $! > background"),
        bash("t2", "sleep 300 & echo $$ > shell; echo $! > pid; echo begun; wait $!"),
    ]);
    let host = Host::start().await;
    let turn = ask(&provider, "Wait for it.");
    let mut events = host.client.turn(&turn, 0).await.unwrap();
    let pid = host.home().join("pid");
    until("the command runs", async || std::fs::read_to_string(&pid).is_ok_and(|t| t.ends_with('\n'))).await;
    let read =
        |name: &str| std::fs::read_to_string(host.home().join(name)).unwrap().trim().parse::<i32>().unwrap();
    let begun = Instant::now();
    assert!(host.client.cancel_turn(turn.turn).await.unwrap().was_running);
    let mut rest = Vec::new();
    while let Some(event) = events.next().await {
        rest.push(event.unwrap());
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    let end = done(&rest);
    assert_eq!((end.outcome, end.reason), (Outcome::Cancelled, Some(Reason::Cancelled)));
    assert!(end.usage.is_some(), "what it cost is told all the same");
    let results = named(&rest, "tool_result");
    assert!(results.last().unwrap()["content"].as_str().unwrap().contains("the user ended the turn"));
    until_dead(read("pid")).await;
    assert!(lives(read("background")), "what ran in the background before goes on");
    provider.say(bash("t3", "echo keep=$keep shell=$$"));
    provider.say(says("Fine."));
    let events = run(&host, &ask(&provider, "Go on.")).await;
    let output = named(&events, "tool_result")[0]["content"].as_str().unwrap().to_owned();
    assert_eq!(output.trim(), format!("keep=1 shell={}", read("shell")));
    assert!(provider.last().contains("ended this turn before you were done"));
}

#[tokio::test]
async fn what_a_cancelled_command_detached_ends_too_and_so_does_all_of_an_agent_that_is_killed() {
    let detached = "setsid -f env -i /bin/sh -c 'echo $$ > stray; exec sleep 300'";
    let provider = Provider::start([
        bash("t1", "setsid -f sh -c 'echo $$ > earlier; exec sleep 400' >/dev/null 2>&1; sleep 0.1; echo ok"),
        bash("t2", &format!("{detached}; sleep 300")),
    ]);
    let host = Host::start().await;
    let pid = async |name: &str| {
        let path = host.home().join(name);
        until(name, async || std::fs::read_to_string(&path).is_ok_and(|t| t.ends_with('\n'))).await;
        std::fs::read_to_string(&path).unwrap().trim().parse::<i32>().unwrap()
    };
    let turn = ask(&provider, "Wait for it.");
    let events = host.client.turn(&turn, 0).await.unwrap();
    let stray = pid("stray").await;
    assert!(host.client.cancel_turn(turn.turn).await.unwrap().was_running);
    assert_eq!(done(&all(events).await).outcome, Outcome::Cancelled);
    until_dead(stray).await;
    let earlier = pid("earlier").await;
    assert!(lives(earlier), "what an earlier command left in the background goes on");

    // Killed while a command runs: it is started again for its turn, and nothing of the one before is left.
    std::fs::remove_file(host.home().join("stray")).unwrap();
    provider.say(bash("t3", &format!("echo $PPID > agent; {detached}; sleep 300")));
    provider.say(says("Never mind."));
    let turn = ask(&provider, "Again.");
    let events = host.client.turn(&turn, 0).await.unwrap();
    let (stray, agent) = (pid("stray").await, pid("agent").await);
    let killed = std::process::Command::new("kill").args(["-9", &agent.to_string()]).status().unwrap();
    assert!(killed.success());
    until_dead(stray).await;
    until_dead(earlier).await;
    assert_eq!(done(&all(events).await).outcome, Outcome::Done);
}

#[tokio::test]
async fn cancel_while_the_model_speaks_keeps_what_was_said() {
    let mut half = anthropic("Half of what I", &[]);
    half.truncate(half.len() - 3);
    let provider = Provider::start([Answer::Hang(half)]);
    let host = Host::start().await;
    let turn = ask(&provider, "Speak.");
    let mut events = host.client.turn(&turn, 0).await.unwrap();
    loop {
        if let Said::Text { text } = events.next().await.unwrap().unwrap().said
            && text.contains('I')
        {
            break;
        }
    }
    host.client.cancel_turn(turn.turn).await.unwrap();
    let rest = all(events).await;
    assert_eq!(done(&rest).outcome, Outcome::Cancelled);
    assert_eq!(reply(&rest), "Half of what I");
    provider.say(says("All of it."));
    run(&host, &ask(&provider, "Again.")).await;
    assert!(provider.last().contains("Half of what I"));
}

#[tokio::test]
async fn a_turn_goes_on_after_its_host_was_killed_and_no_tool_runs_twice() {
    let provider = Provider::start([
        Answer::Events(
            anthropic("First this.", &[("t1", "bash", json!({"command": "echo one >> runs"}))]),
            None,
        ),
        bash("t2", "echo two >> runs; echo begun > begun; sleep 300"),
    ]);
    let host = Host::start().await;
    let session = host.claim(Env::default()).await;
    let turn = ask(&provider, "Do both.");
    let mut events = host.client.turn(&turn, 0).await.unwrap();
    let begun = host.home().join("begun");
    until("the second command runs", async || begun.exists()).await;
    let mut seen = Vec::new();
    while seen
        .iter()
        .filter(|e: &&TurnEvent| matches!(&e.said, Said::Event { name, .. } if name == "tool_use"))
        .count()
        < 2
    {
        seen.push(events.next().await.unwrap().unwrap());
    }
    drop(events);
    let dir = host.kill();
    provider.say(says("Both are done, as far as I can see."));
    let host = Host::start_in(dir).await;
    host.client.claim(&identity(session, Env::default())).await.unwrap();
    let after = seen.len() as u64;
    let rest = all(host.client.turn(&turn, after).await.unwrap()).await;
    assert_eq!(rest[0].n, after + 1, "numbers go on");
    let end = done(&rest);
    assert_eq!(end.outcome, Outcome::Done, "{end:?}");
    assert_eq!(reply(&rest), "Both are done, as far as I can see.", "what was heard is not said again");
    assert_eq!(named(&rest, "tool_use").len(), 0);
    let results = named(&rest, "tool_result");
    assert_eq!(results.len(), 1);
    assert!(results[0]["content"].as_str().unwrap().starts_with("Interrupted"), "{results:?}");
    assert_eq!(named(&rest, "resumed").len(), 1);
    assert_eq!(std::fs::read_to_string(host.home().join("runs")).unwrap(), "one\ntwo\n");
    // The whole turn, told again, is the same for everybody who asks.
    let whole = all(host.client.turn(&turn, 0).await.unwrap()).await;
    said(&whole);
    assert_eq!(named(&whole, "tool_use").len(), 2);
    assert_eq!(reply(&whole), "First this.Both are done, as far as I can see.");
    assert!(provider.is_exhausted());
}

#[tokio::test]
async fn an_agent_that_is_killed_is_started_again_within_its_turn() {
    let provider =
        Provider::start([bash("t1", "echo one >> runs; kill -9 $PPID; sleep 60"), says("Here again.")]);
    let host = Host::start().await;
    let events = run(&host, &ask(&provider, "Go.")).await;
    assert_eq!(done(&events).outcome, Outcome::Done, "{:?}", done(&events));
    assert_eq!(reply(&events), "Here again.");
    assert_eq!(named(&events, "resumed").len(), 1);
    assert_eq!((named(&events, "tool_use").len(), named(&events, "tool_result").len()), (1, 1));
    assert_eq!(std::fs::read_to_string(host.home().join("runs")).unwrap(), "one\n");
}

#[tokio::test]
async fn rounds_and_tokens_have_an_end_that_is_told() {
    let provider = Provider::start([bash("t1", "true"), bash("t2", "true"), bash("t3", "true")]);
    let host = Host::start().await;
    let end = done(&run(&host, &turn_of(agent(&provider, |c| c.max_rounds = Some(2)), "Go.")).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::Budget)));
    assert!(end.detail.unwrap().contains("limit of 2"));
    let end = done(&run(&host, &turn_of(agent(&provider, |c| c.token_budget = Some(100)), "Go.")).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::Budget)));
    assert!(end.detail.unwrap().contains("budget is 100"));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended_and_long_output_is_paged() {
    let provider = Provider::start([
        bash("t1", "echo begun; sleep 300"),
        bash("t2", "seq 1 20000; exit 4"),
        bash("t3", "pwd"),
        says("Done."),
    ]);
    let host = Host::start().await;
    let turn = turn_of(agent(&provider, |c| c.tool_timeout_seconds = Some(1)), "Go.");
    let events = run(&host, &turn).await;
    assert_eq!(done(&events).outcome, Outcome::Done, "{:?}", done(&events));
    let sent: Vec<String> = provider.asked().last().unwrap().body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["content"][0]["type"] == "tool_result")
        .map(|m| m["content"][0]["content"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert!(sent[0].contains("begun") && sent[0].contains("longer than its limit of 1 s"), "{}", sent[0]);
    assert!(sent[1].starts_with("1\n2\n3\n") && sent[1].contains("\n20000\n"), "beginning and end are shown");
    assert!(
        sent[1].contains("are not shown here") && sent[1].contains("The shell itself ended with code 4"),
        "{}",
        sent[1]
    );
    let file = sent[1].split("The whole output is in ").nth(1).unwrap().split(';').next().unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 20_000, "nothing is lost");
    assert_eq!(sent[2].trim(), host.home().to_str().unwrap());
}

#[tokio::test]
async fn files_are_edited_read_found_and_shared() {
    let edit = "str_replace_based_edit_tool";
    let provider = Provider::start([
        calls(
            "t1",
            edit,
            json!({"command": "create", "path": "notes/a.txt", "file_text": "one\ntwo\ntwo\n"}),
        ),
        calls(
            "t2",
            edit,
            json!({"command": "str_replace", "path": "notes/a.txt", "old_str": "two", "new_str": "three"}),
        ),
        calls(
            "t3",
            edit,
            json!({"command": "str_replace", "path": "notes/a.txt", "old_str": "one\n", "new_str": "zero\n"}),
        ),
        calls("t4", "files", json!({"action": "find", "path": ".", "pattern": "*.t?t"})),
        calls("t5", "files", json!({"action": "share", "path": "notes/a.txt"})),
        calls("t6", "levitate", json!({})),
        says("There it is."),
    ]);
    let host = Host::start().await;
    let events = run(&host, &ask(&provider, "Write it.")).await;
    let results: Vec<(String, bool)> = named(&events, "tool_result")
        .iter()
        .map(|r| (r["content"].as_str().unwrap().to_owned(), r["is_error"].as_bool().unwrap()))
        .collect();
    assert!(results[0].0.starts_with("File created") && !results[0].1, "{results:?}");
    assert!(results[1].0.contains("Found 2 matches") && results[1].0.contains("lines 2, 3") && results[1].1);
    assert!(results[2].0.contains("exactly one location") && results[2].0.contains("1\tzero"));
    assert!(results[3].0.contains("notes/a.txt"));
    assert!(results[5].0.contains("no tool \"levitate\"") && results[5].1);
    assert_eq!(std::fs::read_to_string(host.home().join("notes/a.txt")).unwrap(), "zero\ntwo\ntwo\n");
    let shared = events.iter().any(|e| {
        matches!(&e.said, Said::Message { content } if content.iter().any(|b| b.kind() == "file"
            && b.as_map()["path"].as_str().unwrap().ends_with("/notes/a.txt")))
    });
    assert!(shared, "the file comes with the reply");
}

#[tokio::test]
async fn pictures_of_users_reach_the_model() {
    let provider = Provider::start([says("A dot.")]);
    let host = Host::start().await;
    let mut turn = ask(&provider, "What is this?");
    let Value::Object(map) = json!({"type": "image", "media_type": "image/png", "data": "iVBORw0KGgo="})
    else {
        panic!()
    };
    turn.message.content.push(Block::try_from(map).unwrap());
    assert_eq!(reply(&run(&host, &turn).await), "A dot.");
    assert_eq!(provider.asked()[0].body["messages"][0]["content"][1]["source"]["data"], "iVBORw0KGgo=");
}

#[tokio::test]
async fn a_full_context_is_put_into_few_words() {
    let counted = |id: &str, command: &str, tokens: u64| {
        let mut events = anthropic("", &[(id, "bash", json!({"command": command}))]);
        events[0]["message"]["usage"]["input_tokens"] = tokens.into();
        Answer::Events(events, None)
    };
    let provider = Provider::start([
        counted("t1", "seq 1 3000", 1000),
        counted("t2", "seq 3001 6000", 6000),
        counted("t3", "seq 6001 9000", 12_000),
        says("MEMORY: numbers were counted."),
        says("Counted."),
    ]);
    let host = Host::start().await;
    let turn = turn_of(
        agent(&provider, |c| {
            c.context_tokens = Some(16_000);
            c.max_tokens = Some(1000);
        }),
        "Count, and mind the magic word: halibut.",
    );
    let events = run(&host, &turn).await;
    assert_eq!(reply(&events), "Counted.", "{:?}", done(&events));
    let asked = provider.asked();
    let at = asked.iter().position(|a| a.body["tools"].is_null()).expect("a summary was asked for");
    assert!(asked[at].body.to_string().contains("halibut"));
    let last = asked.last().unwrap().body.to_string();
    assert!(
        last.contains("MEMORY: numbers") && last.contains("halibut"),
        "the message in hand is kept word for word"
    );
    assert!(!last.contains("\\n100\\n"), "what was before is gone");
    let usage = done(&events).usage.unwrap();
    let (input, output) = (usage.input_tokens, usage.output_tokens);
    assert_eq!((input, output), (1000 + 6000 + 12_000 + 100 + 100, 5 * 20), "the summary is paid for too");
}

#[tokio::test]
async fn a_turn_whose_budget_goes_into_a_summary_ends_before_the_next_call() {
    let provider = Provider::start([
        bash("t1", "seq 1 9000"),
        says("MEMORY: numbers were counted."),
        says("Nobody asks for this."),
    ]);
    let host = Host::start().await;
    let turn = turn_of(
        agent(&provider, |c| {
            c.context_tokens = Some(8000);
            c.max_tokens = Some(4000);
            // The first call takes 120 and the summary as many.
            c.token_budget = Some(200);
        }),
        "Count.",
    );
    let end = done(&run(&host, &turn).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::Budget)), "{end:?}");
    assert!(end.detail.unwrap().contains("used 240 tokens; its budget is 200"));
    assert_eq!(provider.asked().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_refused_is_paid_for() {
    let mut events = anthropic("I would rather", &[]);
    let at = events.len() - 2;
    events[at]["delta"]["stop_reason"] = "refusal".into();
    let provider = Provider::start([Answer::Events(events, None)]);
    let host = Host::start().await;
    let end = done(&run(&host, &ask(&provider, "Go.")).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::Model)));
    let usage = end.usage.unwrap();
    assert_eq!((usage.input_tokens, usage.output_tokens), (100, 20));
}

#[tokio::test]
async fn a_fork_knows_what_was_said_before_only_when_it_shall() {
    let provider = Provider::start([says("I am the parent.")]);
    let host = Host::start().await;
    host.claim(Env::default()).await;
    run(&host, &ask(&provider, "Who are you? My word is plaice.")).await;
    let dir = host.kill();
    // Without messages: the files came along, the conversation did not.
    provider.say(says("I am new."));
    let host = Host::start_in(dir).await;
    host.claim(Env::default()).await;
    run(&host, &ask(&provider, "And you?")).await;
    assert!(!provider.last().contains("plaice"), "{}", provider.last());
    let dir = host.kill();
    let kept =
        std::fs::read_to_string(dir.path().join("root/home/agent/.wharf/agent/computer-use.jsonl")).unwrap();
    assert!(!kept.contains("plaice"), "it is not on the disk either");
    // With messages: they are told by the host.
    provider.say(says("I remember."));
    let host = Host::start_in(dir).await;
    host.client.claim(&identity(SessionId::new(), Env::default())).await.unwrap();
    let mut turn = ask(&provider, "And you?");
    turn.history =
        vec![PastMessage { seq: 1, role: "user".into(), agent: None, content: vec![Block::text("hello")] }];
    run(&host, &turn).await;
    assert!(provider.last().contains("I am new."), "a fork with messages has its parent's conversation");
}

const MCP: &str = r#"
import json, sys
def say(**m): print(json.dumps({"jsonrpc": "2.0", **m}), flush=True)
print("a line that is no message")
for line in sys.stdin:
    m = json.loads(line)
    method, params = m.get("method"), m.get("params", {})
    if method == "initialize":
        say(id=m["id"], result={"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "t", "version": "1"}})
    elif method == "tools/list":
        say(id=900, method="ping")
        assert json.loads(sys.stdin.readline())["id"] == 900
        if not params.get("cursor"):
            say(id=m["id"], result={"tools": [{"name": "add", "description": "adds", "inputSchema": {"type": "object"}}], "nextCursor": "2"})
        else:
            say(id=m["id"], result={"tools": [{"name": "die.now", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call" and params["name"] == "add":
        say(id=m["id"], result={"content": [{"type": "text", "text": str(sum(params["arguments"]["of"]))}]})
    elif method == "tools/call":
        sys.exit(3)
"#;

#[tokio::test]
async fn tools_of_mcp_servers_are_the_models_too() {
    let provider = Provider::start([
        calls("t1", "sums__add", json!({"of": [1, 2, 39]})),
        calls("t2", "sums__die_now", json!({})),
        calls("t3", "sums__add", json!({"of": [5]})),
        says("42."),
    ]);
    let host = Host::start().await;
    let server = McpServer {
        name: "sums".into(),
        command: vec!["python3".into(), "-uc".into(), MCP.into()],
        ..McpServer::default()
    };
    let turn = turn_of(agent(&provider, |c| c.mcp_servers = vec![server]), "Add.");
    let events = run(&host, &turn).await;
    assert_eq!(reply(&events), "42.", "{:?}", done(&events));
    let results: Vec<&str> =
        named(&events, "tool_result").iter().map(|r| r["content"].as_str().unwrap()).collect();
    assert_eq!((results[0], results[2]), ("42", "5"), "a server that ended is started again");
    assert!(results[1].contains("ended"), "{results:?}");
    let tools = provider.asked()[0].body["tools"].to_string();
    assert!(tools.contains("sums__add") && tools.contains("sums__die_now"));
}

#[tokio::test]
async fn mcp_servers_are_reached_through_the_gateway() {
    let result = |id: u64, result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
    let provider = Provider::start([
        Answer::Json(result(1, json!({"protocolVersion": "2025-11-25", "capabilities": {}}))),
        Answer::Json(Value::Null),
        Answer::Events(
            vec![
                json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}),
                result(2, json!({"tools": [{"name": "look", "inputSchema": {"type": "object"}}]})),
            ],
            None,
        ),
        calls("t1", "far__look", json!({"at": "it"})),
        Answer::Json(result(3, json!({"content": [{"type": "text", "text": "seen"}], "isError": false}))),
        says("Seen."),
    ]);
    let host = Host::start().await;
    let server =
        McpServer { name: "far".into(), url: Some("http://mcp.example/mcp".into()), ..McpServer::default() };
    let events = run(&host, &turn_of(agent(&provider, |c| c.mcp_servers = vec![server]), "Look.")).await;
    assert_eq!(reply(&events), "Seen.", "{:?}", done(&events));
    let asked = provider.asked();
    assert_eq!(asked[0].path, "http://mcp.example/mcp");
    assert!(asked[2].headers.contains("mcp-protocol-version: 2025-11-25"));
    assert_eq!(asked[4].body["params"]["arguments"]["at"], "it");
}

#[tokio::test]
async fn an_mcp_server_that_cannot_be_had_fails_the_turn() {
    let provider = Provider::start([]);
    let host = Host::start().await;
    let server =
        McpServer { name: "none".into(), command: vec!["/no/such/server".into()], ..McpServer::default() };
    let end = done(&run(&host, &turn_of(agent(&provider, |c| c.mcp_servers = vec![server]), "Go.")).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::AgentStart)));
    assert!(end.detail.unwrap().contains("\"none\""));
}

#[tokio::test]
async fn chat_completions_are_spoken_too() {
    let chunk = |delta: Value, end: Option<&str>| json!({"model": "scripted-1", "choices": [{"index": 0, "delta": delta, "finish_reason": end}]});
    let call = json!({"tool_calls": [{"index": 0, "id": "c1", "type": "function",
        "function": {"name": "bash", "arguments": "{\"command\": \"echo 6*7\"}"}}]});
    let provider = Provider::start([
        Answer::Events(
            vec![chunk(call, None), chunk(json!({}), Some("tool_calls")), Value::String("[DONE]".into())],
            None,
        ),
        Answer::Events(vec![chunk(json!({"content": "42"}), None), chunk(json!({}), Some("stop"))], None),
    ]);
    let host = Host::start().await;
    let turn = turn_of(agent(&provider, |c| c.protocol = Some(ModelProtocol::OpenaiChat)), "Go.");
    assert_eq!(reply(&run(&host, &turn).await), "42");
    let asked = provider.asked();
    assert_eq!(asked[1].path, "/lab/v1/chat/completions");
    let messages = asked[1].body["messages"].as_array().unwrap();
    assert_eq!(messages[3], json!({"role": "tool", "tool_call_id": "c1", "content": "6*7\n"}));
}

#[tokio::test]
async fn responses_are_spoken_too() {
    let item = |item: Value| json!({"type": "response.output_item.done", "item": item});
    let end = json!({"type": "response.completed", "response": {"usage": {"input_tokens": 10, "output_tokens": 5}}});
    let provider = Provider::start([
        Answer::Events(
            vec![
                item(json!({"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "enc"})),
                item(
                    json!({"type": "function_call", "call_id": "c1", "name": "bash", "arguments": "{\"command\": \"echo hi\"}"}),
                ),
                end.clone(),
            ],
            None,
        ),
        Answer::Events(
            vec![
                item(json!({"type": "message", "content": [{"type": "output_text", "text": "It says hi."}]})),
                end,
            ],
            None,
        ),
    ]);
    let host = Host::start().await;
    let turn = turn_of(agent(&provider, |c| c.protocol = Some(ModelProtocol::OpenaiResponses)), "Go.");
    let events = run(&host, &turn).await;
    assert_eq!(reply(&events), "It says hi.");
    assert_eq!(done(&events).usage.unwrap().input_tokens, 20);
    let input = provider.asked()[1].body["input"].clone();
    assert_eq!(input[1]["encrypted_content"], "enc", "reasoning is given back");
    assert_eq!(input[3], json!({"type": "function_call_output", "call_id": "c1", "output": "hi\n"}));
}

#[tokio::test]
async fn a_desktop_that_was_asked_for_and_is_not_there_is_said() {
    let provider = Provider::start([]);
    let host = Host::start().await;
    let turn =
        turn_of(agent(&provider, |c| c.tools = Some(vec![wharf_wire::api::AgentTool::Computer])), "Look.");
    let end = done(&run(&host, &turn).await);
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, Some(Reason::AgentStart)));
    assert!(end.detail.unwrap().contains("desktop"));
}
