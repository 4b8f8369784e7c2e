//! What git's ssh program in a session and the gateway say to each other: one request that changes its protocol, then pieces.
//!
//! The request names a service of git and a path, and no command. A piece is its kind (one byte), its length (four, big endian)
//! and its bytes; the last of each way says that it is the last, so that what ends without it was torn.

#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use wharf_domain::egress::Target;
use wharf_domain::ssh::{PORT, Service, check_path, check_protocol, check_user};
use wharf_domain::{Code, Error};

/// Where the gateway answers, what is asked for with `Upgrade`, and the header that holds an [`Ask`].
pub const PATH: &str = "/wharf/ssh";
pub const PROTOCOL: &str = "wharf-ssh";
pub const HEADER: &str = "wharf-ssh";
/// Bytes of a piece at the most, and of what stands before them.
pub const PIECE: usize = 64 * 1024;
pub const HEAD: usize = 5;

/// What git wants from an ssh server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub service: Service,
    /// As git names it: an address of version 6 without brackets.
    pub host: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub path: String,
    /// `GIT_PROTOCOL`: the version git would like to speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

impl Ask {
    /// As the header has it.
    pub fn to_header(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Refuses what is no request of git's: whoever is in the session wrote it.
    pub fn from_header(text: &str) -> Result<(Self, Target), Error> {
        let refuse = |what: &str| Error::new(Code::BadRequest, format!("the header {HEADER} {what}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse("is not base64"))?;
        let ask: Self = serde_json::from_slice(&bytes).map_err(|e| refuse(&format!("is no request: {e}")))?;
        check_path(&ask.path)?;
        ask.user.as_deref().map_or(Ok(()), check_user)?;
        ask.protocol.as_deref().map_or(Ok(()), check_protocol)?;
        let port = ask.port.unwrap_or(PORT);
        if port == 0 {
            return Err(refuse("names port 0"));
        }
        let target = Target::new(ask.host.parse()?, port);
        Ok((ask, target))
    }
}

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard input on its way out, standard output on its way in.
    Data,
    /// Standard error. Only in.
    Errors,
    /// No more data comes this way.
    End,
    /// How git there ended, as four bytes. Only in, and the last.
    Exit,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Data, Self::Errors, Self::End, Self::Exit];

    /// What stands before a piece.
    pub fn head(self, length: usize) -> [u8; HEAD] {
        debug_assert!(length <= PIECE);
        let mut head = [self as u8; HEAD];
        head[1..].copy_from_slice(&(length as u32).to_be_bytes());
        head
    }

    /// Kind and length of the piece that follows; `None` where nothing is like that.
    pub fn of(head: [u8; HEAD]) -> Option<(Self, usize)> {
        let [kind, length @ ..] = head;
        let kind = *Self::ALL.get(usize::from(kind))?;
        let length = u32::from_be_bytes(length) as usize;
        let fits = match kind {
            Self::Data | Self::Errors => length <= PIECE,
            Self::End => length == 0,
            Self::Exit => length == 4,
        };
        fits.then_some((kind, length))
    }
}
