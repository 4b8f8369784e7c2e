//! One caller's connection: bytes to requests, replies to bytes, never blocking and never beyond its bounds.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use wharf_wire::jailer::{Fault, HEADER, MAX_REPLY, MAX_REQUEST, Malformed, Reply, Request, decode, encode};

pub(super) struct Conn {
    pub socket: OwnedFd,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Descriptors that came and were not asked for yet; at most one is kept.
    file: Option<OwnedFd>,
    /// A request is being worked on; the next one waits.
    pub busy: bool,
    /// Goes when the output is out.
    closing: bool,
}

pub(super) enum Read {
    Nothing,
    Request(Box<Request>),
    Closed,
}

impl Conn {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), output: VecDeque::new(), file: None, busy: false, closing: false }
    }

    pub fn take_file(&mut self) -> Option<OwnedFd> {
        self.file.take()
    }

    pub fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes what the socket has, up to one request.
    pub fn fill(&mut self) -> Read {
        while self.input.len() <= HEADER + MAX_REQUEST {
            let mut chunk = [0u8; 8192];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)
            {
                Ok(got) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(fds) = message {
                            self.file = fds.last();
                        }
                    }
                    if got.bytes == 0 {
                        return Read::Closed;
                    }
                    self.input.extend(&chunk[..got.bytes]);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Read::Closed,
            }
        }
        self.next()
    }

    /// The next request that is already here. Answers a malformed one itself and closes.
    pub fn next(&mut self) -> Read {
        if self.busy || self.closing {
            return Read::Nothing;
        }
        match decode(&self.input, MAX_REQUEST) {
            Ok(Some((request, used))) => {
                self.input.drain(..used);
                self.busy = true;
                Read::Request(Box::new(request))
            }
            Ok(None) => Read::Nothing,
            Err(malformed) => {
                self.reply(&Reply::Fault(Fault::Malformed(malformed.to_string())));
                self.closing = true;
                self.input = Vec::new();
                Read::Nothing
            }
        }
    }

    pub fn reply(&mut self, reply: &Reply) {
        let frame = encode(reply, MAX_REPLY).unwrap_or_else(|error| {
            let cause = match error {
                Malformed::TooLong { length, .. } => format!("the reply has {length} bytes"),
                Malformed::Json(why) => why,
            };
            let fault = Reply::Fault(Fault::Failed { step: "answer".to_owned(), cause });
            encode(&fault, MAX_REPLY).unwrap_or_default()
        });
        self.output.extend(frame);
        self.busy = false;
    }

    /// Writes what goes; false when the connection is over.
    pub fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match rustix::net::send(&self.socket, front, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        !self.closing
    }
}
