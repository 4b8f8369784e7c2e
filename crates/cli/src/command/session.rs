//! `wharf session …`: each verb a file, the arguments of all here only as a list.

mod agent;
mod copy;
mod create;
mod desktop;
mod egress;
mod exec;
mod fork;
mod forward;
mod life;
mod look;
mod network;
mod port;
mod publish;
mod raw;
mod screenshot;
mod shell;
mod snapshot;
mod talk;
mod turn;

use crate::context::Ctx;

pub use copy::{packed, stream_of, tree as packed_tree};
pub use create::Limits;
pub use look::tree;

/// Sessions: an agent's computer each
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a session
    Create(Box<create::Create>),
    /// Show the sessions of the space
    List(look::List),
    /// Show sessions in full
    Get(look::Get),
    /// Change a session
    Update(Box<create::Update>),
    /// Say something to the agent and follow its turn
    Send(talk::Send),
    /// Show the messages of a session
    Messages(talk::Messages),
    /// Show what happens in a session
    Events(talk::Events),
    /// Run a command
    Exec(exec::Exec),
    /// Open a terminal
    Shell(shell::Shell),
    /// Take a picture of the screen
    Screenshot(screenshot::Screenshot),
    /// Bring the desktop to a VNC viewer on this machine
    Desktop(desktop::Desktop),
    /// Copy files into or out of a session
    Cp(copy::Cp),
    /// Show files of a session
    Ls(copy::Ls),
    /// Show processes left running in a session
    Ps(look::Ps),
    /// Ports of a session: what listens, and links for a browser
    #[command(subcommand)]
    Port(port::Command),
    /// Bring ports of a session to this machine
    Forward(forward::Forward),
    /// Publish files of a session
    Publish(publish::Publish),
    /// End all published copies of a session
    Unpublish(publish::Unpublish),
    /// Take computers down; files and messages stay
    Close(life::Close),
    /// Bring computers up again
    Restore(life::Restore),
    /// Cancel the turn that runs
    Cancel(life::Cancel),
    /// Make a new session from one, with its files and messages
    Fork(fork::Fork),
    /// Point-in-time copies of a session's files
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Show what a session came from and what came from it
    Lineage(look::Lineage),
    /// Show what left a session
    Egress(egress::Egress),
    /// Show what a session's computer uses
    Stats(look::Stats),
    /// Delete sessions with their files and messages
    Delete(life::Delete),
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        match self {
            Self::Create(c) => c.run(ctx).await,
            Self::List(c) => c.run(ctx).await,
            Self::Get(c) => c.run(ctx).await,
            Self::Update(c) => c.run(ctx).await,
            Self::Send(c) => c.run(ctx).await,
            Self::Messages(c) => c.run(ctx).await,
            Self::Events(c) => c.run(ctx).await,
            Self::Exec(c) => c.run(ctx).await,
            Self::Shell(c) => c.run(ctx).await,
            Self::Screenshot(c) => c.run(ctx).await,
            Self::Desktop(c) => c.run(ctx).await,
            Self::Cp(c) => c.run(ctx).await,
            Self::Ls(c) => c.run(ctx).await,
            Self::Ps(c) => c.run(ctx).await,
            Self::Port(c) => c.run(ctx).await,
            Self::Forward(c) => c.run(ctx).await,
            Self::Publish(c) => c.run(ctx).await,
            Self::Unpublish(c) => c.run(ctx).await,
            Self::Close(c) => c.run(ctx).await,
            Self::Restore(c) => c.run(ctx).await,
            Self::Cancel(c) => c.run(ctx).await,
            Self::Fork(c) => c.run(ctx).await,
            Self::Snapshot(c) => c.run(ctx).await,
            Self::Lineage(c) => c.run(ctx).await,
            Self::Egress(c) => c.run(ctx).await,
            Self::Stats(c) => c.run(ctx).await,
            Self::Delete(c) => c.run(ctx).await,
        }
    }
}
