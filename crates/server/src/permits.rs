//! Which right each operation needs: the one table that the OpenAPI document shows (`x-wharf-permit`) and that the walk
//! test holds the handlers to. An operation that is not in it does not start the server.

use serde_json::{Value, json};
use wharf_domain::rbac::{Resource, Verb};

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No credential is needed, for the reason given.
    Public(&'static str),
    /// Any valid credential: it is about the caller alone.
    Anyone(&'static str),
    /// The verb on a kind that lives in no space.
    Global(Resource, Verb),
    /// The verb on a space itself.
    Space(Verb),
    /// The verb on a kind of the space named in the path.
    Spaced(Resource, Verb),
}

use Access::{Anyone, Global, Public, Space, Spaced};
use Resource::{
    Agents, Approvals, Audit, Builds, Connections, Egress, Events, Files, Images, Messages, Policies,
    Processes, Providers, Published, Repos, RoleBindings, Roles, Secrets, ServiceAccounts, Sessions,
    Snapshots, Tokens, Users,
};
use Verb::{Approve, Create, Delete, Exec, Get, Impersonate, List, Publish, ReadValues, Update, Watch};

/// Operation id and access, in the order of the document's tags.
pub const TABLE: &[(&str, Access)] = &[
    ("livez", Public("a probe has no credential")),
    ("readyz", Public("a probe has no credential")),
    ("version", Public("a client asks before it logs in")),
    ("jwks", Public("public keys")),
    ("list_runtimes", Anyone("what a session is promised here is everybody's to know who has one")),
    ("login", Public("this is where credentials come from")),
    ("refresh", Public("the refresh token in the body is the credential")),
    ("logout", Anyone("ends the caller's own login")),
    ("me", Anyone("is about the caller")),
    ("impersonate", Global(Users, Impersonate)),
    ("review_access", Anyone("is about the caller")),
    ("list_users", Global(Users, List)),
    ("create_user", Global(Users, Create)),
    ("get_user", Global(Users, Get)),
    ("patch_user", Global(Users, Update)),
    ("delete_user", Global(Users, Delete)),
    ("list_service_accounts", Global(ServiceAccounts, List)),
    ("create_service_account", Global(ServiceAccounts, Create)),
    ("get_service_account", Global(ServiceAccounts, Get)),
    ("patch_service_account", Global(ServiceAccounts, Update)),
    ("delete_service_account", Global(ServiceAccounts, Delete)),
    ("list_tokens", Global(Tokens, List)),
    ("create_token", Global(Tokens, Create)),
    ("get_token", Global(Tokens, Get)),
    ("delete_token", Global(Tokens, Delete)),
    ("list_roles", Global(Roles, List)),
    ("create_role", Global(Roles, Create)),
    ("get_role", Global(Roles, Get)),
    ("patch_role", Global(Roles, Update)),
    ("delete_role", Global(Roles, Delete)),
    ("list_role_bindings", Global(RoleBindings, List)),
    ("create_role_binding", Global(RoleBindings, Create)),
    ("get_role_binding", Global(RoleBindings, Get)),
    ("delete_role_binding", Global(RoleBindings, Delete)),
    ("list_audit", Global(Audit, List)),
    ("verify_audit", Global(Audit, List)),
    ("list_spaces", Space(List)),
    ("create_space", Space(Create)),
    ("get_space", Space(Get)),
    ("patch_space", Space(Update)),
    ("delete_space", Space(Delete)),
    ("get_usage", Spaced(Resource::Usage, Get)),
    ("space_events", Spaced(Events, Watch)),
    ("list_secrets", Spaced(Secrets, List)),
    ("create_secret", Spaced(Secrets, Create)),
    ("get_secret", Spaced(Secrets, Get)),
    ("patch_secret", Spaced(Secrets, Update)),
    ("delete_secret", Spaced(Secrets, Delete)),
    ("reveal_secret", Spaced(Secrets, ReadValues)),
    ("list_providers", Spaced(Providers, List)),
    ("create_provider", Spaced(Providers, Create)),
    ("get_provider", Spaced(Providers, Get)),
    ("patch_provider", Spaced(Providers, Update)),
    ("delete_provider", Spaced(Providers, Delete)),
    ("list_connections", Spaced(Connections, List)),
    ("create_connection", Spaced(Connections, Create)),
    ("get_connection", Spaced(Connections, Get)),
    ("patch_connection", Spaced(Connections, Update)),
    ("delete_connection", Spaced(Connections, Delete)),
    ("list_repos", Spaced(Repos, List)),
    ("create_repo", Spaced(Repos, Create)),
    ("get_repo", Spaced(Repos, Get)),
    ("patch_repo", Spaced(Repos, Update)),
    ("delete_repo", Spaced(Repos, Delete)),
    ("list_branches", Spaced(Repos, Get)),
    ("list_policies", Spaced(Policies, List)),
    ("create_policy", Spaced(Policies, Create)),
    ("get_policy", Spaced(Policies, Get)),
    ("patch_policy", Spaced(Policies, Update)),
    ("delete_policy", Spaced(Policies, Delete)),
    ("list_space_approvals", Spaced(Approvals, List)),
    ("list_approvals", Spaced(Approvals, List)),
    ("get_approval", Spaced(Approvals, Get)),
    ("decide_approval", Spaced(Approvals, Approve)),
    ("list_images", Spaced(Images, List)),
    ("import_image", Spaced(Images, Create)),
    ("get_image", Spaced(Images, Get)),
    ("delete_image", Spaced(Images, Delete)),
    ("list_agents", Spaced(Agents, List)),
    ("create_agent", Spaced(Agents, Create)),
    ("get_agent", Spaced(Agents, Get)),
    ("patch_agent", Spaced(Agents, Update)),
    ("delete_agent", Spaced(Agents, Delete)),
    ("list_agent_versions", Spaced(Agents, Get)),
    ("delete_agent_version", Spaced(Agents, Delete)),
    ("activate_agent_version", Spaced(Agents, Update)),
    ("start_build", Spaced(Builds, Create)),
    ("list_builds", Spaced(Builds, List)),
    ("get_build", Spaced(Builds, Get)),
    ("cancel_build", Spaced(Builds, Update)),
    ("build_log", Spaced(Builds, Watch)),
    ("list_sessions", Spaced(Sessions, List)),
    ("create_session", Spaced(Sessions, Create)),
    ("get_session", Spaced(Sessions, Get)),
    ("patch_session", Spaced(Sessions, Update)),
    ("delete_session", Spaced(Sessions, Delete)),
    ("close_session", Spaced(Sessions, Update)),
    ("restore_session", Spaced(Sessions, Update)),
    ("cancel_turn", Spaced(Sessions, Update)),
    ("fork_session", Spaced(Sessions, Create)),
    ("get_lineage", Spaced(Sessions, Get)),
    ("list_egress", Spaced(Egress, List)),
    ("get_stats", Spaced(Sessions, Get)),
    ("list_messages", Spaced(Messages, List)),
    ("post_message", Spaced(Messages, Create)),
    ("get_message", Spaced(Messages, Get)),
    ("session_events", Spaced(Messages, Watch)),
    ("exec", Spaced(Sessions, Exec)),
    ("list_processes", Spaced(Processes, List)),
    ("get_process", Spaced(Processes, Get)),
    ("process_output", Spaced(Processes, Get)),
    ("signal_process", Spaced(Processes, Update)),
    ("write_stdin", Spaced(Processes, Update)),
    ("terminal", Spaced(Sessions, Exec)),
    ("desktop", Spaced(Sessions, Get)),
    ("screenshot", Spaced(Sessions, Get)),
    ("list_ports", Spaced(Sessions, Get)),
    ("create_port_link", Spaced(Sessions, Exec)),
    ("tunnel", Spaced(Sessions, Exec)),
    ("get_port", Spaced(Sessions, Exec)),
    ("put_port", Spaced(Sessions, Exec)),
    ("post_port", Spaced(Sessions, Exec)),
    ("patch_port", Spaced(Sessions, Exec)),
    ("delete_port", Spaced(Sessions, Exec)),
    ("publish", Spaced(Sessions, Publish)),
    ("unpublish", Spaced(Sessions, Publish)),
    ("list_published", Spaced(Published, List)),
    ("get_published", Spaced(Published, Get)),
    ("delete_published", Spaced(Published, Delete)),
    ("link_published", Spaced(Published, Publish)),
    ("revoke_published_links", Spaced(Published, Publish)),
    ("read_published", Public("the address itself is the credential: a signed link, or a copy made public")),
    ("get_file", Spaced(Files, Get)),
    ("put_file", Spaced(Files, Update)),
    ("post_file", Spaced(Files, Update)),
    ("delete_file", Spaced(Files, Delete)),
    ("list_snapshots", Spaced(Snapshots, List)),
    ("create_snapshot", Spaced(Snapshots, Create)),
    ("get_snapshot", Spaced(Snapshots, Get)),
    ("patch_snapshot", Spaced(Snapshots, Update)),
    ("list_space_snapshots", Spaced(Snapshots, List)),
    ("delete_snapshot", Spaced(Snapshots, Delete)),
];

pub fn of(operation: &str) -> Option<Access> {
    TABLE.iter().find(|(id, _)| *id == operation).map(|(_, access)| *access)
}

impl Access {
    pub const fn public(self) -> bool {
        matches!(self, Public(_))
    }

    /// As the document shows it.
    pub fn show(self) -> Value {
        match self {
            Public(why) => json!({"access": "public", "because": why}),
            Anyone(why) => json!({"access": "authenticated", "because": why}),
            Global(r, v) => json!({"access": "global", "group": r.group(), "resource": r, "verb": v}),
            Space(v) => {
                json!({"access": "space", "group": Resource::Spaces.group(), "resource": Resource::Spaces, "verb": v})
            }
            Spaced(r, v) => json!({"access": "space", "group": r.group(), "resource": r, "verb": v}),
        }
    }
}
