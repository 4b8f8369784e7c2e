#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::{Value, json};
use wharf_wire::host::desktop::{Action, Button, Point, Region, Size};

use super::grid::Grid;
use super::{Outcome, Place, computer, edit, files, page};
use crate::block::Part;
use crate::http::Gateway;
use crate::images::Images;
use crate::model::traits::STANDARD;
use crate::screen::Screen;

/// A screen of 2560 × 1600 that remembers what was done to it.
#[derive(Default)]
struct Glass {
    done: Mutex<Vec<Action>>,
    shots: Mutex<Vec<(Option<Region>, Size)>>,
    broken: bool,
}

#[async_trait]
impl Screen for Glass {
    async fn size(&self) -> Result<Size, String> {
        Ok(Size { width: 2560, height: 1600 })
    }

    async fn shot(&self, region: Option<Region>, size: Size) -> Result<Vec<u8>, String> {
        self.shots.lock().unwrap().push((region, size));
        Ok(b"\x89PNG".to_vec())
    }

    async fn act(&self, actions: Vec<Action>) -> Result<Point, String> {
        if self.broken {
            return Err("the X server ended".into());
        }
        self.done.lock().unwrap().extend(actions);
        Ok(Point { x: 0, y: 0 })
    }

    async fn pointer(&self) -> Result<Point, String> {
        Ok(Point { x: 2559, y: 1599 })
    }
}

fn place(dir: &std::path::Path, screen: Arc<dyn Screen>) -> Place {
    Place {
        home: dir.to_owned(),
        output: dir.join("output"),
        images: Arc::new(Images::open(dir.join("images")).unwrap()),
        gateway: Gateway::new("/nowhere"),
        screen,
    }
}

fn text(outcome: &Outcome) -> &str {
    match &outcome.content[0] {
        Part::Text { text } => text,
        Part::Image { .. } => panic!("a picture"),
    }
}

#[tokio::test]
async fn actions_reach_the_screen_in_its_own_pixels_and_are_followed_by_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let glass = Arc::new(Glass::default());
    let place = place(dir.path(), glass.clone());
    let mut computer = computer::Computer::start(&place, STANDARD).await.unwrap();
    let definition = computer.definition();
    assert!(definition.description.contains("1389x868"), "{}", definition.description);
    let click = json!({"action": "double_click", "coordinate": [0, 0], "text": "ctrl"});
    let outcome = computer.run(&click, false).await.unwrap();
    assert!(matches!(&outcome.content[0], Part::Image { image } if image.size.is_some()));
    let quiet = json!({"action": "mouse_move", "coordinate": [10, 10]});
    assert_eq!(text(&computer.run(&quiet, true).await.unwrap()), "Done.", "more is to come: no picture yet");
    computer
        .run(&json!({"action": "scroll", "scroll_direction": "up", "scroll_amount": 3}), false)
        .await
        .unwrap();
    computer.run(&json!({"action": "key", "text": "Tab", "repeat": 4}), false).await.unwrap();
    let position = computer.run(&json!({"action": "cursor_position"}), false).await.unwrap();
    assert!(text(&position).starts_with("X=1388, Y="), "{position:?}");
    let done = glass.done.lock().unwrap().clone();
    assert!(
        matches!(&done[0], Action::Click { at: Some(Point { x: 0, y: 0 }), button: Button::Left, count: 2, keys: Some(k) } if k == "ctrl")
    );
    assert!(matches!(done[1], Action::Move { to: Point { x: 19, .. } }), "{:?}", done[1]);
    assert!(matches!(done[2], Action::Scroll { at: None, dx: 0, dy: -3, .. }));
    assert!(matches!(&done[3], Action::Key { count: 4, .. }));
    computer.run(&json!({"action": "zoom", "region": [0, 0, 100, 50]}), false).await.unwrap();
    let (region, size) = *glass.shots.lock().unwrap().last().unwrap();
    let region = region.unwrap();
    assert!(region.width == 184 && size.width > 1300, "{region:?} {size:?}");
}

#[tokio::test]
async fn what_cannot_be_done_on_the_screen_is_said_and_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let glass = Arc::new(Glass { broken: true, ..Glass::default() });
    let mut computer = computer::Computer::start(&place(dir.path(), glass), STANDARD).await.unwrap();
    for (input, word) in [
        (json!({"action": "left_click", "coordinate": [5000, 1]}), "outside display bounds"),
        (json!({"action": "left_click", "coordinate": [-1, 1]}), "outside display bounds"),
        (json!({"action": "left_click", "coordinate": [1]}), "two whole numbers"),
        (json!({"action": "left_click_drag", "coordinate": [1, 1]}), "start_coordinate"),
        (json!({"action": "type"}), "`text` is required"),
        (json!({"action": "key", "text": "a", "repeat": 0}), "`repeat`"),
        (json!({"action": "wait", "duration": 301}), "`duration`"),
        (json!({"action": "scroll", "scroll_direction": "sideways"}), "sideways"),
        (json!({"action": "zoom", "region": [10, 10, 5, 20]}), "Region"),
        (json!({"action": "dance"}), "dance"),
        (json!({}), "`action` is required"),
        (json!({"action": "key", "text": "a"}), "X server ended"),
    ] {
        let why = computer.run(&input, false).await.unwrap_err();
        assert!(why.contains(word), "{input}: {why}");
    }
}

proptest! {
    #[test]
    fn a_point_the_model_means_is_the_point_that_is_hit(
        screen in (16_u32..4096, 16_u32..4096), x in any::<prop::sample::Index>(), y in any::<prop::sample::Index>(),
    ) {
        let grid = Grid::new(screen, STANDARD);
        let (x, y) = (x.index(grid.seen.0 as usize) as i64, y.index(grid.seen.1 as usize) as i64);
        let hit = grid.to_screen(x, y).unwrap();
        prop_assert!((hit.x as u32) < screen.0 && (hit.y as u32) < screen.1);
        let back = grid.to_seen(hit);
        prop_assert_eq!((i64::from(back.0), i64::from(back.1)), (x, y));
    }

    #[test]
    fn what_is_zoomed_lies_on_the_screen(screen in (16_u32..4096, 16_u32..4096), a in any::<[prop::sample::Index; 4]>()) {
        let grid = Grid::new(screen, STANDARD);
        let (w, h) = (grid.seen.0 as usize, grid.seen.1 as usize);
        let (x0, x1) = (a[0].index(w), a[1].index(w));
        let (y0, y1) = (a[2].index(h), a[3].index(h));
        let corners = [x0.min(x1), y0.min(y1), x0.max(x1) + 1, y0.max(y1) + 1].map(|n| n as i64);
        let (region, size) = grid.zoom(corners).unwrap();
        prop_assert!(u32::from(region.x) + u32::from(region.width) <= screen.0);
        prop_assert!(u32::from(region.y) + u32::from(region.height) <= screen.1);
        prop_assert!(region.width > 0 && region.height > 0 && size.width >= 16 && size.height >= 16);
    }

    #[test]
    fn pages_of_a_file_together_are_the_file(text in "[a-zäöü€😀\n]{0,400}", limit in 4_u64..60) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &text).unwrap();
        let (mut all, mut next) = (String::new(), Some(0));
        while let Some(offset) = next {
            let (shown, after, length) = page::of_file(&path, offset, limit).unwrap();
            prop_assert_eq!(length, text.len() as u64);
            all.push_str(&shown);
            next = after;
        }
        prop_assert_eq!(all, text);
    }

    #[test]
    fn names_match_as_a_shell_would_match_them(name in "[ab]{0,6}", pattern in "[ab*?]{0,6}") {
        fn plain(p: &[u8], n: &[u8]) -> bool {
            match (p.first(), n.first()) {
                (None, None) => true,
                (Some(b'*'), _) => plain(&p[1..], n) || (!n.is_empty() && plain(p, &n[1..])),
                (Some(b'?'), Some(_)) => plain(&p[1..], &n[1..]),
                (Some(a), Some(b)) if a == b => plain(&p[1..], &n[1..]),
                _ => false,
            }
        }
        prop_assert_eq!(files::matches(&pattern, &name), plain(pattern.as_bytes(), name.as_bytes()));
    }
}

#[test]
fn the_editor_answers_as_it_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path(), Arc::new(Glass::default()));
    let run = |input: Value| edit::run(&place, &input);
    let at = |command: &str, more: Value| {
        let mut input = json!({"command": command, "path": dir.path().join("a.txt")});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    assert!(run(at("view", json!({}))).unwrap_err().contains("File not found"));
    run(at("create", json!({"file_text": "one\ntwo\nthree"}))).unwrap();
    assert_eq!(text(&run(at("view", json!({}))).unwrap()), "     1\tone\n     2\ttwo\n     3\tthree\n");
    assert_eq!(
        text(&run(at("view", json!({"view_range": [2, -1]}))).unwrap()),
        "     2\ttwo\n     3\tthree\n"
    );
    for range in [json!([0, 2]), json!([4, 5]), json!([3, 2]), json!([1]), json!("all")] {
        assert!(run(at("view", json!({"view_range": range}))).unwrap_err().contains("Invalid `view_range`"));
    }
    run(at("insert", json!({"insert_line": 3, "insert_text": "four\n"}))).unwrap();
    run(at("insert", json!({"insert_line": 0, "insert_text": "zero"}))).unwrap();
    let whole = || std::fs::read_to_string(dir.path().join("a.txt")).unwrap();
    assert_eq!(whole(), "zero\none\ntwo\nthree\nfour\n");
    assert!(run(at("insert", json!({"insert_line": 9, "insert_text": "x"}))).unwrap_err().contains("0 to 5"));
    assert!(run(at("str_replace", json!({"old_str": "five"}))).unwrap_err().contains("No match found"));
    assert!(
        run(at("str_replace", json!({"old_str": "o", "new_str": "0"})))
            .unwrap_err()
            .contains("Found 4 matches")
    );
    run(at("str_replace", json!({"old_str": "two\n"}))).unwrap();
    assert_eq!(whole(), "zero\none\nthree\nfour\n");
    std::fs::write(dir.path().join("a.txt"), b"\xff\xfe").unwrap();
    assert!(run(at("str_replace", json!({"old_str": "x"}))).unwrap_err().contains("not UTF-8"));
    assert!(run(json!({"command": "undo_edit", "path": "a.txt"})).unwrap_err().contains("no command"));
    let shown = run(json!({"command": "view", "path": dir.path()})).unwrap();
    assert!(text(&shown).contains("a.txt"));
}

#[test]
fn an_edit_keeps_the_files_mode_and_follows_links() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path(), Arc::new(Glass::default()));
    let (file, link) = (dir.path().join("run.sh"), dir.path().join("link"));
    std::fs::write(&file, "echo a\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    edit::run(&place, &json!({"command": "str_replace", "path": link, "old_str": "a", "new_str": "b"}))
        .unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "echo b\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o755);
}
