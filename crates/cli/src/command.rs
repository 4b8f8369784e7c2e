//! The nouns. Each file is one: its arguments as types, then what they do.

mod access;
pub mod agent;
pub mod api;
pub mod approval;
pub mod audit;
pub mod auth;
pub mod binding;
pub mod common;
pub mod completion;
pub mod connection;
pub mod context;
pub mod image;
pub mod policy;
pub mod provider;
pub mod published;
pub mod repo;
pub mod role;
pub mod runtime;
pub mod secret;
pub mod service_account;
pub mod session;
pub mod space;
pub mod token;
pub mod user;
pub mod version;

use crate::context::Ctx;

/// Every command of this crate.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Log in to a server and remember it
    Login(auth::Login),
    /// End the login and forget its tokens
    Logout(auth::Logout),
    /// Show who you are and what you may do
    Whoami(auth::Whoami),
    /// Servers you know, and which one is in use
    #[command(subcommand)]
    Context(context::Command),
    /// Spaces: the rooms everything lives in
    #[command(subcommand)]
    Space(space::Command),
    /// Sessions: an agent's computer each
    #[command(subcommand, visible_alias = "s")]
    Session(Box<session::Command>),
    /// Published copies of files, and links to them
    #[command(subcommand)]
    Published(published::Command),
    /// Secrets of a space
    #[command(subcommand)]
    Secret(secret::Command),
    /// Model providers that sessions reach through the gateway
    #[command(subcommand)]
    Provider(provider::Command),
    /// Agents of your own: packages, their builds and versions
    #[command(subcommand)]
    Agent(agent::Command),
    /// Connections: requests to an upstream that get a credential outside of the session
    #[command(subcommand)]
    Connection(Box<connection::Command>),
    /// Git repositories: clone from and push to them with git
    #[command(subcommand)]
    Repo(Box<repo::Command>),
    /// Policies: what sessions may do, and what needs somebody's yes
    #[command(subcommand)]
    Policy(policy::Command),
    /// Approvals: what waits for somebody's yes
    #[command(subcommand)]
    Approval(approval::Command),
    /// Images sessions start from
    #[command(subcommand)]
    Image(image::Command),
    /// Where sessions run, and what is kept there
    #[command(subcommand)]
    Runtime(runtime::Command),
    /// People who may log in
    #[command(subcommand)]
    User(user::Command),
    /// Identities of programs
    #[command(subcommand)]
    ServiceAccount(service_account::Command),
    /// API tokens of service accounts
    #[command(subcommand)]
    Token(token::Command),
    /// Roles: named lists of what may be done
    #[command(subcommand)]
    Role(role::Command),
    /// Role bindings: who has which role, where
    #[command(subcommand)]
    Binding(binding::Command),
    /// Ask whether you may do something, and which binding says so
    #[command(visible_alias = "access-review")]
    CanI(access::CanI),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Call any path of the HTTP API
    Api(api::Api),
    /// Show the versions of this program and of the server
    Version(version::Version),
    /// Print the shell script that turns on completion
    Completion(completion::Completion),
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::Login(c) => c.run(ctx).await,
            Self::Logout(c) => c.run(ctx).await,
            Self::Whoami(c) => c.run(ctx).await,
            Self::Context(c) => c.run(ctx),
            Self::Space(c) => c.run(ctx).await,
            Self::Session(c) => c.run(ctx).await,
            Self::Published(c) => c.run(ctx).await,
            Self::Secret(c) => c.run(ctx).await,
            Self::Provider(c) => c.run(ctx).await,
            Self::Agent(c) => c.run(ctx).await,
            Self::Connection(c) => c.run(ctx).await,
            Self::Repo(c) => c.run(ctx).await,
            Self::Policy(c) => c.run(ctx).await,
            Self::Approval(c) => c.run(ctx).await,
            Self::Image(c) => c.run(ctx).await,
            Self::Runtime(c) => c.run(ctx).await,
            Self::User(c) => c.run(ctx).await,
            Self::ServiceAccount(c) => c.run(ctx).await,
            Self::Token(c) => c.run(ctx).await,
            Self::Role(c) => c.run(ctx).await,
            Self::Binding(c) => c.run(ctx).await,
            Self::CanI(c) => c.run(ctx).await,
            Self::Audit(c) => c.run(ctx).await,
            Self::Api(c) => c.run(ctx).await,
            Self::Version(c) => c.run(ctx).await,
            Self::Completion(c) => c.run(),
        }
    }
}
