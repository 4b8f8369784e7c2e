//! Where a session came from and what came of it. Deleted sessions stay in the line for as long as their rows do.

use sqlx::Row as _;
use wharf_domain::session::State;
use wharf_domain::{Error, Name, SessionId, SnapshotId, Time};

use super::Sessions;
use super::row::{Parent, SessionRow, time};
use crate::error::OrDomain as _;
use crate::permit::Permit;

/// Ancestors and descendants beyond this are not shown.
const NODES: i32 = 1000;

#[derive(Clone, Debug)]
pub struct Lineage {
    pub session: LineageNode,
    /// Nearest first.
    pub ancestors: Vec<LineageNode>,
    /// Oldest first.
    pub descendants: Vec<LineageNode>,
}

#[derive(Clone, Debug)]
pub struct LineageNode {
    pub id: SessionId,
    pub name: Name,
    /// `None` once it is deleted.
    pub state: Option<State>,
    pub parent: Option<Parent>,
    pub created_at: Time,
}

impl Sessions<'_> {
    pub async fn lineage(&mut self, permit: &Permit<SessionRow>) -> Result<Lineage, Error> {
        let s = permit.row();
        let rows = sqlx::query(
            "with recursive up as (
                select id, parent_session, 0 as depth from sessions where id = $1
                union all
                select p.id, p.parent_session, up.depth - 1 from sessions p join up on p.id = up.parent_session
                where up.depth > -$2
             ), down as (
                select id, 0 as depth from sessions where id = $1
                union all
                select c.id, down.depth + 1 from sessions c join down on c.parent_session = down.id where down.depth < $2
             ), line as (
                select id, depth from up union select id, depth from down
             )
             select s.id, s.name, s.state, s.deleted_at is not null as deleted, s.parent_session, s.parent_snapshot,
                s.parent_seq, s.created_at, line.depth
             from line join sessions s on s.id = line.id and s.space_id = $3
             order by case when depth < 0 then -depth else 0 end, s.id limit $2",
        )
        .bind(s.id.uuid())
        .bind(NODES)
        .bind(s.space.uuid())
        .fetch_all(self.0.tx()?)
        .await
        .or_domain()?;
        let (mut own, mut ancestors, mut descendants) = (None, Vec::new(), Vec::new());
        for row in &rows {
            let node = node(row).or_domain()?;
            match row.try_get::<i32, _>("depth").or_domain()? {
                0 => own = Some(node),
                d if d < 0 => ancestors.push(node),
                _ => descendants.push(node),
            }
        }
        let session = own.ok_or_else(|| Error::not_found("session", &s.name))?;
        Ok(Lineage { session, ancestors, descendants })
    }
}

fn node(row: &sqlx::postgres::PgRow) -> Result<LineageNode, sqlx::Error> {
    let word = |e: Error| sqlx::Error::Decode(Box::new(e));
    let parent: Option<uuid::Uuid> = row.try_get("parent_session")?;
    let deleted: bool = row.try_get("deleted")?;
    Ok(LineageNode {
        id: SessionId::from_uuid(row.try_get("id")?),
        name: row.try_get::<&str, _>("name")?.parse().map_err(word)?,
        state: if deleted { None } else { Some(row.try_get::<&str, _>("state")?.parse().map_err(word)?) },
        parent: match parent {
            Some(p) => Some(Parent {
                session: SessionId::from_uuid(p),
                snapshot: row.try_get::<Option<uuid::Uuid>, _>("parent_snapshot")?.map(SnapshotId::from_uuid),
                seq: row.try_get::<Option<i64>, _>("parent_seq")?.unwrap_or_default(),
            }),
            None => None,
        },
        created_at: time(row, "created_at")?,
    })
}
