//! Permits for what is inside a session: its files and its processes. Names in rules are names of sessions.

use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, NameOrId, SessionId};

use super::Sessions;
use super::row::SessionRow;
use crate::permit::Permit;
use crate::scope::Row;

macro_rules! part {
    ($part:ident, $permit:ident, $resource:ident, $what:literal) => {
        struct $part(SessionRow);

        impl Row for $part {
            const KIND: &'static str = "session";
            const RESOURCE: Resource = Resource::$resource;
            fn uuid(&self) -> uuid::Uuid {
                self.0.id.uuid()
            }
            fn name(&self) -> Option<&str> {
                Some(self.0.name.as_str())
            }
        }

        impl Sessions<'_> {
            #[doc = concat!("Allows a verb on the ", $what, " of a session.")]
            pub async fn $permit(
                &mut self,
                session: &NameOrId<SessionId>,
                verb: Verb,
            ) -> Result<Permit<SessionRow>, Error> {
                // Nothing of the row changes: it need not be held.
                let row = self.find(session, Verb::Get).await?.map($part);
                let permit = self.0.judge(&session.to_string(), row, verb).await?;
                Ok(Permit::grant(permit.into_row().0, verb))
            }
        }
    };
}

part!(Files, permit_files, Files, "files");
part!(Egress, permit_egress, Egress, "egress log");
part!(Approvals, permit_approvals, Approvals, "approvals");
part!(Processes, permit_processes, Processes, "processes");
