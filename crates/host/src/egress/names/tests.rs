use super::*;

#[test]
fn a_name_keeps_its_address_and_an_address_its_name() {
    let mut names = Names::default();
    let first = names.address("pypi.org");
    assert_eq!(first, Ipv4Addr::new(198, 18, 0, 2));
    assert_ne!(names.address("example.org"), first);
    assert_eq!(names.address("pypi.org"), first);
    assert_eq!(names.name(first).as_deref(), Some("pypi.org"));
    assert_eq!(names.name(Ipv4Addr::new(198, 18, 0, 1)), None);
    assert_eq!(names.name(Ipv4Addr::new(10, 0, 0, 1)), None);
}

#[test]
fn the_longest_unused_name_goes_first_and_its_address_comes_back_last() {
    let mut names = Names::default();
    let kept = names.address("kept");
    let gone = names.address("gone");
    let mut seen = std::collections::HashSet::from([kept, gone]);
    for n in 0..SIZE as usize - 5 {
        assert_eq!(names.address("kept"), kept);
        assert!(seen.insert(names.address(&format!("host-{n}"))), "an address twice, at {n}");
        assert!(names.by_name.len() <= KEPT && names.by_use.len() == names.by_name.len());
    }
    assert_eq!(names.name(gone), None);
    assert!(seen.iter().all(|a| Names::is_of_range(*a)));
    assert!(!seen.contains(&Ipv4Addr::new(198, 19, 255, 255)));
    // All the others were used once.
    assert_eq!(names.address("next"), gone);
}
