//! `wharf connection …`: which requests of a space's sessions get which secret.

use wharf_domain::Name;
use wharf_domain::egress::Pattern;
use wharf_domain::ssh::HostKey;
use wharf_wire::api;

use super::common::{self, LabelChanges, Listing, NewLabels, Sure};
use crate::context::Ctx;
use crate::exit::Refusal;

/// Which requests it is for.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Requests")]
pub struct Requests {
    /// Only requests of this method (repeat for more)
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// Only paths that begin with this
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
}

/// Where the secret is put.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Credential")]
pub struct Place {
    /// Put it in this header
    #[arg(long, value_name = "NAME", group = "place")]
    header: Option<String>,
    /// What stands before it in the header ("Bearer ")
    #[arg(long, value_name = "TEXT", requires = "header")]
    prefix: Option<String>,
    /// Put it in this parameter of the query
    #[arg(long, value_name = "NAME", group = "place")]
    query: Option<String>,
    /// Make it the password of this user (basic authentication)
    #[arg(long, value_name = "USER", group = "place")]
    basic: Option<String>,
    /// Send `Authorization: Bearer` and the secret
    #[arg(long, group = "place")]
    bearer: bool,
    /// Log in to the ssh server with it, for git: it is a private key
    #[arg(long, group = "place")]
    ssh: bool,
    /// Who logs in; whom the address names when absent
    #[arg(long, value_name = "USER")]
    ssh_user: Option<String>,
    /// What the ssh server is known by: SHA256:… or a line of `ssh-keyscan HOST` (repeat for more)
    #[arg(long = "host-key", value_name = "KEY", value_parser = host_key)]
    host_keys: Vec<HostKey>,
    /// Let pushes out too; fetches only when absent
    #[arg(long)]
    push: bool,
    /// Let no pushes out any more
    #[arg(long, conflicts_with = "push")]
    no_push: bool,
}

impl Place {
    fn given(&self) -> bool {
        self.header.is_some() || self.query.is_some() || self.basic.is_some() || self.bearer || self.ssh
    }

    /// What is said of an ssh server, over what is known of it. Refused where there is none.
    fn server(&self, was: Option<api::ConnectionSsh>) -> anyhow::Result<Option<api::ConnectionSsh>> {
        let details = self.ssh_user.is_some() || !self.host_keys.is_empty() || self.push || self.no_push;
        let was = if self.ssh { Some(was.unwrap_or_default()) } else { was.filter(|_| !self.given()) };
        let Some(was) = was else {
            if details {
                let what = "--ssh-user, --host-key and --push are said of a connection to an ssh server";
                return Err(Refusal::usage(what, "add --ssh").into());
            }
            return Ok(None);
        };
        Ok(Some(api::ConnectionSsh {
            user: self.ssh_user.clone().or(was.user),
            host_keys: if self.host_keys.is_empty() { was.host_keys } else { self.host_keys.clone() },
            push: self.push || (was.push && !self.no_push),
        }))
    }

    /// Where it is put, as far as it is said.
    fn inject(&self, secret: Name) -> api::ConnectionInject {
        let (header, prefix) = if self.bearer {
            (Some("authorization".to_owned()), Some("Bearer ".to_owned()))
        } else {
            (self.header.clone(), self.prefix.clone())
        };
        let (query, basic) = (self.query.clone(), self.basic.clone());
        api::ConnectionInject { header, prefix, query, basic, ssh: None, secret }
    }
}

/// Connections: requests to an upstream that get a credential outside of the session
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a connection
    #[command(after_help = "Examples:
  wharf connection create github --host github.com --basic x-access-token --key-secret gh-token
  wharf connection create api --host api.example.org --bearer --key-secret api-key --method GET --path /v1
  wharf connection create maps --host maps.example.org --query key --key-secret maps-key
  wharf connection create forge --host git.example.org --ssh --key-secret deploy-key --path /team/ \\
      --host-key \"$(ssh-keyscan -t ed25519 git.example.org)\"")]
    Create {
        #[arg(value_parser = common::name)]
        name: Name,
        /// Host of the requests: github.com, *.example.org, example.org:8443 (with --ssh on port 22 unless it names one)
        #[arg(long, value_name = "HOST", value_parser = pattern)]
        host: Pattern,
        /// The secret that is put in
        #[arg(long = "key-secret", value_name = "NAME", value_parser = common::name, add = crate::complete::secrets())]
        secret: Name,
        #[command(flatten)]
        requests: Requests,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the space's connections
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show connections in full
    Get {
        #[arg(required = true, add = crate::complete::connections())]
        names: Vec<String>,
    },
    /// Change a connection; what is not given stays
    #[command(after_help = "Examples:
  wharf connection update github --key-secret gh-token-2
  wharf connection update api --path /v2 --method GET --method POST
  wharf connection update forge --push --host-key SHA256:uNiVztksCsDhcc0u9e8BrYVkQRUbP44JJkIRT8v0GdQ")]
    Update {
        #[arg(add = crate::complete::connections())]
        name: String,
        /// Host of the requests
        #[arg(long, value_name = "HOST", value_parser = pattern)]
        host: Option<Pattern>,
        /// The secret that is put in
        #[arg(long = "key-secret", value_name = "NAME", value_parser = common::name, add = crate::complete::secrets())]
        secret: Option<Name>,
        #[command(flatten)]
        requests: Requests,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        labels: LabelChanges,
        /// Only if it is still at this resource version
        #[arg(long, value_name = "VERSION")]
        if_version: Option<i64>,
    },
    /// Delete connections
    Delete {
        #[arg(required = true, add = crate::complete::connections())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

fn host_key(text: &str) -> Result<HostKey, String> {
    text.parse().map_err(|e: wharf_domain::Error| e.public)
}

fn pattern(text: &str) -> Result<Pattern, String> {
    text.parse().map_err(|e: wharf_domain::Error| e.public)
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let connections = &space.connections();
        match self {
            Self::Create { name, host, secret, requests, place, labels } => {
                if !place.given() {
                    return Err(Refusal::usage(
                        "nothing says where the secret is put",
                        "add --bearer, --header NAME, --query NAME, --basic USER or --ssh",
                    )
                    .into());
                }
                let create = api::CreateConnection {
                    name,
                    matches: api::ConnectionMatch {
                        host,
                        methods: requests.methods,
                        path_prefix: requests.path,
                    },
                    inject: api::ConnectionInject { ssh: place.server(None)?, ..place.inject(secret) },
                    labels: labels.read()?,
                };
                ctx.out.made(&connections.create(&create).await?)
            }
            Self::List { listing } => {
                let none = format!("no connections in space {}", space.name());
                let list = connections.list_where(listing.filters()?);
                common::list::<api::Connection>(ctx, list, &listing.paging, &none).await
            }
            Self::Get { names } => {
                common::get(ctx, &names, |n| async move { connections.get(&n).await }).await
            }
            Self::Update { name, host, secret, requests, place, labels, if_version } => {
                let was = connections.get(&name).await?;
                let narrowed = host.is_some() || !requests.methods.is_empty() || requests.path.is_some();
                let matches = narrowed.then(|| api::ConnectionMatch {
                    host: host.unwrap_or_else(|| was.matches.host.clone()),
                    methods: if requests.methods.is_empty() {
                        was.matches.methods.clone()
                    } else {
                        requests.methods
                    },
                    path_prefix: requests.path.or_else(|| was.matches.path_prefix.clone()),
                });
                let secret_now = secret.clone().unwrap_or_else(|| was.inject.secret.clone());
                let server = place.server(was.inject.ssh.clone())?;
                let inject = if place.given() {
                    api::ConnectionInject { ssh: server, ..place.inject(secret_now) }
                } else {
                    api::ConnectionInject { ssh: server, secret: secret_now, ..was.inject.clone() }
                };
                // What stays is not said: it would take the right to read the secret.
                let inject = Some(inject).filter(|now| secret.is_some() || *now != was.inject);
                let patch = api::PatchConnection { matches, inject, labels: labels.patch() };
                // What was read is what is changed.
                let version = if_version.unwrap_or(was.resource_version);
                ctx.out.made(&connections.patch(&name, &patch, Some(version)).await?)
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "connection", |n| async move { connections.delete(&n).await })
                    .await
            }
        }
    }
}
