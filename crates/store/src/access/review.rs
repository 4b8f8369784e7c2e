//! "May I?", and which binding says so.

use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{Error, NameOrId, SpaceId};

use crate::scope::Scope;

pub struct Review {
    pub verb: Verb,
    pub resource: Resource,
    pub name: Option<String>,
    pub space: Option<NameOrId<SpaceId>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewAnswer {
    pub allowed: bool,
    /// The binding and its role that allow it.
    pub binding: Option<String>,
    pub role: Option<String>,
    pub reason: String,
}

impl Scope {
    /// The caller's own rights; a space it may not know of is answered like one that is not there.
    pub async fn review(&mut self, review: &Review) -> Result<ReviewAnswer, Error> {
        let space = match &review.space {
            None => None,
            Some(at) => {
                let found = crate::spaces::find_ref(self.tx()?, at).await?;
                match found {
                    Some(s) if self.caller.knows(s.id) => Some(s.id),
                    _ => return Err(Error::not_found("space", at)),
                }
            }
        };
        let rights = self.caller.rights();
        let granted = rights.allowing(space, review.resource, review.verb, review.name.as_deref());
        Ok(match granted {
            Some(g) => ReviewAnswer {
                allowed: true,
                binding: Some(g.binding.clone()),
                role: Some(g.role.clone()),
                reason: format!("role binding {} gives role {}", g.binding, g.role),
            },
            None => ReviewAnswer {
                allowed: false,
                binding: None,
                role: None,
                reason: if rights.subset.is_some() {
                    "no binding of yours allows it, or your token's rules leave it out".to_owned()
                } else {
                    "no binding of yours allows it".to_owned()
                },
            },
        })
    }
}
