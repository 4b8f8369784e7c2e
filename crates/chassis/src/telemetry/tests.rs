#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lines(log: &Log) -> String {
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = subscriber(log, false, move || writer.clone());
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request", request_id = "r-17");
        let _in = span.enter();
        tracing::info!(status = 200, "answered");
        tracing::debug!("unheard");
    });
    let bytes = kept.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_json_line_carries_its_fields_and_the_request_id() {
    let text = lines(&Log { format: LogFormat::Json, level: "info".into() });
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["message"], "answered");
    assert_eq!(line["status"], 200);
    assert_eq!(line["span"]["request_id"], "r-17");
}

#[test]
fn a_human_line_carries_the_request_id_and_levels_are_kept() {
    let text = lines(&Log { format: LogFormat::Human, level: "info".into() });
    assert!(text.contains("answered") && text.contains("r-17") && !text.contains("unheard"), "{text}");
    assert!(lines(&Log { format: LogFormat::Human, level: "debug".into() }).contains("unheard"));
}
