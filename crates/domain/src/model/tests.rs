#![allow(clippy::unwrap_used)]

use super::*;

fn spec(protocol: Protocol) -> ProviderSpec {
    ProviderSpec {
        protocol,
        base_url: None,
        secret: None,
        key_header: None,
        headers: BTreeMap::new(),
        models: Vec::new(),
        prices: BTreeMap::new(),
        budget: Budget::default(),
        retries: 2,
        script: None,
    }
}

#[test]
fn a_pattern_stands_for_what_it_looks_like() {
    for (pattern, text, yes) in [
        ("*", "", true),
        ("*", "anything", true),
        ("claude-*", "claude-opus-4", true),
        ("claude-*", "claude-", true),
        ("claude-*", "gpt-5", false),
        ("*-mini", "gpt-5-mini", true),
        ("*-mini", "gpt-5-mini-2", false),
        ("gpt-*-mini", "gpt--mini", true),
        ("gpt-*-mini", "gpt-mini", false),
        ("a*a", "a", false),
        ("a*b*c", "axxbyyc", true),
        ("a*b*c", "axxcyyb", false),
        ("exact", "exact", true),
        ("exact", "exactly", false),
    ] {
        assert_eq!(matches(pattern, text), yes, "{pattern} on {text}");
    }
}

#[test]
fn the_most_exact_price_counts() {
    let mut provider = spec(Protocol::Anthropic);
    let price = |n| Price { input_micro_usd: n, output_micro_usd: n, ..Price::default() };
    provider.prices =
        [("*".into(), price(1)), ("claude-*".into(), price(2)), ("claude-opus".into(), price(3))].into();
    assert_eq!(provider.price("gpt").unwrap().input_micro_usd, 1);
    assert_eq!(provider.price("claude-haiku").unwrap().input_micro_usd, 2);
    assert_eq!(provider.price("claude-opus").unwrap().input_micro_usd, 3);
}

#[test]
fn cost_is_summed_over_the_kinds_and_rounded_up() {
    let price = Price {
        input_micro_usd: 3_000_000,
        output_micro_usd: 15_000_000,
        cached_micro_usd: Some(300_000),
        cache_write_micro_usd: None,
    };
    let tokens = Tokens { input: 10, output: 2, cached: 1, cache_write: 1 };
    // 30 + 30 + 0.3 + 3 micro-dollars.
    assert_eq!(price.of(tokens), 64);
    assert_eq!(price.of(Tokens::default()), 0);
    let most = Tokens { input: u64::MAX, output: u64::MAX, cached: 0, cache_write: 0 };
    assert_eq!(price.of(most), u64::MAX);
}

#[test]
fn a_base_url_is_an_address_and_nothing_else() {
    for good in
        ["https://api.anthropic.com", "http://127.0.0.1:8080/v1", "http://[::1]:1/x", "https://h/openai/v1/"]
    {
        let url: BaseUrl = good.parse().unwrap_or_else(|e| panic!("{good}: {e}"));
        assert!(!url.as_str().ends_with('/'));
    }
    let url: BaseUrl = "https://host:444/a/b/".parse().unwrap();
    assert_eq!((url.authority(), url.path(), url.tls()), ("host:444", "/a/b", true));
    for bad in [
        "",
        "api.anthropic.com",
        "ftp://h",
        "https://",
        "https:///x",
        "https://u:p@h",
        "https://h?x=1",
        "https://h#f",
        "https://h:0",
        "https://h:99999",
        "https://h/../x",
        "https://h h",
        "http://[::1",
        "http://[::1]x",
    ] {
        assert!(bad.parse::<BaseUrl>().is_err(), "{bad}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_field() {
    let field = |p: &ProviderSpec| p.validate().unwrap_err().field.unwrap();
    assert!(spec(Protocol::Anthropic).validate().is_ok());
    assert_eq!(field(&spec(Protocol::Scripted)), "script");
    let mut p = spec(Protocol::Openai);
    p.retries = 200;
    assert_eq!(field(&p), "retries");
    let mut p = spec(Protocol::Openai);
    p.headers = [("authorization".parse().unwrap(), "Bearer x".to_owned())].into();
    assert_eq!(field(&p), "headers");
    let mut p = spec(Protocol::Openai);
    p.models = vec!["a b".into()];
    assert_eq!(field(&p), "models");
    let mut p = spec(Protocol::Scripted);
    p.script = Some(Script { turns: vec![ScriptTurn::default()], repeat: false });
    assert_eq!(field(&p), "script.turns.0");
}

#[test]
fn a_script_follows_the_conversation() {
    let say = |text: &str| vec![ScriptBlock::Text { text: text.to_owned() }];
    let script = Script {
        turns: vec![
            ScriptTurn { say: say("one"), ..ScriptTurn::default() },
            ScriptTurn { when: Some("shorten".into()), say: say("short"), ..ScriptTurn::default() },
            ScriptTurn { expect: Some("42".into()), say: say("two"), ..ScriptTurn::default() },
        ],
        repeat: false,
    };
    let at = |spoken, last: &str| Standing { spoken, last: last.to_owned() };
    assert_eq!(script.next(&at(0, "hello")).unwrap().say, say("one"));
    assert_eq!(script.next(&at(0, "please shorten")).unwrap().say, say("short"));
    assert_eq!(script.next(&at(1, "it is 42")).unwrap().say, say("two"));
    let wrong = script.next(&at(1, "it is 41")).unwrap_err();
    assert!(wrong.contains("42") && wrong.contains("41"), "{wrong}");
    let over = script.next(&at(2, "more")).unwrap_err();
    assert!(over.contains("2 turns") && over.contains("turn 3"), "{over}");
    let again = Script { repeat: true, ..script };
    assert_eq!(again.next(&at(2, "more")).unwrap().say, say("one"));
}
