use std::net::Ipv4Addr;

#[test]
fn the_machine_knows_its_own_addresses() {
    let all = super::interfaces().unwrap_or_default();
    assert!(all.contains(&Ipv4Addr::LOCALHOST.into()), "{all:?}");
}
