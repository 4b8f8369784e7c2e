#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::*;

fn load(toml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wharf.toml");
    std::fs::write(&file, toml).unwrap();
    Sources {
        file: Some(file),
        environment: env.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        flags: flags.iter().map(|(k, v)| ((*k).into(), (*v).into(), format!("--{k}"))).collect(),
        root: true,
        home: None,
    }
    .load()
    .map_err(|e| e.to_string())
}

#[test]
fn later_places_win_and_every_value_knows_its_origin() {
    let toml = "listen = '0.0.0.0:1'\nshutdown_seconds = 5\n[log]\nformat = 'json'\n[warm]\nbase = 7";
    let env =
        [("WHARF_SHUTDOWN_SECONDS", "6"), ("WHARF_LOG__LEVEL", "debug"), ("WHARF_TOKEN", "not a setting")];
    let loaded = load(toml, &env, &[("listen", "127.0.0.1:2")]).unwrap();
    let s = &loaded.settings;
    assert_eq!(s.listen.to_string(), "127.0.0.1:2");
    assert_eq!(s.shutdown_seconds, 6);
    assert_eq!((s.log.format, s.log.level.as_str()), (LogFormat::Json, "debug"));
    assert_eq!(s.warm.values().copied().collect::<Vec<_>>(), [7]);
    assert_eq!(loaded.origins["listen"], Origin::Flag("--listen".into()));
    assert_eq!(loaded.origins["shutdown_seconds"], Origin::Environment("WHARF_SHUTDOWN_SECONDS".into()));
    let shown = loaded.to_annotated_toml();
    assert!(shown.contains("shutdown_seconds = 6 # environment variable WHARF_SHUTDOWN_SECONDS"), "{shown}");
    assert!(shown.contains("user = \"wharf\" # default"), "{shown}");
}

#[test]
fn what_show_prints_can_be_read_again() {
    let loaded = load("[jailer]\nid_base = 70000", &[], &[]).unwrap();
    let again = load(&loaded.to_annotated_toml(), &[], &[]).unwrap();
    assert_eq!(loaded.settings, again.settings);
}

#[test]
fn an_unknown_key_names_the_nearest_one_and_its_place() {
    let error = load("lisen = '127.0.0.1:1'", &[], &[]).unwrap_err();
    assert!(error.contains("there is no setting `lisen`; did you mean `listen`?"), "{error}");
    assert!(error.contains("wharf.toml"), "{error}");
    let error = load("[jailer]\nsokcet = 'x'", &[], &[]).unwrap_err();
    assert!(error.contains("did you mean `jailer.socket`?"), "{error}");
    let error = load("", &[("WHARF_LISTNE", "x")], &[]).unwrap_err();
    assert!(
        error.starts_with("environment variable WHARF_LISTNE: there is no setting `listne`; did you mean"),
        "{error}"
    );
    let error = load("volume_driver = 'btrfs'", &[], &[]).unwrap_err();
    assert!(error.contains("did you mean `jailer.volume_driver`?"), "{error}");
    let error = load("zzzzzzzzzzzzz = 1", &[], &[]).unwrap_err();
    assert!(error.contains("`wharf config schema` lists all"), "{error}");
}

#[test]
fn every_wrong_key_is_named_at_once() {
    let error = load("lisen = 1\nuserr = 2", &[], &[]).unwrap_err();
    assert!(error.contains("`lisen`") && error.contains("`userr`"), "{error}");
}

#[test]
fn a_wrong_value_says_where_and_what() {
    for (toml, env, wants) in [
        ("listen = 'nowhere'", None, vec!["`listen`", "wharf.toml"]),
        ("shutdown_seconds = 0", None, vec!["`shutdown_seconds`: is 0; it must be between 1 and 3600"]),
        (
            "",
            Some(("WHARF_SHUTDOWN_SECONDS", "soon")),
            vec!["environment variable WHARF_SHUTDOWN_SECONDS", "`shutdown_seconds`"],
        ),
        ("roles = ['server', 'cook']", None, vec!["`roles", "cook"]),
        ("roles = []", None, vec!["names no role"]),
        ("user = 'root'", None, vec!["not the name of an unprivileged user"]),
        ("log.level = 'loud'", None, vec!["`log.level`"]),
        ("public_url = 'ftp://x'", None, vec!["http://"]),
        ("jailer.cgroup_prefix = '../x'", None, vec!["one directory name"]),
        (
            "run_dir = '/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'",
            None,
            vec!["too long", "107"],
        ),
        ("listen = [", None, vec!["is not TOML"]),
    ] {
        let error = load(toml, env.as_slice(), &[]).expect_err(toml);
        for want in wants {
            assert!(error.contains(want), "{toml}: {error}");
        }
    }
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    std::fs::write(&file, "postgres://u:canary@h/d\nignored\n").unwrap();
    let toml = format!("database_url_file = {file:?}");
    let loaded = load(&toml, &[], &[]).unwrap();
    let url = loaded.settings.database_url.clone().unwrap();
    assert_eq!(url.expose(), "postgres://u:canary@h/d");
    for shown in [
        format!("{:?}", loaded.settings),
        serde_json::to_string(&loaded.settings).unwrap(),
        loaded.to_annotated_toml(),
    ] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    let passed = take_over(&hand_over(&loaded.settings).unwrap()).unwrap();
    assert_eq!(passed, loaded.settings);

    let error = load(&format!("{toml}\ndatabase_url = 'postgres://x'"), &[], &[]).unwrap_err();
    assert!(error.contains("give one of them"), "{error}");
    let error = load("database_url = 'mysql://u:canary@h'", &[], &[]).unwrap_err();
    assert!(error.contains("postgres://") && !error.contains("canary"), "{error}");
    let error = load("database_url_file = '/nowhere/at/all'", &[], &[]).unwrap_err();
    assert!(error.contains("cannot read /nowhere/at/all"), "{error}");
}

#[test]
fn the_list_of_keys_is_the_tree() {
    fn walk(value: &serde_json::Value, prefix: &str, out: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(map) if !matches!(prefix, "warm" | "runtimes") => {
                for (k, v) in map {
                    walk(v, &if prefix.is_empty() { k.clone() } else { format!("{prefix}.{k}") }, out);
                }
            }
            _ => {
                out.insert(prefix.to_owned());
            }
        }
    }
    let mut tree = BTreeSet::new();
    walk(&serde_json::to_value(Settings::default()).unwrap(), "", &mut tree);
    let listed: BTreeSet<String> = KEYS.iter().map(|k| k.path.to_owned()).collect();
    assert_eq!(tree, listed);
    let schema = schema();
    for key in KEYS {
        let pointer = format!("/properties/{}", key.path.replace('.', "/properties/"));
        assert!(schema.pointer(&pointer).is_some(), "{} is not in the schema", key.path);
    }
}

#[test]
fn an_ordinary_user_gets_a_directory_at_home() {
    let sources = Sources { home: Some("/home/kim".into()), ..Sources::default() };
    assert_eq!(sources.load().unwrap().settings.data_dir, PathBuf::from("/home/kim/.local/share/wharf"));
    let sources = Sources { root: true, home: Some("/root".into()), ..Sources::default() };
    assert_eq!(sources.load().unwrap().settings.data_dir, PathBuf::from("/var/lib/wharf"));
}

#[test]
fn the_page_about_settings_is_the_list_of_keys() {
    let page = include_str!("../../../../docs/settings.md");
    let wants = table();
    assert!(page.contains(&wants), "docs/settings.md should hold this table:\n{wants}");
}

fn table() -> String {
    let defaults = serde_json::to_value(Settings::default()).unwrap_or_default();
    let mut out = String::from("| setting | default | what it is |\n|---|---|---|\n");
    for key in KEYS {
        let default = match defaults.pointer(&format!("/{}", key.path.replace('.', "/"))) {
            None | Some(serde_json::Value::Null) => "–".to_owned(),
            Some(value) => format!("`{}`", show::to_toml(value)),
        };
        let _ = writeln!(out, "| `{}` | {default} | {} |", key.path, key.doc);
    }
    out
}
