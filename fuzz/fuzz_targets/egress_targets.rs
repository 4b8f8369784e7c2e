//! What a session names as its target, a user as a pattern and an administrator as an exception: whatever is taken reads
//! the same again, a path that is normal stays so, and no name is an address to somebody else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_domain::egress::address::Exception;
use wharf_domain::egress::rule::normal;
use wharf_domain::egress::{Host, Pattern, Target};

fuzz_target!(|text: &str| {
    if let Ok(target) = Target::parse(text, Some(80)) {
        assert_eq!(Target::parse(&target.to_string(), None).expect("reads again"), target);
        if let Host::Name(name) = &target.host {
            // What the system's resolver would take for an address without asking anybody.
            assert!(name.parse::<std::net::IpAddr>().is_err());
            let last = name.rsplit('.').next().unwrap_or_default();
            assert!(!last.bytes().all(|b| b.is_ascii_digit()) && !last.is_empty());
        }
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        assert_eq!(pattern.to_string().parse::<Pattern>().expect("reads again"), pattern);
    }
    if let Some((narrow, wide)) = text.split_once(' ')
        && let (Ok(narrow), Ok(wide)) = (narrow.parse::<Pattern>(), wide.parse::<Pattern>())
        && narrow.within(&wide)
    {
        // One of those the narrow one means is one the wide one means.
        let shown = narrow.to_string();
        let one = shown.strip_prefix("*.").map_or_else(|| shown.clone(), |below| format!("x.{below}"));
        if let Ok(target) = Target::parse(&one, Some(443)) {
            assert!(!narrow.matches(&target) || wide.matches(&target));
        }
    }
    if let Ok(exception) = text.parse::<Exception>() {
        assert_eq!(exception.to_string().parse::<Exception>().expect("reads again"), exception);
    }
    if let Some(path) = normal(text) {
        assert_eq!(normal(&path).as_deref(), Some(path.as_str()));
        assert!(!path.split('/').any(|part| part == ".." || part == "."));
    }
});
