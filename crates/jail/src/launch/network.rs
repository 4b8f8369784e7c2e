//! A jail's network: a loopback where every address of the world is at home, and a packet filter that leads each TCP
//! connection to `wharf-host`, which carries it to the gateway. Nothing else leaves a program: the rest is dropped.
//!
//! The messages are built once per jailer; a launch sends them from inside, while the child still has the right to.
//! Later nobody has it: root inside lacks CAP_NET_ADMIN, and the filter's socket family is closed to it.
//!
//! - Every address is local by a default route of that kind. Programs find an address of their own, [`OWN`].
//! - To 127.0.0.0/8, ::1 and [`OWN`]: as it is, and not tracked, since tracking takes memory of the machine.
//! - TCP to anywhere else: to port [`TRANSPARENT`] on loopback.
//! - Anything else to anywhere else is dropped, so that a sender hears of it at once (EPERM).

use std::net::Ipv4Addr;

use rustix::net::{Protocol, netlink};

use crate::netlink::{APPEND, Batch, Body, CREATE, EXCL};
use crate::step::Step;

/// Where `wharf-host` takes redirected connections.
const TRANSPARENT: u16 = 15001;
/// What programs that ask find as their own address. The resolver of the session hands out its neighbours.
const OWN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const LOOPBACK: i32 = 1;

// rtnetlink(7)
/// NETLINK_ROUTE has the number 0.
const ROUTE: Option<Protocol> = None;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const LOCAL_TABLE: u8 = 255;
const BY_BOOT: u8 = 3;
const SCOPE_HOST: u8 = 254;
const LOCAL: u8 = 2;
/// RTA_PREFSRC
const SOURCE: u16 = 7;

// nfnetlink and nf_tables
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const TABLES: u16 = 10;
const NEW_TABLE: u16 = TABLES << 8;
const NEW_CHAIN: u16 = TABLES << 8 | 3;
const NEW_RULE: u16 = TABLES << 8 | 6;
const TABLE: &str = "wharf";
const LOCAL_OUT: u32 = 3;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
const RETURN: u32 = -5_i32 as u32;
const TCP: u8 = 6;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// One version of the internet protocol, as the filter sees it.
struct Family {
    number: u8,
    source: u32,
    destination: u32,
    /// Destinations that are really here: the first bytes of an address.
    here: &'static [&'static [u8]],
}

const V4: Family = Family { number: 2, source: 12, destination: 16, here: &[&[127], &OWN.octets()] };
const V6: Family = Family {
    number: 10,
    source: 8,
    destination: 24,
    here: &[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]],
};

/// The messages, ready to be sent.
pub(super) struct Network {
    links: Batch,
    links6: Option<Batch>,
    filter: Batch,
}

impl Network {
    pub(super) fn new() -> Self {
        let six = has_v6();
        let mut filter = Batch::default();
        filter.told(BATCH_BEGIN, 0, |b| generic(b, 0, TABLES));
        let (families, last): (&[Family], _) = if six { (&[V4, V6], V6.number) } else { (&[V4], V4.number) };
        for family in families {
            tables(&mut filter, family, family.number == last);
        }
        filter.told(BATCH_END, 0, |b| generic(b, 0, TABLES));
        Self { links: links(), links6: six.then(route6), filter }
    }

    /// Lays the network of this process's namespace out.
    pub(super) fn lay(&self) -> Result<(), Step> {
        self.links.send(ROUTE).map_err(|(at, error)| {
            let step = ["bring loopback up", "give loopback an address", "route everything to loopback"];
            Step::failed(*step.get(at as usize).unwrap_or(&"set up loopback"), error)
        })?;
        if let Some(links6) = &self.links6 {
            // Where the administrator has switched version 6 off there is nothing to route, and no way out either.
            let _ = links6.send(ROUTE);
        }
        self.filter.send(Some(netlink::NETFILTER)).map_err(|(_, error)| match error.raw_os_error() {
            Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => Step::refused(
                "lead connections to the gateway",
                "the kernel lacks nf_tables with nat, redirect and notrack (modules nft_chain_nat, nft_redir, nft_ct)",
            ),
            _ => Step::failed("lead connections to the gateway", error),
        })
    }
}

/// Lays out the network of a computer another program started, which must have one of its own: whoever is in it loses
/// nothing and can change nothing. In a thread of its own, since a thread's namespace is for the rest of its life.
pub fn lay_for(pid: i32) -> Result<(), Step> {
    use crate::step::At;
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    use std::os::fd::AsFd as _;

    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).at("open the computer's network")?;
    let own = std::fs::File::open("/proc/self/ns/net").at("open the machine's network")?;
    let id = |file: &std::fs::File| rustix::fs::fstat(file).map(|s| (s.st_dev, s.st_ino));
    if id(&namespace).at("look at the network")? == id(&own).at("look at the network")? {
        return Err(Step::refused("lay out the network", "the computer has the machine's own"));
    }
    let work = move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .at("enter the computer's network")?;
        Network::new().lay()
    };
    let done =
        std::thread::Builder::new().name("network".to_owned()).spawn(work).at("start a thread")?.join();
    done.unwrap_or_else(|_| Err(Step::failed("lay out the network", "a bug: the thread panicked")))
}

fn has_v6() -> bool {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::INET6, SocketType::DGRAM, None).is_ok()
}

fn links() -> Batch {
    let mut batch = Batch::default();
    let up = libc::IFF_UP as u32;
    // struct ifinfomsg
    batch.asked(NEW_LINK, 0, |b| {
        b.raw(&[0; 4]).raw(&LOOPBACK.to_ne_bytes()).raw(&up.to_ne_bytes()).raw(&up.to_ne_bytes());
    });
    // struct ifaddrmsg; IFA_ADDRESS, IFA_LOCAL
    batch.asked(NEW_ADDRESS, CREATE | EXCL, |b| {
        b.raw(&[libc::AF_INET as u8, 32, 0, 0]).raw(&LOOPBACK.to_ne_bytes());
        b.attribute(1, &OWN.octets()).attribute(2, &OWN.octets());
    });
    batch.asked(NEW_ROUTE, CREATE | EXCL, |b| {
        route(b, libc::AF_INET, SCOPE_HOST);
        b.attribute(SOURCE, &OWN.octets());
    });
    batch
}

fn route6() -> Batch {
    let mut batch = Batch::default();
    batch.asked(NEW_ROUTE, CREATE | EXCL, |b| {
        route(b, libc::AF_INET6, 0);
        // Else each connection would come from where it goes to, and the filter drop what is said back.
        b.attribute(SOURCE, V6.here[0]);
    });
    batch
}

/// `ip route add local default dev lo`: struct rtmsg, RTA_OIF.
fn route(b: &mut Body<'_>, family: i32, scope: u8) {
    b.raw(&[family as u8, 0, 0, 0, LOCAL_TABLE, BY_BOOT, scope, LOCAL]).raw(&0u32.to_ne_bytes());
    b.attribute(4, &LOOPBACK.to_ne_bytes());
}

/// struct nfgenmsg
fn generic(b: &mut Body<'_>, family: u8, resource: u16) {
    b.raw(&[family, 0]).raw(&resource.to_be_bytes());
}

/// The table of a family. The last rule of all is the one whose acknowledgement says that everything is in place.
fn tables(batch: &mut Batch, family: &Family, last: bool) {
    batch.told(NEW_TABLE, CREATE, |b| {
        generic(b, family.number, 0);
        b.text(1, TABLE);
    });
    chain(batch, family, "untracked", "filter", -300, ACCEPT);
    chain(batch, family, "gateway", "nat", -100, ACCEPT);
    chain(batch, family, "nothing_else", "filter", 0, DROP);
    let loopback = family.here[0];
    rule(batch, family, "untracked", false, |e| {
        address_is(e, family.source, loopback);
        address_is(e, family.destination, loopback);
        // What the host says back on a connection that was led to it has to find its way.
        loaded(e, TRANSPORT, 0, 2);
        compare(e, UNEQUAL, &TRANSPARENT.to_be_bytes());
        expression(e, "notrack", |_| {});
    });
    for here in family.here {
        rule(batch, family, "gateway", false, |e| {
            address_is(e, family.destination, here);
            verdict(e, RETURN);
        });
    }
    rule(batch, family, "gateway", false, |e| {
        // meta l4proto tcp
        expression(e, "meta", |b| {
            b.number(1, 1).number(2, 16);
        });
        compare(e, EQUAL, &[TCP]);
        // redirect to :15001
        expression(e, "immediate", |b| {
            b.number(1, 1).nested(2, |b| {
                b.attribute(1, &TRANSPARENT.to_be_bytes());
            });
        });
        expression(e, "redir", |b| {
            b.number(1, 1);
        });
    });
    for (at, here) in family.here.iter().enumerate() {
        rule(batch, family, "nothing_else", last && at + 1 == family.here.len(), |e| {
            address_is(e, family.destination, here);
            verdict(e, ACCEPT);
        });
    }
}

/// A chain on the way out of the programs of this namespace.
fn chain(batch: &mut Batch, family: &Family, name: &str, kind: &str, priority: i32, policy: u32) {
    batch.told(NEW_CHAIN, CREATE, |b| {
        generic(b, family.number, 0);
        b.text(1, TABLE).text(3, name);
        b.nested(4, |b| {
            b.number(1, LOCAL_OUT).number(2, priority as u32);
        });
        b.number(5, policy).text(7, kind);
    });
}

fn rule(
    batch: &mut Batch,
    family: &Family,
    chain: &str,
    answered: bool,
    expressions: impl FnOnce(&mut Body<'_>),
) {
    let body = |b: &mut Body<'_>| {
        generic(b, family.number, 0);
        b.text(1, TABLE).text(2, chain).nested(4, expressions);
    };
    if answered {
        batch.asked(NEW_RULE, CREATE | APPEND, body);
    } else {
        batch.told(NEW_RULE, CREATE | APPEND, body);
    }
}

fn expression(list: &mut Body<'_>, name: &str, data: impl FnOnce(&mut Body<'_>)) {
    list.nested(1, |b| {
        b.text(1, name).nested(2, data);
    });
}

/// The first bytes of an address.
fn address_is(list: &mut Body<'_>, offset: u32, bytes: &[u8]) {
    loaded(list, NETWORK, offset, bytes.len());
    compare(list, EQUAL, bytes);
}

/// A part of one of the packet's headers, into the first register.
fn loaded(list: &mut Body<'_>, header: u32, offset: u32, length: usize) {
    expression(list, "payload", |b| {
        b.number(1, 1).number(2, header).number(3, offset).number(4, length as u32);
    });
}

/// Goes on with the rule where the first register compares so.
fn compare(list: &mut Body<'_>, how: u32, bytes: &[u8]) {
    expression(list, "cmp", |b| {
        b.number(1, 1).number(2, how).nested(3, |b| {
            b.attribute(1, bytes);
        });
    });
}

fn verdict(list: &mut Body<'_>, code: u32) {
    expression(list, "immediate", |b| {
        b.number(1, 0).nested(2, |b| {
            b.nested(2, |b| {
                b.number(1, code);
            });
        });
    });
}

/// Any program of the session may take a low port, as in other containers: a session without root runs its own
/// resolver, and a web server on port 80 harms nobody. With /proc mounted and not yet protected.
pub(super) fn open_low_ports() -> Result<(), Step> {
    use crate::step::At;
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").at("open the low ports")
}
