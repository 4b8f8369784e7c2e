//! Brings the schema to what this program knows, once, whoever starts first; refuses a newer one.

use sqlx::migrate::MigrateError;
use sqlx::{Connection as _, PgConnection};
use wharf_domain::rbac::built_in_roles;
use wharf_domain::{Code, Error, RoleId, Time};

use crate::config::StoreConfig;
use crate::error::{OrDomain as _, from_sqlx};

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Changes whenever a migration does: names templates of test databases.
pub fn schema_fingerprint() -> String {
    MIGRATOR.iter().map(|m| hex::encode(&m.checksum)).collect::<Vec<_>>().join(" ")
}

/// Runs as the owner. Concurrent starters wait for each other on the migrator's advisory lock.
pub(crate) async fn run(config: &StoreConfig, now: Time) -> Result<(), Error> {
    let mut conn = PgConnection::connect_with(&config.owner()?).await.or_domain()?;
    // The migrator has a lock of its own; what follows it here is not made for two at once either. Held until the
    // connection closes.
    sqlx::query("select pg_advisory_lock(hashtext('wharf/migrate'))").execute(&mut conn).await.or_domain()?;
    MIGRATOR.run(&mut conn).await.map_err(refuse)?;
    built_ins(&mut conn, now).await?;
    // This month and the next: the chainer makes later ones while the program runs.
    sqlx::query("select audit_partition(($1::timestamptz + n * interval '1 month')::date) from generate_series(0, 1) n")
        .bind(now.to_utc())
        .execute(&mut conn)
        .await
        .or_domain()?;
    conn.close().await.or_domain()
}

/// Built-in roles follow the program: a new release may widen them.
async fn built_ins(conn: &mut PgConnection, now: Time) -> Result<(), Error> {
    for (name, rules) in built_in_roles() {
        let rules = serde_json::to_value(&rules).map_err(Error::internal)?;
        sqlx::query(
            "insert into roles (id, name, built_in, rules, created_at, updated_at) values ($1, $2, true, $3, $4, $4)
             on conflict on constraint roles_name do update
             set rules = excluded.rules, built_in = true, updated_at = excluded.updated_at,
                 resource_version = roles.resource_version + 1
             where roles.rules <> excluded.rules or not roles.built_in",
        )
        .bind(RoleId::new().uuid())
        .bind(name)
        .bind(rules)
        .bind(now.to_utc())
        .execute(&mut *conn)
        .await
        .or_domain()?;
    }
    Ok(())
}

fn refuse(error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(v) => Error::new(
            Code::Unsupported,
            format!(
                "the database has schema version {v}, which is newer than this program; run a newer wharf"
            ),
        ),
        MigrateError::VersionMismatch(v) => Error::new(
            Code::Unsupported,
            format!(
                "schema version {v} in the database is not the one this program knows; it comes from another build"
            ),
        ),
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => {
            if e.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("42501") {
                return Error::new(
                    Code::Unsupported,
                    "the user of database_url must own the database and may create roles (or create role wharf_app \
                     and grant it to that user)",
                )
                .because(e);
            }
            from_sqlx(e)
        }
        other => Error::internal(other),
    }
}
