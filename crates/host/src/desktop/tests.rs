#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wharf_wire::host::desktop::{Action, Button, InputRequest, Point, Region, Screenshot, Size};

use super::Setting;
use super::capture::{Picture, blend, encode, target, within};
use super::keymap::{Given, Key, Keymap};
use super::keysyms::{chord, of_char, of_name};
use super::plan::{Step, plan};
use super::resize::resize;
use super::routes::wanted;
use crate::request::Query;

const SCREEN: Size = Size { width: 640, height: 400 };

#[test]
fn a_session_chooses_its_screen_and_is_told_what_is_wrong_with_it() {
    assert_eq!(
        Setting::parse("1920x1080@120").unwrap(),
        Setting { size: Size { width: 1920, height: 1080 }, dpi: 120 }
    );
    assert_eq!(Setting::parse("800x600").unwrap().dpi, 96);
    for wrong in
        ["", "800", "800x", "800x600@", "800x600@9999", "100x100", "9999x9999", "+800x600", "800x600x24"]
    {
        assert!(Setting::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn keys_have_the_names_people_use() {
    let same = [
        ("Return", "enter"),
        ("Escape", "ESC"),
        ("Page_Down", "pgdn"),
        ("Page_Down", "PAGEDOWN"),
        ("Control_L", "ctrl"),
        ("ArrowUp", "Up"),
        ("a", "U0061"),
        ("€", "U20AC"),
        ("plus", "+"),
    ];
    for (one, other) in same {
        assert!(of_name(one).is_some(), "{one}");
        assert_eq!(of_name(one), of_name(other), "{one} {other}");
    }
    assert_ne!(of_name("a"), of_name("A"));
    assert_eq!(of_name("F12"), Some(0xffc9));
    assert_eq!(of_name("KP_7"), Some(0xffb7));
    for nothing in ["", "F36", "F0", "Retrun", "U12", "UD800", "\u{7}"] {
        assert_eq!(of_name(nothing), None, "{nothing:?}");
    }
}

#[test]
fn chords_are_keys_joined_by_plus() {
    assert_eq!(chord("ctrl+shift+t").unwrap(), [0xffe3, 0xffe1, 0x74]);
    assert_eq!(chord("ctrl++").unwrap(), [0xffe3, 0x2b]);
    assert_eq!(chord("+").unwrap(), [0x2b]);
    for wrong in ["", "ctrl+", "ctrl+nonsense", "a+b+c+d+e+f+g+h+i"] {
        assert!(chord(wrong).is_err(), "{wrong:?}");
    }
}

fn batch(action: Action) -> InputRequest {
    InputRequest { actions: vec![action] }
}

#[test]
fn a_batch_is_refused_whole_and_says_which_action_is_at_fault() {
    let fine = Action::Move { to: Point { x: 0, y: 0 } };
    let out = Point { x: 640, y: 10 };
    let wrong = [
        (Action::Move { to: out }, "actions[1].to"),
        (Action::Click { at: Some(out), button: Button::Left, count: 1, keys: None }, "actions[1].at"),
        (Action::Click { at: None, button: Button::Left, count: 0, keys: None }, "actions[1].count"),
        (Action::Key { keys: "ctrl+".into(), count: 1 }, "actions[1].keys"),
        (Action::Key { keys: " ".into(), count: 1 }, "actions[1].keys"),
        (Action::Type { text: "a\u{1b}[31m".into() }, "actions[1].text"),
        (Action::Type { text: String::new() }, "actions[1].text"),
        (Action::Wait { ms: 999_999 }, "actions[1].ms"),
        (Action::Scroll { at: None, dx: 0, dy: 0, keys: None }, "actions[1].dy"),
        (Action::Drag { path: vec![out], button: Button::Left, keys: None }, "actions[1].path"),
    ];
    for (action, field) in wrong {
        let request = InputRequest { actions: vec![fine.clone(), action] };
        let fault = plan(&request, SCREEN).unwrap_err();
        assert_eq!(fault.0.field.as_deref(), Some(field), "{request:?}");
    }
    assert!(plan(&InputRequest { actions: Vec::new() }, SCREEN).is_err());
    assert!(plan(&InputRequest { actions: vec![fine; 101] }, SCREEN).is_err());
}

#[test]
fn the_wheel_turns_in_all_four_directions() {
    let buttons = |dx, dy| {
        let steps = plan(&batch(Action::Scroll { at: None, dx, dy, keys: None }), SCREEN).unwrap();
        steps.iter().filter_map(|s| if let Step::Press(b) = s { Some(*b) } else { None }).collect::<Vec<_>>()
    };
    assert_eq!(buttons(0, 2), [5, 5]);
    assert_eq!(buttons(0, -1), [4]);
    assert_eq!(buttons(1, 0), [7]);
    assert_eq!(buttons(-1, 0), [6]);
}

fn keyboard(spare: usize) -> Keymap {
    // Key 8: a A, key 9: shift, then keys that mean nothing.
    let mut keysyms = vec![0x61, 0x41, 0xffe1, 0];
    keysyms.extend(std::iter::repeat_n(0, spare * 2));
    Keymap::new(8, 2, keysyms)
}

#[test]
fn letters_the_keyboard_has_are_struck_as_they_are() {
    let map = keyboard(1);
    assert_eq!(map.find(0x61), Some(Key { code: 8, shift: false }));
    assert_eq!(map.find(0x41), Some(Key { code: 8, shift: true }));
    assert_eq!(map.find(0x62), None);
    assert_eq!(map.spare(), [10]);
}

#[test]
fn a_key_keeps_its_meaning_as_long_as_another_can_be_given_one() {
    let (mut map, mut given) = (keyboard(2), Given::default());
    let (many, changes) = given.give(&mut map, &[0x62, 0x61, 0x62, 0x63]);
    assert_eq!((many, changes.len()), (4, 2));
    assert_eq!(given.give(&mut map, &[0x63]), (1, BTreeMap::new()), "it has one");
    let (_, changes) = given.give(&mut map, &[0x64]);
    assert_eq!(changes.values().collect::<Vec<_>>(), [&0x64]);
    assert_eq!(map.find(0x62), None, "the one not used for longest went");
    assert!(map.find(0x63).is_some());
    let (none, _) = Given::default().give(&mut keyboard(0), &[0x62]);
    assert_eq!(none, 0, "there is no room");
}

proptest! {
    /// However many letters: each round types at least one, and what it types has a key that means it.
    #[test]
    fn every_text_can_be_typed_in_rounds(text in "\\PC{1,60}", spare in 1_usize..6) {
        let (mut map, mut given) = (keyboard(spare), Given::default());
        let keysyms: Vec<u32> = text.chars().filter_map(of_char).collect();
        let mut left = keysyms.as_slice();
        while !left.is_empty() {
            let (many, _) = given.give(&mut map, left);
            prop_assert!(many > 0);
            for keysym in &left[..many] {
                prop_assert!(map.find(*keysym).is_some());
            }
            left = &left[many..];
        }
    }

    #[test]
    fn what_a_plan_moves_to_is_on_the_screen(points in prop::collection::vec((-10..700_i32, -10..500_i32), 2..6)) {
        let path = points.iter().map(|(x, y)| Point { x: *x, y: *y }).collect::<Vec<_>>();
        let drag = batch(Action::Drag { path: path.clone(), button: Button::Left, keys: None });
        match plan(&drag, SCREEN) {
            Ok(steps) => for step in steps {
                if let Step::Move(x, y) = step {
                    prop_assert!((0..640).contains(&x) && (0..400).contains(&y));
                }
            },
            Err(_) => prop_assert!(path.iter().any(|p| !(0..640).contains(&p.x) || !(0..400).contains(&p.y))),
        }
    }

    #[test]
    fn a_picture_of_one_colour_keeps_it_in_any_size(
        (w, h, nw, nh) in (1_u32..40, 1_u32..40, 1_u32..60, 1_u32..60), c in any::<[u8; 3]>()
    ) {
        let from = Picture { width: w, height: h, rgb: c.repeat((w * h) as usize) };
        let to = resize(&from, nw, nh);
        prop_assert_eq!(to.rgb.len(), (nw * nh * 3) as usize);
        for pixel in to.rgb.chunks_exact(3) {
            for (a, b) in pixel.iter().zip(c) {
                prop_assert!(a.abs_diff(b) <= 1, "{:?} {:?}", pixel, c);
            }
        }
    }

    #[test]
    fn a_pointer_anywhere_leaves_the_picture_whole(x in -50..50_i32, y in -50..50_i32) {
        let mut picture = Picture { width: 20, height: 10, rgb: vec![0; 600] };
        blend(&mut picture, &[0xffff_ffff; 64], 8, x, y);
        prop_assert_eq!(picture.rgb.len(), 600);
    }
}

#[test]
fn a_pointer_covers_what_is_under_it_as_much_as_it_is_there() {
    let mut picture = Picture { width: 3, height: 1, rgb: vec![100; 9] };
    blend(&mut picture, &[0xffff_0000, 0x0000_0000, 0x8080_8080], 3, 0, 0);
    assert_eq!(picture.rgb, [255, 0, 0, 100, 100, 100, 177, 177, 177]);
}

#[test]
fn a_half_black_page_is_half_black_when_it_is_half_as_large() {
    let mut rgb = vec![0; 8 * 4 * 3];
    rgb.chunks_exact_mut(24).for_each(|row| row[12..].fill(255));
    let small = resize(&Picture { width: 8, height: 4, rgb }, 4, 2);
    let row: Vec<u8> = small.rgb.chunks_exact(3).take(4).map(|p| p[0]).collect();
    assert!(row[0] < 10 && row[1] < 60 && row[2] > 195 && row[3] > 245, "{row:?}");
}

#[test]
fn a_packed_picture_is_the_picture() {
    let rgb: Vec<u8> = (0..30 * 20 * 3).map(|n| (n % 251) as u8).collect();
    let png = encode(&Picture { width: 30, height: 20, rgb: rgb.clone() }).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut out = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut out).unwrap();
    assert_eq!((info.width, info.height, out), (30, 20, rgb));
}

#[test]
fn a_screenshot_is_asked_for_strictly() {
    let ask = |query: &str| wanted(Query::parse(query).unwrap());
    let all = ask("region=1,2,3,4&scale=0.5&settle=100&settle_limit=900&cursor=false").unwrap();
    assert_eq!(
        all,
        Screenshot {
            region: Some(Region { x: 1, y: 2, width: 3, height: 4 }),
            size: None,
            scale: Some(0.5),
            settle_ms: Some(100),
            settle_limit_ms: Some(900),
            no_cursor: true
        }
    );
    let wrong = [
        ("region=1,2,3", "region"),
        ("region=1,2,0,4", "region"),
        ("region=-1,2,3,4", "region"),
        ("size=10", "size"),
        ("scale=0", "scale"),
        ("scale=NaN", "scale"),
        ("scale=9", "scale"),
        ("scale=1&size=100x100", "scale"),
        ("settle=99999999", "settle"),
        ("cursor=no", "cursor"),
        ("zoom=1", "zoom"),
    ];
    for (query, field) in wrong {
        assert_eq!(ask(query).unwrap_err().0.field.as_deref(), Some(field), "{query}");
    }
}

#[test]
fn a_region_is_all_on_the_screen_and_scaled_within_bounds() {
    let region = |x, y, width, height| Some(Region { x, y, width, height });
    assert!(within(region(600, 0, 40, 400), SCREEN).is_ok());
    assert!(within(region(601, 0, 40, 400), SCREEN).is_err());
    assert!(within(region(u16::MAX, 0, u16::MAX, 1), SCREEN).is_err());
    let whole = within(None, SCREEN).unwrap();
    let scaled = |scale| target(&Screenshot { scale: Some(scale), ..Screenshot::default() }, whole);
    assert_eq!(scaled(0.5).unwrap(), (320, 200));
    assert!(scaled(8.0).is_err(), "5120 pixels are too many");
}

#[test]
fn every_printable_character_of_the_first_plane_has_a_key_of_its_own() {
    let keysyms: BTreeSet<u32> = (0x20..0xd800_u32)
        .filter_map(char::from_u32)
        .filter(|c| !c.is_control())
        .map(|c| of_char(c).unwrap())
        .collect();
    assert_eq!(keysyms.len(), 0xd800 - 0x20 - 33, "all but the 33 control characters above");
}
