//! Help of every command, as committed under `tests/snapshots`.

use std::fmt::Write as _;

use clap::Command;

fn all(command: &Command, path: &str, out: &mut Vec<(String, String)>) {
    let path = if path.is_empty() {
        command.get_name().to_owned()
    } else {
        format!("{path} {}", command.get_name())
    };
    let help = command.clone().bin_name(path.clone()).term_width(100).render_long_help().to_string();
    out.push((path.clone(), help));
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        all(sub, &path, out);
    }
}

fn every() -> Vec<(String, String)> {
    let mut root = wharf_cli::command();
    root.build();
    let mut out = Vec::new();
    all(&root, "", &mut out);
    out
}

#[test]
fn help_of_every_command() {
    insta::with_settings!({ snapshot_path => "../snapshots", prepend_module_to_snapshot => false, omit_expression => true }, {
        for noun in wharf_cli::command().get_subcommands() {
            let prefix = format!("wharf {}", noun.get_name());
            let mut text = String::new();
            for (path, help) in every().iter().filter(|(p, _)| *p == prefix || p.starts_with(&format!("{prefix} "))) {
                writeln!(text, "===== {path} =====\n{help}").unwrap();
            }
            insta::assert_snapshot!(format!("help-{}", noun.get_name()), text);
        }
        insta::assert_snapshot!("help", &every()[0].1);
    });
}

#[test]
fn every_command_says_what_it_does_and_takes_no_secret_as_an_argument() {
    for (path, help) in every() {
        let first = help.lines().next().unwrap_or_default();
        assert!(
            !first.is_empty() && !first.starts_with("Usage"),
            "{path} does not say what it does:\n{help}"
        );
        for word in ["--password ", "--token ", "--value ", "--secret "] {
            assert!(!help.contains(word), "{path} takes {word}");
        }
    }
}

#[test]
fn the_tree_of_commands_holds_together() {
    wharf_cli::command().debug_assert();
}

#[test]
fn a_word_that_is_nearly_right_gets_a_suggestion() {
    for (line, suggestion) in [
        (vec!["wharf", "sesion", "list"], "session"),
        (vec!["wharf", "session", "creat"], "create"),
        (vec!["wharf", "session", "create", "--memry", "1Gi"], "--memory"),
    ] {
        let error = wharf_cli::command().try_get_matches_from(&line).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(suggestion), "{error}");
    }
}

#[test]
fn global_options_stand_before_or_behind_the_noun_and_not_at_foreign_commands() {
    use clap::FromArgMatches as _;
    let command = || wharf_cli::command().subcommand(Command::new("up"));
    for line in [
        vec!["wharf", "-s", "lab", "session", "list", "-o", "json"],
        vec!["wharf", "session", "-o", "json", "list", "--space", "lab"],
    ] {
        let matches = command().try_get_matches_from(line).unwrap();
        let root = wharf_cli::Globals::from_arg_matches(&matches).unwrap();
        let noun = wharf_cli::Globals::from_arg_matches(matches.subcommand().unwrap().1).unwrap();
        let globals = root.or(noun);
        assert_eq!(globals.space.as_deref(), Some("lab"));
        assert_eq!(globals.output, Some(wharf_cli::output::Format::Json));
    }
    assert!(command().try_get_matches_from(["wharf", "up", "--space", "lab"]).is_err());
}
