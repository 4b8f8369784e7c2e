//! Who may come in and what they may do: principals, passwords, tokens, keys, roles, bindings.

pub(crate) mod authenticate;
pub(crate) mod bindings;
pub(crate) mod bootstrap;
pub(crate) mod cover;
pub(crate) mod impersonate;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod password;
pub(crate) mod port_links;
pub(crate) mod principals;
pub(crate) mod remembered;
pub(crate) mod review;
pub(crate) mod roles;
pub(crate) mod throttle;
pub(crate) mod tokens;
