#![allow(clippy::unwrap_used)]

use wharf_domain::Code;
use wharf_wire::api::{Agent, AgentKind, Effort, ModelProtocol};

use super::check;

fn agent(change: impl FnOnce(&mut Agent)) -> Agent {
    let mut agent =
        Agent { kind: AgentKind::ComputerUse, model: Some("some-model".into()), ..Agent::default() };
    change(&mut agent);
    agent
}

#[test]
fn tokens_to_think_with_are_refused_where_the_protocol_has_no_place_for_them() {
    let openai = |a: &mut Agent| a.provider = Some("openai".into());
    let chat = |a: &mut Agent| a.protocol = Some(ModelProtocol::OpenaiChat);
    for (protocol, of) in
        [("openai-responses", &openai as &dyn Fn(&mut Agent)), ("openai-chat", &chat as &dyn Fn(&mut Agent))]
    {
        let refused = check(&agent(|a| {
            of(a);
            a.thinking_tokens = Some(2048);
        }))
        .unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::InvalidField, Some("thinking_tokens")));
        assert!(
            refused.public.contains(protocol) && refused.public.contains("`effort`"),
            "{}",
            refused.public
        );
        let effort = agent(|a| {
            of(a);
            a.effort = Some(Effort::High);
        });
        assert!(check(&effort).is_ok(), "{protocol}");
    }
    assert!(check(&agent(|a| a.thinking_tokens = Some(2048))).is_ok(), "Messages has it");
}
