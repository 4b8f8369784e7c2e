//! Reading a session's log: the one sequence of messages and events, from a number on.
//!
//! Numbers are given out under the lock of the session's row, so who reads up to a number has seen all before it.

use sqlx::Row as _;
use wharf_domain::{Error, limits};

use super::row::{self, LogRow, SessionRow};
use crate::error::OrDomain as _;
use crate::permit::Permit;
use crate::store::Store;

/// A page of the log holds no more than this, unless one entry alone does.
pub(super) const PAGE_BYTES: i64 = 8 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct LogPage {
    pub entries: Vec<LogRow>,
    /// More can be read at once.
    pub more: bool,
}

impl Store {
    /// Entries after `after`. The permit is what opened the stream; streams ask for a new one from time to time.
    pub async fn session_log(
        &self,
        permit: &Permit<SessionRow>,
        after: i64,
        limit: u32,
    ) -> Result<LogPage, Error> {
        let limit = limit.clamp(1, limits::PAGE_MAX);
        let rows = sqlx::query(
            "select l.seq, l.kind, l.turn_id, l.created_at, l.so_far,
                case when m.seq is null then l.data
                     else json_build_object('role', m.role, 'agent', case m.role when 'agent' then m.agent end,
                         'to', case m.role when 'user' then m.agent end, 'content', m.content) end as data
             from (select *, sum(bytes) over (order by seq) as so_far from session_log
                   where session_id = $1 and seq > $2 order by seq limit $3) l
             left join messages m on m.session_id = $1 and m.seq = l.seq and l.kind = 'message.created'
             order by l.seq",
        )
        .bind(permit.row().id.uuid())
        .bind(after)
        .bind(i64::from(limit) + 1)
        .fetch_all(self.pool())
        .await
        .or_domain()?;
        let mut page = LogPage { entries: Vec::with_capacity(rows.len()), more: false };
        for row in &rows {
            let so_far: i64 = row.try_get("so_far").or_domain()?;
            if page.entries.len() == limit as usize || (so_far > PAGE_BYTES && !page.entries.is_empty()) {
                page.more = true;
                break;
            }
            page.entries.push(row::log(row).or_domain()?);
        }
        Ok(page)
    }
}
