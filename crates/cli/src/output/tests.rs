#![allow(clippy::unwrap_used)]
use std::time::Duration;

use serde::Serialize;

use super::*;

fn noon() -> Time {
    "2026-01-31T12:00:00.000Z".parse().unwrap()
}

#[derive(Serialize)]
struct Thing {
    id: u32,
    name: String,
    note: Option<String>,
    size_bytes: u64,
    created_at: Time,
    limits: Limits,
}

#[derive(Serialize)]
struct Limits {
    pids: u32,
    extra: Vec<String>,
}

impl Show for Thing {
    const HEAD: &'static [&'static str] = &["NAME", "NOTE", "AGE"];
    fn row(&self, now: Time) -> Vec<Cell> {
        vec![
            Cell::styled(&self.name, Style::Good),
            Cell::opt(self.note.as_ref()),
            Cell::new(format::age(self.created_at, now)),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

fn things() -> Vec<Thing> {
    let thing = |id, name: &str, note: Option<&str>, ago| Thing {
        id,
        name: name.into(),
        note: note.map(str::to_owned),
        size_bytes: 5_000_000,
        created_at: Time::from_millis(noon().millis() - Duration::from_secs(ago).as_millis() as i64),
        limits: Limits { pids: 7, extra: vec![] },
    };
    vec![
        thing(1, "short", None, 5),
        thing(2, "日本語", Some("a note that is much longer than anybody wants to read in a column"), 4_000),
        thing(3, "evil", Some("\u{1b}[2Jtwo\nlines"), 900_000),
    ]
}

fn text(format: Format, width: Option<usize>) -> String {
    Out::fixed(format, width, noon).list_text(&things()).unwrap()
}

#[test]
fn a_table_is_whole_where_nobody_looks_and_fits_where_somebody_does() {
    insta::assert_snapshot!("table_unbounded", text(Format::Table, None));
    let narrow = text(Format::Table, Some(40));
    assert!(narrow.lines().all(|l| unicode_width::UnicodeWidthStr::width(l) <= 40), "{narrow}");
    insta::assert_snapshot!("table_forty_columns", narrow);
}

#[test]
fn json_yaml_and_names_carry_everything_and_nothing_else() {
    insta::assert_snapshot!("list_json", text(Format::Json, None));
    insta::assert_snapshot!("list_yaml", text(Format::Yaml, None));
    insta::assert_snapshot!("list_names", text(Format::Name, None));
}

#[test]
fn one_thing_is_shown_field_by_field() {
    let out = Out::fixed(Format::Table, None, noon).one_text(&things()[2]).unwrap();
    assert!(!out.contains('\u{1b}'));
    insta::assert_snapshot!("one_described", out);
}

#[test]
fn an_empty_list_is_an_empty_table_and_an_empty_array() {
    assert_eq!(Out::fixed(Format::Table, None, noon).list_text::<Thing>(&[]).unwrap(), "");
    assert_eq!(Out::fixed(Format::Json, None, noon).list_text::<Thing>(&[]).unwrap(), "[]\n");
}

#[test]
fn colour_does_not_move_columns() {
    let mut out = Out::fixed(Format::Table, Some(80), noon);
    let bare = out.list_text(&things()).unwrap();
    out.colour = true;
    let painted = out.list_text(&things()).unwrap();
    let mut stripped = painted.clone();
    for code in ["32", "2", "0"] {
        stripped = stripped.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_ne!(painted, bare);
    assert_eq!(stripped, bare);
}

#[test]
fn amounts_are_read_as_people_write_them() {
    assert_eq!(format::parse_cpu("2"), Ok(2000));
    assert_eq!(format::parse_cpu("0.5"), Ok(500));
    assert_eq!(format::parse_cpu(".25"), Ok(250));
    assert_eq!(format::parse_cpu("250m"), Ok(250));
    for bad in ["", ".", "x", "1.2345", "-1", "1,5", "9999999"] {
        assert!(format::parse_cpu(bad).is_err(), "{bad}");
    }
    assert_eq!(format::parse_mib("512"), Ok(512));
    assert_eq!(format::parse_mib("4Gi"), Ok(4096));
    for bad in ["", "Gi", "4GB", "1.5Gi", "99999999Ti"] {
        assert!(format::parse_mib(bad).is_err(), "{bad}");
    }
    assert_eq!(format::parse_seconds("15m"), Ok(900));
    assert_eq!(format::parse_idle("never"), Ok(0));
    assert!(format::parse_seconds("never").is_err());
    assert!(format::parse_seconds("1w").is_err());
    assert_eq!(format::parse_label_change("a=b"), Ok(("a".into(), Some("b".into()))));
    assert_eq!(format::parse_label_change("a-"), Ok(("a".into(), None)));
    assert!(format::parse_label_change("a").is_err());
}

#[test]
fn amounts_are_shown_short() {
    assert_eq!(format::cores(1500), "1.5");
    assert_eq!(format::cores(2000), "2");
    assert_eq!(format::cores(10), "0.01");
    assert_eq!(format::mib(4096), "4Gi");
    assert_eq!(format::mib(1000), "1000Mi");
    assert_eq!(format::bytes(1023), "1023 B");
    assert_eq!(format::bytes(1024 * 1024), "1.0 MiB");
    assert_eq!(format::span(Duration::from_secs(119)), "119s");
    assert_eq!(format::span(Duration::from_secs(120)), "2m");
}
