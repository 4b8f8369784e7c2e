//! Where the database is and how much of it one process may use.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use wharf_domain::{Code, Error, Plain};

/// How to reach PostgreSQL.
#[derive(Clone)]
pub enum Database {
    /// A server of the user's own. The URL names a role that owns the database and may create roles.
    Url(Plain),
    /// The private cluster: a unix socket, the peer's identity instead of a password.
    Socket { dir: PathBuf, port: u16, name: String, owner: String, app: String },
}

#[derive(Clone)]
pub struct StoreConfig {
    pub database: Database,
    /// Connections of this process at the most.
    pub pool: u32,
    /// A statement that runs longer is cancelled and answers `unavailable`.
    pub statement_timeout: Duration,
    /// How long a call waits for a free connection.
    pub acquire_timeout: Duration,
    /// Whether wake-ups travel to other processes. Off saves the work where one process runs all roles.
    pub bridge: bool,
}

impl StoreConfig {
    pub fn new(database: Database) -> Self {
        Self {
            database,
            pool: 16,
            statement_timeout: Duration::from_secs(15),
            acquire_timeout: Duration::from_secs(5),
            bridge: true,
        }
    }

    /// As the owner: for migrations alone.
    pub(crate) fn owner(&self) -> Result<PgConnectOptions, Error> {
        Ok(self.base(true)?.application_name("wharf-migrate"))
    }

    /// As the application role: for everything else.
    pub(crate) fn app(&self, application: &str) -> Result<PgConnectOptions, Error> {
        let millis = self.statement_timeout.as_millis().to_string();
        let options =
            self.base(false)?.application_name(application).statement_cache_capacity(512).options([
                ("statement_timeout", millis.as_str()),
                ("idle_in_transaction_session_timeout", "60000"),
                ("jit", "off"),
            ]);
        Ok(match &self.database {
            Database::Url(_) => options.options([("role", "wharf_app")]),
            Database::Socket { .. } => options,
        })
    }

    /// Statements are not logged by the driver: an error is logged once, where it is handled.
    fn base(&self, owner: bool) -> Result<PgConnectOptions, Error> {
        self.address(owner).map(PgConnectOptions::disable_statement_logging)
    }

    fn address(&self, owner: bool) -> Result<PgConnectOptions, Error> {
        match &self.database {
            Database::Url(url) => {
                let text = url.expose_str().unwrap_or_default();
                // The parser's own message may repeat the URL, and with it a password.
                text.parse().map_err(|_: sqlx::Error| {
                    Error::new(
                        Code::InvalidField,
                        "database_url is not a PostgreSQL URL; write postgres://user:password@host:5432/name",
                    )
                    .field("database_url")
                })
            }
            Database::Socket { dir, port, name, owner: own, app } => {
                Ok(PgConnectOptions::new_without_pgpass()
                    .socket(dir)
                    .port(*port)
                    .username(if owner { own } else { app })
                    .database(name))
            }
        }
    }
}
