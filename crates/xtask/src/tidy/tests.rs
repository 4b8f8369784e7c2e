#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;

const PAGE: &str = "\
| crate | what | may import (ours) | externals it alone owns |
|---|---|---|---|
| `domain` | words | – | – |
| `store` | rows | domain | **sqlx**, argon2 |
| `wharf` | all | everything | – |
";

fn repository(files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut all = vec![
        ("ARCHITECTURE.md", PAGE),
        ("crates/domain/Cargo.toml", "[dependencies]\n"),
        (
            "crates/domain/src/error.rs",
            "//! Codes.\ncodes! {\n    /// Gone.\n    Gone = \"gone\", 404, false;\n}\n",
        ),
        ("crates/store/Cargo.toml", "[dependencies]\nwharf-domain = \"*\"\nsqlx = \"*\"\n"),
        ("crates/wharf/Cargo.toml", "[dependencies]\nwharf-store = \"*\"\n"),
    ];
    all.extend_from_slice(files);
    for (path, text) in all {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let git = std::process::Command::new("git").arg("init").arg("-q").current_dir(root).status().unwrap();
    assert!(git.success());
    check(root).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn a_tidy_repository_has_no_findings() {
    assert_eq!(repository(&[]), Vec::<String>::new());
}

#[test]
fn an_import_the_table_does_not_have_is_found() {
    let found = repository(&[("crates/domain/Cargo.toml", "[dependencies]\nwharf-store.workspace = true\n")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("crates/domain/Cargo.toml:2: `domain` may not import `store`"), "{found:?}");
    let found = repository(&[("crates/wharf/Cargo.toml", "[dependencies]\nwharf-testkit = \"*\"\n")]);
    assert!(found[0].contains("`wharf` may not import `testkit`"), "{found:?}");
    let free = "[dependencies]\n[dev-dependencies]\nwharf-testkit = \"*\"\nsqlx = \"*\"\n";
    assert!(repository(&[("crates/domain/Cargo.toml", free)]).is_empty());
}

#[test]
fn an_external_crate_with_an_owner_is_not_for_others() {
    let found =
        repository(&[("crates/wharf/Cargo.toml", "[target.'cfg(unix)'.dependencies]\nsqlx = \"*\"\n")]);
    assert_eq!(found, ["crates/wharf/Cargo.toml:2: `sqlx` belongs to store alone"]);
}

#[test]
fn a_crate_without_a_row_and_a_row_without_a_crate_are_found() {
    let found = repository(&[("crates/extra/Cargo.toml", "[package]\n")]);
    assert!(found[0].contains("no row in ARCHITECTURE.md"), "{found:?}");
    let page = format!("{PAGE}| `ghost` | – | – | – |\n");
    assert!(repository(&[("ARCHITECTURE.md", &page)])[0].contains("`ghost`, and there is none"));
}

#[test]
fn long_files_are_found_and_long_tests_are_not() {
    let long = format!("//! Long.\n{}", "fn f() {}\n".repeat(500));
    assert!(repository(&[("crates/store/src/lib.rs", &long)])[0].contains("501 lines; 500 is the most"));
    assert!(
        repository(&[("crates/store/src/x/tests.rs", &long), ("crates/store/tests/it/main.rs", &long)])
            .is_empty()
    );
}

#[test]
fn a_file_opens_with_why_it_exists() {
    let found = repository(&[("crates/store/src/lib.rs", "use std::fmt;\n")]);
    assert_eq!(found, ["crates/store/src/lib.rs:1: does not open with `//!` and why it exists"]);
}

#[test]
fn words_for_later_are_found_in_comments_and_pages_but_not_in_literals() {
    let later = concat!("//! Why.\n// TO", "DO: more\nconst A: &str = \"TO", "DO\";\n");
    let found = repository(&[("crates/store/src/lib.rs", later)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("crates/store/src/lib.rs:2:"), "{found:?}");
    assert_eq!(repository(&[("docs/x.md", concat!("a FIX", "ME b\n"))]).len(), 1);
}

#[test]
fn banned_calls_are_found_where_they_are_banned() {
    let at = |path: &str, text: &str| calls::banned(Path::new(path), text).len();
    assert_eq!(at("crates/store/src/a.rs", "fn f() { std::process::exit(1) }"), 1);
    assert_eq!(at("crates/wharf/src/main.rs", "fn f() { std::process::exit(1) }"), 0);
    assert_eq!(at("crates/store/src/a.rs", "fn f() { println!(\"x\"); eprintln!(\"x\"); }"), 1);
    assert_eq!(at("crates/store/src/a.rs", "fn f() { let s = \"println!(\"; } // println!("), 0);
    assert_eq!(at("crates/store/src/a.rs", "let s = r#\"println!(\"#; let c = '\"'; println!(\"\")"), 1);
    assert_eq!(at("crates/store/src/a/tests.rs", "SystemTime::now(); println!(\"\");"), 0);
    assert_eq!(at("crates/store/src/a.rs", "SystemTime::now()"), 1);
    assert_eq!(at("crates/ports/src/clock.rs", "SystemTime::now()"), 0);
    assert_eq!(at("crates/store/tests/it/a.rs", concat!("#[igno", "re]\nfn t() { env::set_var(a, b) }")), 2);
    assert_eq!(at("crates/store/src/a.rs", "#[cfg(test)]\nmod tests {\n}"), 1);
    assert_eq!(at("crates/server/src/lib.rs", "#![allow(unsafe_code)]"), 1);
}

#[test]
fn an_error_code_without_its_line_is_found() {
    let source =
        "codes! {\n    Gone = \"gone\", 404, false;\n    /// Is gone\n    Lost = \"lost\", 404, false;\n}";
    let found: Vec<_> = codes::undocumented(source).into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, [2, 4]);
    assert_eq!(codes::undocumented("nothing").len(), 1);
}
