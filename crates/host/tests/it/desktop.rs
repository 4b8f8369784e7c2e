//! The desktop with a real X server, window manager and VNC server, where the machine has them.
//!
//! Where it has not, that is said; a failure only where WHARF_TEST_REQUIRE names `desktop`.

use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use wharf_domain::Code;
use wharf_wire::host::Env;
use wharf_wire::host::desktop::{Action, Button, InputRequest, Point, Region, Screenshot, Size, ViewMode};
use wharf_wire::host::exec::ExecRequest;

use crate::harness::{Host, code, raw, refused, until, until_dead};

fn possible() -> bool {
    let missing: Vec<_> = ["Xvfb", "openbox", "x11vnc", "xterm"]
        .into_iter()
        .filter(|p| !std::path::Path::new("/usr/bin").join(p).exists())
        .collect();
    let required = std::env::var("WHARF_TEST_REQUIRE").unwrap_or_default();
    assert!(
        missing.is_empty() || !required.split(',').any(|r| r.trim() == "desktop"),
        "the desktop is required here, and there is no {missing:?}"
    );
    if !missing.is_empty() {
        println!("skipped: there is no {missing:?}");
    }
    missing.is_empty()
}

async fn session() -> Option<Host> {
    if !possible() {
        return None;
    }
    let host = Host::start().await;
    host.claim(Env::from([("WHARF_DESKTOP", "640x400")])).await;
    Some(host)
}

struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    fn at(&self, x: usize, y: usize) -> [u8; 3] {
        let start = (y * self.width + x) * 3;
        self.rgb[start..start + 3].try_into().unwrap()
    }

    fn count(&self, colour: [u8; 3]) -> usize {
        self.rgb.chunks_exact(3).filter(|p| *p == colour).count()
    }
}

async fn look(host: &Host, wanted: &Screenshot) -> Picture {
    let png = host.client.screenshot(wanted).await.unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    Picture { width: info.width as usize, height: info.height as usize, rgb }
}

async fn act(host: &Host, actions: impl IntoIterator<Item = Action>) -> Point {
    host.client.input(&InputRequest { actions: actions.into_iter().collect() }).await.unwrap().pointer
}

const BACKGROUND: [u8; 3] = [0x33, 0x41, 0x55];

fn plain() -> Screenshot {
    Screenshot { no_cursor: true, ..Screenshot::default() }
}

#[tokio::test]
async fn it_starts_with_the_first_look_and_is_not_there_before() {
    let Some(host) = session().await else { return };
    let before = host.client.desktop().await.unwrap();
    assert_eq!((before.running, before.width, before.height, before.pointer), (false, 640, 400, None));
    let picture = look(&host, &plain()).await;
    assert_eq!((picture.width, picture.height), (640, 400));
    assert_eq!(picture.at(320, 200), BACKGROUND);
    let after = host.client.desktop().await.unwrap();
    assert!(after.running && after.pointer.is_some());
    // The pointer is in the picture unless it is not wanted there.
    let with = look(&host, &Screenshot::default()).await;
    assert!(with.count(BACKGROUND) < picture.count(BACKGROUND));
    let small = Screenshot { scale: Some(0.5), ..plain() };
    let small = look(&host, &small).await;
    assert_eq!((small.width, small.height, small.at(5, 5)), (320, 200, BACKGROUND));
    let part = Screenshot {
        region: Some(Region { x: 10, y: 20, width: 30, height: 40 }),
        size: Some(Size { width: 90, height: 120 }),
        ..plain()
    };
    let part = look(&host, &part).await;
    assert_eq!((part.width, part.height), (90, 120));
}

#[tokio::test]
async fn an_x_program_starts_it_by_itself() {
    let Some(host) = session().await else { return };
    let display = host.client.desktop().await.unwrap().display;
    let said = host.sh("echo $DISPLAY; xterm -e true; echo $?").await;
    assert_eq!(said.stdout, format!("{display}\n0\n"), "{}", said.stderr);
    until("it runs", || async { host.client.desktop().await.unwrap().running }).await;
}

#[tokio::test]
async fn one_that_dies_is_there_again_when_it_is_used() {
    let Some(host) = session().await else { return };
    look(&host, &plain()).await;
    let display = host.client.desktop().await.unwrap().display;
    let find = format!("pgrep -f '^Xvfb {display} '");
    let pid: i32 = host.sh(&find).await.stdout.trim().parse().unwrap();
    host.sh(&format!("kill -9 {pid}")).await;
    until_dead(pid).await;
    until("that is noticed", || async { !host.client.desktop().await.unwrap().running }).await;
    assert_eq!(look(&host, &plain()).await.at(300, 300), BACKGROUND);
    let again: i32 = host.sh(&find).await.stdout.trim().parse().unwrap();
    assert_ne!(again, pid);
    drop(host);
    until_dead(again).await;
    assert!(!std::path::Path::new(&format!("/tmp/.X11-unix/X{}", &display[1..])).exists());
}

#[tokio::test]
async fn what_is_typed_arrives_whatever_the_alphabet() {
    let Some(host) = session().await else { return };
    let file = host.home().join("typed");
    // A window that opens while the window manager starts may stay unseen.
    look(&host, &plain()).await;
    let script = format!("stty -echo; exec cat > {}", file.display());
    let wanted = ExecRequest::argv(["xterm", "-u8", "-geometry", "80x20+0+0", "-e", "sh", "-c", &script]);
    host.client.start_process(&wanted).await.unwrap();
    until("the terminal is there", || async { file.exists() }).await;
    until("its window is there", || async { look(&host, &plain()).await.count([255, 255, 255]) > 50_000 })
        .await;
    look(&host, &Screenshot { settle_ms: Some(300), ..plain() }).await;
    let text = "Hello, wörld! #{}[]|~^`\\ żółć Ω шапка 日本語 한국어 ½ € → 🎉 A\n";
    act(
        &host,
        [
            Action::Click { at: Some(Point { x: 100, y: 100 }), button: Button::Left, count: 1, keys: None },
            Action::Type { text: text.into() },
            Action::Key { keys: "ctrl+d".into(), count: 1 },
        ],
    )
    .await;
    until("it is read", || async { std::fs::read_to_string(&file).is_ok_and(|t| t.ends_with('\n')) }).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn a_picture_waits_for_the_screen_to_be_quiet_but_not_for_ever() {
    let Some(host) = session().await else { return };
    look(&host, &plain()).await;
    // A quiet one: as long as it was asked for, and nowhere near as long as it may be.
    let begun = Instant::now();
    let settled = Screenshot { settle_ms: Some(200), settle_limit_ms: Some(30_000), ..plain() };
    look(&host, &settled).await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(5), "{took:?}");
    // One that is drawn on for a while: what is drawn last is in the picture, which comes soon after.
    let (go, last) = (host.home().join("go"), [0x12, 0xab, 0x34]);
    let drawing = format!(
        "while [ ! -e {} ]; do sleep 0.02; done; \
         for i in 10 20 30 40 50 60 70 80 90 a0 b0 c0; do printf '\\033]11;#0000%s\\007' $i; sleep 0.1; done; \
         printf '\\033]11;#12ab34\\007'; exec sleep 600",
        go.display()
    );
    let wanted = ExecRequest::argv(["xterm", "-geometry", "80x20+0+0", "-e", "sh", "-c", &drawing]);
    host.client.start_process(&wanted).await.unwrap();
    until("its window is there", || async { look(&host, &plain()).await.count([255, 255, 255]) > 50_000 })
        .await;
    look(&host, &settled).await;
    std::fs::write(&go, "").unwrap();
    let begun = Instant::now();
    let settled = Screenshot { settle_ms: Some(700), ..settled };
    let picture = look(&host, &settled).await;
    let took = begun.elapsed();
    assert!(picture.count(last) > 50_000, "it was taken before the last was drawn, after {took:?}");
    assert!(took >= Duration::from_millis(1800) && took < Duration::from_secs(15), "{took:?}");
    // One that never stops.
    let busy = "while :; do seq 1 40; sleep 0.02; done";
    let wanted = ExecRequest::argv(["xterm", "-geometry", "80x20+0+0", "-e", "sh", "-c", busy]);
    host.client.start_process(&wanted).await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    let begun = Instant::now();
    let bounded = Screenshot { settle_ms: Some(300), settle_limit_ms: Some(1200), ..plain() };
    look(&host, &bounded).await;
    assert!(begun.elapsed() >= Duration::from_millis(1100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_program_hears_of_drags_and_of_the_wheel_and_its_direction() {
    let Some(host) = session().await else { return };
    look(&host, &plain()).await;
    let heard = host.home().join("heard");
    // Tells presses, releases and moves in between: `CSI < button ; column ; line`, and M, or m for a release (xterm's
    // control sequences, "Extended coordinates").
    let script = format!("stty raw -echo; printf '\\033[?1002h\\033[?1006h'; exec cat > {}", heard.display());
    let wanted = ExecRequest::argv(["xterm", "-geometry", "80x20+0+0", "-e", "sh", "-c", &script]);
    host.client.start_process(&wanted).await.unwrap();
    until("the terminal listens", || async { heard.exists() }).await;
    until("its window is there", || async { look(&host, &plain()).await.count([255, 255, 255]) > 50_000 })
        .await;
    look(&host, &Screenshot { settle_ms: Some(300), ..plain() }).await;
    let drag = Action::Drag {
        path: vec![Point { x: 60, y: 80 }, Point { x: 160, y: 120 }, Point { x: 300, y: 120 }],
        button: Button::Left,
        keys: None,
    };
    let wheel = |dy| Action::Scroll { at: Some(Point { x: 200, y: 150 }), dx: 0, dy, keys: None };
    act(&host, [drag, wheel(-3), wheel(2)]).await;
    let events = || {
        let text = std::fs::read_to_string(&heard).unwrap();
        let event = |one: &str| {
            let (numbers, up) = (one.trim_end_matches(['M', 'm']), one.ends_with('m'));
            let numbers: Vec<u32> = numbers.split(';').map(|n| n.parse().unwrap()).collect();
            (numbers[0], numbers[1], numbers[2], up)
        };
        text.split("\u{1b}[<").filter(|e| e.ends_with(['M', 'm'])).map(event).collect::<Vec<_>>()
    };
    // 64 is the wheel up, 65 down.
    let wheels = || events().iter().map(|e| e.0).filter(|button| *button >= 64).collect::<Vec<_>>();
    until("all of it is heard", || async { wheels().len() >= 5 }).await;
    assert_eq!(wheels(), [64, 64, 64, 65, 65]);
    let events = events();
    let (first, rest) = events.split_first().unwrap();
    assert_eq!((first.0, first.3), (0, false), "pressed first: {events:?}");
    let end = rest.iter().position(|e| e.0 == 0 && e.3).expect("released");
    let moves = &rest[..end];
    assert!(!moves.is_empty() && moves.iter().all(|e| e.0 == 32), "moved with the button down: {events:?}");
    let columns: Vec<u32> = std::iter::once(first).chain(&rest[..=end]).map(|e| e.1).collect();
    assert!(columns.is_sorted() && columns[columns.len() - 1] > columns[0] + 20, "to the right: {columns:?}");
    assert!(rest[end].2 > first.2, "and down: {events:?}");
}

#[tokio::test]
async fn the_pointer_goes_drags_and_scrolls() {
    let Some(host) = session().await else { return };
    let at = act(&host, [Action::Move { to: Point { x: 5, y: 7 } }]).await;
    assert_eq!(at, Point { x: 5, y: 7 });
    let path = vec![Point { x: 10, y: 10 }, Point { x: 200, y: 100 }, Point { x: 639, y: 399 }];
    let at = act(&host, [Action::Drag { path, button: Button::Left, keys: None }]).await;
    assert_eq!(at, Point { x: 639, y: 399 });
    let begun = Instant::now();
    act(
        &host,
        [
            Action::Scroll { at: Some(Point { x: 20, y: 20 }), dx: 1, dy: -3, keys: Some("shift".into()) },
            Action::HoldKey { keys: "a".into(), ms: 120 },
            Action::Wait { ms: 100 },
        ],
    )
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(220));
    let outside = InputRequest { actions: vec![Action::Move { to: Point { x: 640, y: 0 } }] };
    let fault = refused(host.client.input(&outside).await);
    assert_eq!((fault.code, fault.field.as_deref()), (Code::InvalidField, Some("actions[0].to")));
}

#[tokio::test]
async fn a_caller_who_goes_away_ends_his_batch_and_nothing_stays_pressed() {
    let Some(host) = session().await else { return };
    look(&host, &plain()).await;
    let long = InputRequest { actions: vec![Action::HoldKey { keys: "shift".into(), ms: 60_000 }] };
    let held = tokio::time::timeout(Duration::from_millis(300), host.client.input(&long)).await;
    assert!(held.is_err(), "it holds for a minute");
    let begun = Instant::now();
    act(&host, [Action::Move { to: Point { x: 1, y: 1 } }]).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "the next batch does not wait for it");
}

/// As a viewer begins: RFC 6143, 7.1 and 7.3. Answers the screen's size.
async fn shake_hands(viewer: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> (u16, u16) {
    let mut version = [0; 12];
    viewer.read_exact(&mut version).await.unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    viewer.write_all(&version).await.unwrap();
    let many = viewer.read_u8().await.unwrap();
    let mut kinds = vec![0; many.into()];
    viewer.read_exact(&mut kinds).await.unwrap();
    assert!(kinds.contains(&1), "no password: {kinds:?}");
    viewer.write_all(&[1]).await.unwrap();
    assert_eq!(viewer.read_u32().await.unwrap(), 0, "accepted");
    viewer.write_all(&[1]).await.unwrap();
    let size = (viewer.read_u16().await.unwrap(), viewer.read_u16().await.unwrap());
    let mut format = [0; 16];
    viewer.read_exact(&mut format).await.unwrap();
    let name = viewer.read_u32().await.unwrap();
    let mut name = vec![0; name as usize];
    viewer.read_exact(&mut name).await.unwrap();
    size
}

/// A PointerEvent (7.5.5) without buttons.
async fn point(viewer: &mut (impl AsyncWrite + Unpin), x: u16, y: u16) {
    let mut message = vec![5, 0];
    message.extend(x.to_be_bytes());
    message.extend(y.to_be_bytes());
    viewer.write_all(&message).await.unwrap();
    viewer.flush().await.unwrap();
}

#[tokio::test]
async fn several_look_at_once_and_one_who_may_only_look_changes_nothing() {
    let Some(host) = session().await else { return };
    let mut one = host.client.view_desktop(ViewMode::Control).await.unwrap();
    let mut two = host.client.view_desktop(ViewMode::View).await.unwrap();
    assert_eq!(shake_hands(&mut one).await, (640, 400));
    assert_eq!(shake_hands(&mut two).await, (640, 400));
    assert_eq!(host.client.desktop().await.unwrap().viewers, 2);
    // Both get the screen: one raw update of a corner (7.5.3, 7.6.1).
    for viewer in [&mut one as &mut dyn Peer, &mut two] {
        viewer.write_all(&[2, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
        viewer.write_all(&[3, 0, 0, 0, 0, 0, 0, 16, 0, 16]).await.unwrap();
        viewer.flush().await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(10), viewer.read_u8()).await.unwrap().unwrap();
        assert_eq!(answer, 0, "an update of the screen");
    }
    point(&mut one, 123, 45).await;
    until("the pointer follows", || async {
        host.client.desktop().await.unwrap().pointer == Some(Point { x: 123, y: 45 })
    })
    .await;
    point(&mut two, 300, 300).await;
    point(&mut two, 301, 301).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pointer = host.client.desktop().await.unwrap().pointer;
    assert_eq!(pointer, Some(Point { x: 123, y: 45 }), "the onlooker moved nothing");
    drop(one);
    drop(two);
    until("they are gone", || async { host.client.desktop().await.unwrap().viewers == 0 }).await;
}

trait Peer: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Peer for T {}

#[tokio::test]
async fn the_sessions_own_processes_have_the_screen_and_nothing_else_of_the_host() {
    let Some(host) = session().await else { return };
    let socket = host.root().join("run/wharf/desktop.sock");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (status, body) = raw(&socket, &get("/desktop")).await;
    assert_eq!((status, body["width"].as_u64()), (200, Some(640)));
    for other in ["/health", "/processes", "/files/stat?path=/etc/passwd", "/desktop/../exec", "//exec"] {
        assert_eq!(raw(&socket, &get(other)).await.0, 404, "{other}");
    }
}

#[tokio::test]
async fn without_an_x_server_the_answer_says_what_to_do() {
    // A session outside of a jail that asks for no screen has none.
    let host = Host::start().await;
    host.claim(Env::default()).await;
    let fault = refused(host.client.screenshot(&Screenshot::default()).await);
    assert_eq!(fault.code, Code::Unsupported);
    assert!(fault.detail.contains("use the image desktop"), "{}", fault.detail);
    assert_eq!(code(host.client.desktop().await), Code::Unsupported);
    assert_eq!(host.sh("echo \"[$DISPLAY]\"").await.stdout, "[]\n");
}

#[tokio::test]
async fn a_screen_that_cannot_be_is_refused_when_it_is_used() {
    if !possible() {
        return;
    }
    let host = Host::start().await;
    host.claim(Env::from([("WHARF_DESKTOP", "9x9")])).await;
    let fault = refused(host.client.screenshot(&Screenshot::default()).await);
    assert_eq!((fault.code, fault.field.as_deref()), (Code::InvalidField, Some("env.WHARF_DESKTOP")));
    assert!(host.sh("true").await.exit.success(), "the session is none the worse for it");
}
