//! The reader of scripts: whatever comes, it ends, and it finds what a shell would run.

use proptest::prelude::*;
use wharf_guard::glob;
use wharf_guard::shell::{self, Command, Place};

fn programs(script: &str) -> Vec<String> {
    shell::read(script, Place::default()).iter().map(|c| glob::shown(&c.program)).collect()
}

fn words(command: &Command) -> Vec<String> {
    command.args.iter().map(|a| glob::shown(a)).collect()
}

#[test]
fn every_command_of_a_script_is_found_in_its_order() {
    let script = "set -e\nif test -f x; then cat x | sort; else echo \"$(date) ${y:-`id`}\" >> log; fi\n\
        for i in a b; do tar czf $i.tgz $i; done && (cd /tmp; ls -la)";
    assert_eq!(programs(script), ["set", "test", "cat", "sort", "date", "id", "echo", "tar", "cd", "ls"]);
}

#[test]
fn a_command_keeps_its_words_and_the_place_it_runs_in() {
    let all = shell::read("cd /srv/../etc && cp 'a b' \"$HOME/c\" d{1,2} > out", Place::default());
    let copy = &all[1];
    assert_eq!(words(copy), ["a b", "/home/agent/c", "d1", "d2"]);
    assert_eq!(copy.redirects.iter().map(|r| glob::shown(r)).collect::<Vec<_>>(), ["out"]);
    assert_eq!(copy.cwd.iter().map(|s| glob::shown(s)).collect::<Vec<_>>(), ["etc"]);
}

#[test]
fn what_stands_in_others_is_reported_with_them() {
    assert_eq!(
        programs("sudo -u x env A=1 nice -n 5 timeout 3 bash -c 'find . -exec touch {} +'"),
        ["sudo", "env", "nice", "timeout", "bash", "find", "touch"]
    );
}

#[test]
fn nesting_without_end_ends() {
    for open in [
        "$(",
        "(",
        "{ ",
        "\"$(",
        "`",
        "${x:-",
        "bash -c '",
        "<(",
        "if ",
        "case x in (",
        "eval ",
        "[[ ",
        "((",
        "x=(",
    ] {
        let deep = open.repeat(20_000);
        shell::read(&deep, Place::default());
    }
    let bomb = "a={x,y}; ".to_owned() + &"{a,b}".repeat(200);
    shell::read(&bomb, Place::default());
    let grow: String = (0..200).map(|_| "x=$x$x$x$x; ").collect();
    shell::read(&format!("x=aaaaaaaaaa; {grow} $x"), Place::default());
}

fn snippet() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "rm",
        "-rf",
        "/",
        " ",
        " ",
        "'",
        "\"",
        "\\",
        "$",
        "(",
        ")",
        "{",
        "}",
        "`",
        "|",
        "&",
        ";",
        "\n",
        "<",
        ">",
        "<<",
        "EOF",
        "<<<",
        "$(",
        "${",
        "$'",
        "x",
        "=",
        "*",
        "?",
        "[",
        "]",
        "~",
        "#",
        "if",
        "then",
        "fi",
        "for",
        "in",
        "do",
        "done",
        "case",
        "esac",
        "bash -c",
        "eval",
        "sudo",
        "xargs",
        "find",
        "-exec",
        "{}",
        "\\;",
        "!",
        "ü",
        "\t",
        ",",
        "..",
        "1",
        "((",
        "))",
        "[[",
        "]]",
        "@(",
        "function",
        "alias",
        "echo",
        "| sh",
        "base64 -d",
        "\\x72",
        "%s",
        "printf",
    ]);
    prop::collection::vec(pieces, 0..60).prop_map(|p| p.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// Nothing makes the reader panic or hang, and it is the same every time.
    #[test]
    fn any_text_is_read(script in snippet()) {
        let once = shell::read(&script, Place::default());
        prop_assert_eq!(once, shell::read(&script, Place::default()));
    }

    #[test]
    fn any_characters_are_read(script in "\\PC{0,200}") {
        shell::read(&script, Place::default());
    }

    /// A command that is there is found, whatever harmless things stand before and behind it.
    #[test]
    fn a_command_between_others_is_found(
        before in prop::sample::select(vec!["ls", "echo 'a;b'", "x=1", "true # no", "cat <<E\nrm\nE", "[[ a < b ]]", "(cd /tmp)", "case a in b) c;; esac"]),
        between in prop::sample::select(vec!["\n", "\n\n"]),
        behind in prop::sample::select(vec!["", " | cat", " && ls", " > out", "; ls", " &"]),
        quotes in prop::collection::vec(0..4_u8, 4),
    ) {
        let spelt: String = "hunt".chars().zip(&quotes).map(|(c, q)| match q {
            0 => c.to_string(),
            1 => format!("\\{c}"),
            2 => format!("'{c}'"),
            _ => format!("\"{c}\""),
        }).collect();
        let script = format!("{before}{between}{spelt} x{behind}");
        prop_assert!(programs(&script).contains(&"hunt".to_owned()), "{}", script);
    }

    /// What is quoted is one word and no command, whatever is in it.
    #[test]
    fn what_is_quoted_is_a_word(text in "[^'\u{0}]{0,60}") {
        let all = shell::read(&format!("hold '{text}'"), Place::default());
        prop_assert_eq!(all.len(), 1);
        prop_assert_eq!(words(&all[0]), vec![text]);
    }

    /// Patterns meet what they would find, and a pattern meets itself.
    #[test]
    fn patterns_meet_as_globs_do(rule in "[ab*?]{0,8}", word in "[ab]{0,8}") {
        fn plain(rule: &[u8], word: &[u8]) -> bool {
            match (rule.first(), word.first()) {
                (None, None) => true,
                (Some(b'*'), _) => plain(&rule[1..], word) || (!word.is_empty() && plain(rule, &word[1..])),
                (Some(b'?'), Some(_)) => plain(&rule[1..], &word[1..]),
                (Some(a), Some(b)) => a == b && plain(&rule[1..], &word[1..]),
                _ => false,
            }
        }
        prop_assert_eq!(glob::fits(&rule, &word), plain(rule.as_bytes(), word.as_bytes()));
        let pattern = glob::pattern(&rule);
        prop_assert!(glob::meet(&pattern, &pattern));
        // A shell's pattern that may become the word meets what fits the word.
        if plain(rule.as_bytes(), word.as_bytes()) {
            prop_assert!(glob::meet(&glob::word(&word), &pattern));
        }
    }
}
