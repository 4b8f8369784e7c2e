//! What a provider streams: events in any pieces, read as answers of each protocol.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_agent::{model, sse};
use wharf_wire::api::ModelProtocol;

fuzz_target!(|data: &[u8]| {
    let cut = data.first().map_or(0, |b| usize::from(*b)).min(data.len());
    let (mut parser, mut events) = (sse::Parser::default(), Vec::new());
    let (mut whole, mut all) = (sse::Parser::default(), Vec::new());
    let torn = parser.push(&data[..cut], &mut events).and_then(|()| parser.push(&data[cut..], &mut events));
    assert_eq!(torn.is_ok(), whole.push(data, &mut all).is_ok());
    assert_eq!(events, all, "the pieces in which bytes arrive do not matter");
    for protocol in [ModelProtocol::Anthropic, ModelProtocol::OpenaiChat, ModelProtocol::OpenaiResponses] {
        let mut reader = model::reader(protocol);
        let mut said = Vec::new();
        if events.iter().all(|e| reader.event(e, &mut said).is_ok()) {
            let _ = reader.finish();
        }
    }
    let _ = wharf_agent::journal::parse(data);
});
