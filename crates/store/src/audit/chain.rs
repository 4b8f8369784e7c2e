//! The chain: for every entry one row with the SHA-256 of the entry and of the row before it.
//!
//! Entries are written concurrently and unchained; one chainer at a time appends the settled ones in
//! (transaction, number) order. Verifying walks both tables: an entry that was altered, removed, added behind the
//! chain's end or moved shows as the first row that does not fit.

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use wharf_domain::rbac::{Resource, Verb};
use wharf_domain::{AuditId, Error, Time};

use crate::error::OrDomain as _;
use crate::scope::Scope;
use crate::spaces::time;
use crate::system::System;

/// Entries appended in one transaction.
const BATCH: i64 = 1000;
/// Held while appending; a second chainer waits its turn.
const LOCK: &str = "select pg_advisory_xact_lock(hashtext('wharf/audit-chain'))";

/// What walking the chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether every chained entry is as it was written.
    pub ok: bool,
    /// Chained entries that fit.
    pub checked: u64,
    /// Written and not chained yet: a moment's worth, unless no operator runs.
    pub unchained: u64,
    /// Hash of the last row that fits, in hex: kept elsewhere, it shows later that the end was not cut off.
    pub head: Option<String>,
    pub first_bad: Option<Bad>,
}

/// The first place where entries and chain disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// Position in the chain.
    pub n: i64,
    pub entry: AuditId,
    pub at: Time,
    pub reason: String,
}

macro_rules! entry_columns {
    () => {
        "e.id, e.at, e.seq, e.txid::text as txid, e.principal_kind, e.principal_id, e.principal_name,
         e.impersonator_id, e.impersonator_name, e.verb, e.resource, e.resource_id, e.resource_name,
         e.space_id, e.space_name, e.outcome, e.address, e.request_id, e.detail::text as detail"
    };
}

/// Length-prefixed fields, so that no two entries read as the same bytes.
fn digest(previous: &[u8], row: &PgRow) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let mut field = |bytes: Option<&[u8]>| match bytes {
        Some(b) => {
            hash.update([1]);
            hash.update((b.len() as u64).to_be_bytes());
            hash.update(b);
        }
        None => hash.update([0]),
    };
    field(Some(previous));
    for column in ["id", "principal_id", "impersonator_id", "resource_id", "space_id", "request_id"] {
        field(row.try_get::<Option<Uuid>, _>(column).or_domain()?.as_ref().map(|u| u.as_bytes().as_slice()));
    }
    let at: chrono::DateTime<chrono::Utc> = row.try_get("at").or_domain()?;
    field(Some(&at.timestamp_micros().to_be_bytes()));
    field(Some(&row.try_get::<i64, _>("seq").or_domain()?.to_be_bytes()));
    for column in [
        "txid",
        "principal_kind",
        "principal_name",
        "impersonator_name",
        "verb",
        "resource",
        "resource_name",
        "space_name",
        "outcome",
        "address",
        "detail",
    ] {
        field(row.try_get::<Option<String>, _>(column).or_domain()?.as_deref().map(str::as_bytes));
    }
    Ok(hash.finalize().into())
}

impl System {
    /// Appends what is settled; answers how many. Called again while it answers a full batch.
    pub async fn chain_audit(&self) -> Result<u64, Error> {
        let mut scope = self.global().await?;
        let now = scope.now();
        let tx = scope.tx()?;
        sqlx::query(LOCK).execute(&mut *tx).await.or_domain()?;
        let last = sqlx::query(
            "select n, txid::text as txid, entry_seq, hash from audit_chain order by n desc limit 1",
        )
        .fetch_optional(&mut *tx)
        .await
        .or_domain()?;
        let (mut n, txid, seq, mut previous) = match &last {
            Some(row) => (
                row.try_get::<i64, _>("n").or_domain()?,
                row.try_get::<String, _>("txid").or_domain()?,
                row.try_get::<i64, _>("entry_seq").or_domain()?,
                row.try_get::<Vec<u8>, _>("hash").or_domain()?,
            ),
            None => (0, "0".to_owned(), 0, Vec::new()),
        };
        let rows = sqlx::query(concat!(
            "select ",
            entry_columns!(),
            " from audit_entries e
             where (e.txid, e.seq) > ($1::text::xid8, $2) and e.txid < pg_snapshot_xmin(pg_current_snapshot())
             order by e.txid, e.seq limit $3"
        ))
        .bind(txid)
        .bind(seq)
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await
        .or_domain()?;
        if rows.is_empty() {
            return Ok(0);
        }
        let (mut ns, mut ids, mut ats, mut seqs, mut txids, mut hashes) =
            (vec![], vec![], vec![], vec![], vec![], vec![]);
        for row in &rows {
            n += 1;
            previous = digest(&previous, row)?.to_vec();
            ns.push(n);
            ids.push(row.try_get::<Uuid, _>("id").or_domain()?);
            ats.push(row.try_get::<chrono::DateTime<chrono::Utc>, _>("at").or_domain()?);
            seqs.push(row.try_get::<i64, _>("seq").or_domain()?);
            txids.push(row.try_get::<String, _>("txid").or_domain()?);
            hashes.push(previous.clone());
        }
        sqlx::query(
            "insert into audit_chain (n, entry_id, entry_at, entry_seq, txid, hash)
             select n, id, at, seq, txid::xid8, hash
             from unnest($1::bigint[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::text[], $6::bytea[])
                as x(n, id, at, seq, txid, hash)",
        )
        .bind(&ns)
        .bind(&ids)
        .bind(&ats)
        .bind(&seqs)
        .bind(&txids)
        .bind(&hashes)
        .execute(&mut *tx)
        .await
        .or_domain()?;
        // Partitions are made a month ahead, by whoever comes by.
        sqlx::query("select audit_partition((($1::timestamptz) + n * interval '1 month')::date) from generate_series(0, 1) n")
            .bind(now.to_utc())
            .execute(&mut *tx)
            .await
            .or_domain()?;
        scope.commit().await?;
        Ok(rows.len() as u64)
    }

    pub async fn verify_audit(&self) -> Result<Verdict, Error> {
        let mut scope = self.global().await?;
        walk(scope.tx()?).await
    }
}

impl Scope {
    /// Walks the whole chain. Needs `list` on audit.
    pub async fn verify_audit(&mut self) -> Result<Verdict, Error> {
        self.listing(Resource::Audit, Verb::List).await?;
        walk(self.tx()?).await
    }
}

async fn walk(tx: &mut PgConnection) -> Result<Verdict, Error> {
    // One snapshot for both tables, however long the walk takes.
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *tx).await.or_domain()?;
    let mut verdict = Verdict { ok: true, checked: 0, unchained: 0, head: None, first_bad: None };
    let (mut n, mut previous) = (0i64, Vec::<u8>::new());
    let (mut last_txid, mut last_seq) = ("0".to_owned(), 0i64);
    loop {
        let rows = sqlx::query(concat!(
            "select c.n, c.hash, c.entry_id, c.entry_at, c.txid::text as chain_txid, c.entry_seq, ",
            entry_columns!(),
            " from (select * from audit_chain where n > $1 order by n limit $2) c
             left join audit_entries e on e.id = c.entry_id and e.at = c.entry_at order by c.n"
        ))
        .bind(n)
        .bind(BATCH)
        .fetch_all(&mut *tx)
        .await
        .or_domain()?;
        for row in &rows {
            let at: i64 = row.try_get("n").or_domain()?;
            let bad = |reason: &str| -> Result<Bad, Error> {
                Ok(Bad {
                    n: at,
                    entry: AuditId::from_uuid(row.try_get("entry_id").or_domain()?),
                    at: time(row, "entry_at")?,
                    reason: reason.to_owned(),
                })
            };
            let reason = if at != n + 1 {
                Some("rows of the chain before this one are missing")
            } else if row.try_get::<Option<Uuid>, _>("id").or_domain()?.is_none() {
                Some("the entry is missing")
            } else if digest(&previous, row)?.as_slice() != row.try_get::<Vec<u8>, _>("hash").or_domain()? {
                Some("the entry is not what was chained")
            } else {
                None
            };
            if let Some(reason) = reason {
                verdict.ok = false;
                verdict.first_bad = Some(bad(reason)?);
                return Ok(verdict);
            }
            n = at;
            previous = row.try_get("hash").or_domain()?;
            last_txid = row.try_get("chain_txid").or_domain()?;
            last_seq = row.try_get("entry_seq").or_domain()?;
            verdict.checked += 1;
        }
        if (rows.len() as i64) < BATCH {
            break;
        }
    }
    verdict.head = (!previous.is_empty()).then(|| hex::encode(&previous));
    // What lies before the chain's end and is not in it was put there later.
    let stray = sqlx::query(
        "select e.id, e.at from audit_entries e
         where (e.txid, e.seq) <= ($1::text::xid8, $2)
           and not exists (select from audit_chain c where c.entry_id = e.id and c.entry_at = e.at)
         order by e.txid, e.seq limit 1",
    )
    .bind(&last_txid)
    .bind(last_seq)
    .fetch_optional(&mut *tx)
    .await
    .or_domain()?;
    if let Some(row) = stray {
        verdict.ok = false;
        verdict.first_bad = Some(Bad {
            n,
            entry: AuditId::from_uuid(row.try_get("id").or_domain()?),
            at: time(&row, "at")?,
            reason: "the entry was put behind the chain's end".to_owned(),
        });
    }
    let unchained: i64 =
        sqlx::query_scalar("select count(*) from audit_entries where (txid, seq) > ($1::text::xid8, $2)")
            .bind(&last_txid)
            .bind(last_seq)
            .fetch_one(&mut *tx)
            .await
            .or_domain()?;
    verdict.unchained = unchained as u64;
    Ok(verdict)
}
