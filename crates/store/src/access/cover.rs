//! Nobody hands out what they do not hold: whether one set of rights contains another.
//!
//! Words are compared as written: `*` is contained only in `*`, because it also speaks of kinds that a later
//! release adds. That may refuse a grant that would be harmless today, and never allows one that is not.

use wharf_domain::rbac::{Resource, Rights, Rule, Verb};
use wharf_domain::{Code, Error, SpaceId};

use crate::caller::Identity;

fn holds(list: &[String], word: &str) -> bool {
    list.iter().any(|w| w == "*" || w == word)
}

/// Whether `rule` allows the literal words, `*` being one of them.
fn literal(rule: &Rule, group: &str, resource: &str, verb: &str, name: Option<&str>) -> bool {
    holds(&rule.groups, group)
        && holds(&rule.resources, resource)
        && holds(&rule.verbs, verb)
        && (rule.names.is_empty() || holds(&rule.names, "*") || name.is_some_and(|n| holds(&rule.names, n)))
}

/// The (group, resource) pairs a rule is about. A resource belongs to one group, so naming both says no more.
fn kinds(rule: &Rule) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for resource in &rule.resources {
        match resource.parse::<Resource>() {
            Ok(r) if holds(&rule.groups, r.group().as_str()) => {
                pairs.push((r.group().as_str().to_owned(), resource.clone()));
            }
            // A rule about a resource outside its groups allows nothing.
            Ok(_) => {}
            Err(_) => pairs.extend(rule.groups.iter().map(|g| (g.clone(), resource.clone()))),
        }
    }
    pairs
}

/// Whether `rights` allow everything `rule` would allow in `space` (`None`: everywhere).
pub(crate) fn covers(rights: &Rights, space: Option<SpaceId>, rule: &Rule) -> bool {
    let grants: Vec<&Rule> = rights
        .grants
        .iter()
        .filter(|g| g.space.is_none() || g.space == space)
        .flat_map(|g| &g.rules)
        .collect();
    let names: Vec<Option<&str>> = if rule.names.is_empty() || holds(&rule.names, "*") {
        vec![None]
    } else {
        rule.names.iter().map(|n| Some(n.as_str())).collect()
    };
    kinds(rule).iter().all(|(group, resource)| {
        rule.verbs.iter().all(|verb| {
            names.iter().all(|name| {
                grants.iter().any(|g| literal(g, group, resource, verb, *name))
                    && rights
                        .subset
                        .as_ref()
                        .is_none_or(|s| s.iter().any(|g| literal(g, group, resource, verb, *name)))
            })
        })
    })
}

/// Whether `rights` contain all of `other`.
pub(crate) fn covers_all(rights: &Rights, other: &Rights) -> bool {
    other.grants.iter().all(|g| match &other.subset {
        // Both the grant and the subset must allow; either being covered is enough.
        Some(subset) => {
            subset.iter().all(|r| covers(rights, g.space, r))
                || g.rules.iter().all(|r| covers(rights, g.space, r))
        }
        None => g.rules.iter().all(|r| covers(rights, g.space, r)),
    })
}

/// `403` when a rule is more than the caller holds there.
pub(crate) fn check_grant<'r>(
    rights: &Rights,
    space: Option<SpaceId>,
    rules: impl IntoIterator<Item = &'r Rule>,
) -> Result<(), Error> {
    match rules.into_iter().find(|r| !covers(rights, space, r)) {
        None => Ok(()),
        Some(rule) => Err(Error::new(
            Code::Forbidden,
            format!(
                "you can only grant what you hold yourself, and you do not hold [{}] on [{}] {}",
                rule.verbs.join(", "),
                rule.resources.join(", "),
                if space.is_some() { "in that space" } else { "everywhere" }
            ),
        )),
    }
}

/// Needs the verb on the principal, and every right the principal has.
pub(crate) fn may_impersonate(own: &Rights, target: &Identity, target_rights: &Rights) -> Result<(), Error> {
    let resource = match target.kind {
        crate::caller::PrincipalKind::User => Resource::Users,
        _ => Resource::ServiceAccounts,
    };
    if !own.allows(None, resource, Verb::Impersonate, Some(&target.name)) {
        return Err(crate::scope::forbidden(Verb::Impersonate, resource, Some(&target.name)));
    }
    if !covers_all(own, target_rights) {
        return Err(Error::new(
            Code::Forbidden,
            format!(
                "{} holds rights that you do not; you cannot act as someone who may do more than you",
                target.name
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
