//! What a runtime says when it does not do something, in the API's codes.

use wharf_domain::{Code, Error};
use wharf_ports::runtime::Fault;

pub(super) fn from_fault(fault: Fault) -> Error {
    match fault {
        Fault::Refused(why) => Error::new(Code::Unsupported, why),
        Fault::Missing(what) => Error::new(Code::NotFound, format!("the runtime has no {what}")),
        Fault::InUse(what) => Error::new(Code::InUse, format!("still in use: {what}")),
        Fault::Away(_) => Error::unavailable("the runtime", fault),
        Fault::Fenced(_) | Fault::Failed { .. } => Error::internal(fault),
    }
}
