#![allow(clippy::unwrap_used)]

use super::*;

/// What the kernel would do: the few instructions the filter is made of.
fn verdict(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 2]) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let now = program[at];
        at += 1;
        let test = match now.code {
            LOAD => {
                accumulator = match now.k {
                    NUMBER => number,
                    ARCHITECTURE => architecture,
                    ARGUMENT => arguments[0] as u32,
                    ARGUMENT_HIGH => (arguments[0] >> 32) as u32,
                    THIRD_ARGUMENT => arguments[1] as u32,
                    other => panic!("loads {other}"),
                };
                continue;
            }
            RETURN => return now.k,
            EQUAL => accumulator == now.k,
            GREATER => accumulator > now.k,
            AT_LEAST => accumulator >= now.k,
            ANY_BIT => accumulator & now.k != 0,
            other => panic!("no such instruction: {other}"),
        };
        at += usize::from(if test { now.jt } else { now.jf });
    }
}

fn answer(number: libc::c_long, argument: u64) -> u32 {
    verdict(Filter::compile().unwrap().program(), NATIVE, number as u32, [argument, 0])
}

#[test]
fn every_call_there_is_gets_the_answer_the_list_gives_it() {
    let filter = Filter::compile().unwrap();
    let allowed: Vec<_> = plain().into_iter().map(|(_, number)| number).collect();
    let by_argument: Vec<_> = conditional().into_iter().map(|((_, number), _)| number).collect();
    for number in 0..=NEWEST_KNOWN {
        let asked = libc::c_long::from(number);
        if by_argument.contains(&asked) || asked == libc::SYS_clone3 {
            continue;
        }
        let expected = if allowed.contains(&asked) { ALLOW } else { REFUSE };
        assert_eq!(verdict(filter.program(), NATIVE, number, [0; 2]), expected, "call {number}");
    }
    assert!(filter.program().len() < 400, "{} instructions", filter.program().len());
}

#[test]
fn newer_calls_other_calling_conventions_and_clone3_are_unknown() {
    for number in [NEWEST_KNOWN + 1, 1000, 1 << 30, (1 << 30) | 1, u32::MAX] {
        assert_eq!(answer(libc::c_long::from(number), 0), UNKNOWN, "{number}");
    }
    assert_eq!(answer(libc::SYS_clone3, 0), UNKNOWN);
    let i386 = 0x4000_0003;
    assert_eq!(verdict(Filter::compile().unwrap().program(), i386, 1, [0; 2]), KILL);
}

#[test]
fn arguments_decide_where_a_call_can_be_used_two_ways() {
    for (call, argument, expected) in [
        (libc::SYS_clone, libc::CLONE_VM as u64, ALLOW),
        (
            libc::SYS_clone,
            u64::from((libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET) as u32),
            ALLOW,
        ),
        (libc::SYS_clone, libc::CLONE_NEWNS as u64, REFUSE),
        (libc::SYS_clone, (libc::CLONE_NEWUSER | libc::CLONE_NEWIPC) as u64, REFUSE),
        (libc::SYS_unshare, libc::CLONE_NEWUSER as u64, ALLOW),
        (libc::SYS_unshare, (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64, REFUSE),
        (libc::SYS_unshare, libc::CLONE_NEWUSER as u64 | 1 << 32, REFUSE),
        (libc::SYS_unshare, 0, REFUSE),
        (libc::SYS_socket, libc::AF_INET6 as u64, ALLOW),
        (libc::SYS_socket, libc::AF_VSOCK as u64, REFUSE),
        (libc::SYS_socket, libc::AF_VSOCK as u64 | 1 << 32, REFUSE),
        (libc::SYS_socketpair, libc::AF_UNIX as u64, ALLOW),
        (libc::SYS_socketpair, libc::AF_VSOCK as u64, REFUSE),
        (libc::SYS_personality, 0xffff_ffff, ALLOW),
        (libc::SYS_personality, 0x0004_0000, REFUSE),
    ] {
        assert_eq!(answer(call, argument), expected, "call {call} with {argument:#x}");
    }
}

#[test]
fn netlink_is_for_looking_around_not_for_the_packet_filter() {
    let filter = Filter::compile().unwrap();
    let socket = |family: i32, protocol: i32| {
        verdict(filter.program(), NATIVE, libc::SYS_socket as u32, [family as u64, protocol as u64])
    };
    for protocol in 0..32 {
        let expected = if NETLINK.contains(&protocol) { ALLOW } else { REFUSE };
        assert_eq!(socket(libc::AF_NETLINK, protocol), expected, "netlink {protocol}");
        assert_eq!(socket(libc::AF_INET, protocol), ALLOW);
        assert_eq!(socket(libc::AF_PACKET, protocol), REFUSE);
    }
    for family in 0..64 {
        let expected = if FAMILIES.contains(&family) || family == libc::AF_NETLINK { ALLOW } else { REFUSE };
        assert_eq!(socket(family, 0), expected, "family {family}");
    }
}
