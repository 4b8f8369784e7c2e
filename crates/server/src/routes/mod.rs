//! Routes: one file a noun, and the router that holds them.

mod agents;
mod approvals;
mod audit;
mod auth;
pub(crate) mod build_sources;
mod builds;
mod computer;
mod connections;
mod desktop;
mod egress;
mod exec;
mod fault;
mod files;
mod images;
mod lineage;
mod list_watch;
mod messages;
mod packages;
mod policies;
mod port_hosts;
mod ports;
mod processes;
mod promises;
mod providers;
mod publish;
mod published;
mod repos;
mod role_bindings;
mod roles;
mod runtimes;
mod secrets;
mod served;
mod server;
mod service_accounts;
mod session_agents;
mod session_events;
mod session_states;
mod session_watch;
mod sessions;
mod snapshots;
mod space_events;
mod spaces;
mod stats;
mod terminal;
mod tokens;
mod usage;
mod users;
mod view;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use computer::Computer;
pub use computer::Hosts;

use crate::app::App;
use crate::{context, openapi, problem};

/// Every documented route. A method that stands here stands in the OpenAPI document, and the other way round.
fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::empty())
        .routes(routes!(server::livez))
        .routes(routes!(server::readyz))
        .routes(routes!(server::version))
        .routes(routes!(auth::jwks))
        .routes(routes!(auth::login))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::me))
        .routes(routes!(auth::impersonate))
        .routes(routes!(auth::review_access))
        .routes(routes!(users::list_users, users::create_user))
        .routes(routes!(users::get_user, users::patch_user, users::delete_user))
        .routes(routes!(service_accounts::list_service_accounts, service_accounts::create_service_account))
        .routes(routes!(
            service_accounts::get_service_account,
            service_accounts::patch_service_account,
            service_accounts::delete_service_account
        ))
        .routes(routes!(tokens::list_tokens, tokens::create_token))
        .routes(routes!(tokens::get_token, tokens::delete_token))
        .routes(routes!(roles::list_roles, roles::create_role))
        .routes(routes!(roles::get_role, roles::patch_role, roles::delete_role))
        .routes(routes!(role_bindings::list_role_bindings, role_bindings::create_role_binding))
        .routes(routes!(role_bindings::get_role_binding, role_bindings::delete_role_binding))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::verify_audit))
        .routes(routes!(spaces::list_spaces, spaces::create_space))
        .routes(routes!(spaces::get_space, spaces::patch_space, spaces::delete_space))
        .routes(routes!(usage::get_usage))
        .routes(routes!(space_events::space_events))
        .routes(routes!(secrets::list_secrets, secrets::create_secret))
        .routes(routes!(secrets::get_secret, secrets::patch_secret, secrets::delete_secret))
        .routes(routes!(secrets::reveal_secret))
        .routes(routes!(providers::list_providers, providers::create_provider))
        .routes(routes!(providers::get_provider, providers::patch_provider, providers::delete_provider))
        .routes(routes!(connections::list_connections, connections::create_connection))
        .routes(routes!(
            connections::get_connection,
            connections::patch_connection,
            connections::delete_connection
        ))
        .routes(routes!(repos::list_repos, repos::create_repo))
        .routes(routes!(repos::get_repo, repos::patch_repo, repos::delete_repo))
        .routes(routes!(repos::list_branches))
        .routes(routes!(policies::list_policies, policies::create_policy))
        .routes(routes!(policies::get_policy, policies::patch_policy, policies::delete_policy))
        .routes(routes!(approvals::list_space_approvals))
        .routes(routes!(approvals::list_approvals))
        .routes(routes!(approvals::get_approval, approvals::decide_approval))
        .routes(routes!(images::list_images, images::import_image))
        .routes(routes!(images::get_image, images::delete_image))
        .routes(routes!(packages::list_agents, packages::create_agent))
        .routes(routes!(packages::get_agent, packages::patch_agent, packages::delete_agent))
        .routes(routes!(runtimes::list_runtimes))
        .routes(routes!(packages::list_agent_versions))
        .routes(routes!(packages::activate_agent_version))
        .routes(routes!(packages::delete_agent_version))
        .routes(routes!(builds::start_build))
        .routes(routes!(builds::list_builds))
        .routes(routes!(builds::get_build))
        .routes(routes!(builds::cancel_build))
        .routes(routes!(builds::build_log))
        .routes(routes!(sessions::list_sessions, sessions::create_session))
        .routes(routes!(sessions::get_session, sessions::patch_session, sessions::delete_session))
        .routes(routes!(session_states::close_session))
        .routes(routes!(session_states::restore_session))
        .routes(routes!(session_states::cancel_turn))
        .routes(routes!(session_states::fork_session))
        .routes(routes!(lineage::get_lineage))
        .routes(routes!(stats::get_stats))
        .routes(routes!(egress::list_egress))
        .routes(routes!(messages::list_messages, messages::post_message))
        .routes(routes!(messages::get_message))
        .routes(routes!(session_events::session_events))
        .routes(routes!(exec::exec))
        .routes(routes!(processes::list_processes))
        .routes(routes!(processes::get_process))
        .routes(routes!(processes::process_output))
        .routes(routes!(processes::signal_process))
        .routes(routes!(processes::write_stdin))
        .routes(routes!(terminal::terminal))
        .routes(routes!(desktop::desktop))
        .routes(routes!(desktop::screenshot))
        .routes(routes!(ports::list_ports))
        .routes(routes!(ports::create_port_link))
        .routes(routes!(ports::tunnel))
        .routes(routes!(
            ports::get_port,
            ports::put_port,
            ports::post_port,
            ports::patch_port,
            ports::delete_port
        ))
        .routes(routes!(publish::publish, publish::unpublish))
        .routes(routes!(published::list_published))
        .routes(routes!(published::get_published, published::delete_published))
        .routes(routes!(published::link_published, published::revoke_published_links))
        .routes(routes!(served::read_published))
        .routes(routes!(files::get_file, files::put_file, files::post_file, files::delete_file))
        .routes(routes!(snapshots::list_snapshots, snapshots::create_snapshot))
        .routes(routes!(snapshots::get_snapshot, snapshots::patch_snapshot, snapshots::delete_snapshot))
        .routes(routes!(snapshots::list_space_snapshots))
}

/// The OpenAPI document.
pub fn document() -> Value {
    openapi::dress(&documented().into_openapi())
}

/// The API, its document and its reference.
pub fn router(app: App) -> Router {
    let (api, document) = documented().split_for_parts();
    let document = openapi::dress(&document);
    // The root directory has no name to put into `{path}`.
    let root = axum::routing::get(files::get_file)
        .put(files::put_file)
        .post(files::post_file)
        .delete(files::delete_file);
    // Methods that documents do not speak of (OPTIONS, PROPFIND, …) are the program's to judge.
    let port = axum::routing::MethodRouter::new().fallback(ports::any_port);
    let api = api
        .route("/v1/spaces/{space}/sessions/{session}/ports/{port}/{*path}", port.clone())
        .route("/v1/spaces/{space}/sessions/{session}/ports/{port}/", port)
        .route("/v1/spaces/{space}/sessions/{session}/ports/{port}", axum::routing::any(ports::port_itself))
        .route("/published/{link}", axum::routing::get(served::root_itself))
        .route("/published/{link}/", axum::routing::get(served::read_published));
    let api = api
        .route("/v1/spaces/{space}/sessions/{session}/files", root.clone())
        .route("/v1/spaces/{space}/sessions/{session}/files/", root)
        .merge(server::reference(&document))
        .merge(crate::git::router())
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        // Each extractor has its own limit, which it names.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(app.clone(), context::surround))
        .with_state(app.clone());
    port_hosts::beside(api, app)
}
