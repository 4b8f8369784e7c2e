//! Scripts of models, as guardrails read them: whatever comes, reading ends, and says the same twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_guard::shell::{Place, read};

fuzz_target!(|data: &[u8]| {
    let Ok(script) = std::str::from_utf8(data) else { return };
    let once = read(script, Place::default());
    assert_eq!(once, read(script, Place::default()));
});
