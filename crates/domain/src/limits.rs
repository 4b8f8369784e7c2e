//! Every limit a user can hit, by name. An error that refuses something over a limit names it.

/// Labels on one thing.
pub const LABELS: usize = 64;
/// Bytes of one message's content.
pub const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a JSON request body; larger things are files.
pub const BODY_BYTES: usize = 6 * 1024 * 1024;
/// Bytes of an agent's source that is uploaded to be built.
pub const SOURCE_BYTES: u64 = 256 * 1024 * 1024;
/// Bytes of a built package.
pub const LAYER_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// What package managers fetched, kept for the next build of an agent.
pub const BUILD_CACHE_BYTES: u64 = 512 * 1024 * 1024;
/// Seconds the source of a build may take on its way from its repository.
pub const BUILD_SOURCE_SECONDS: u32 = 600;
/// Bytes of the log of one build; what comes behind them is cut, and the log says so.
pub const BUILD_LOG_BYTES: usize = 4 * 1024 * 1024;
/// Times a build is begun when what is around it breaks.
pub const BUILD_ATTEMPTS: i32 = 3;
/// Seconds until a build's computer must be up.
pub const BUILD_COMPUTER_SECONDS: u64 = 300;
/// Caches kept of the builds of one agent; the one used longest ago goes first.
pub const BUILD_CACHES: u32 = 2;
/// Bytes of a `wharf.toml`.
pub const MANIFEST_BYTES: usize = 64 * 1024;
/// Bytes of another file at the top of a package that is looked into, as its package.json.
pub const MANIFEST_SOURCE_BYTES: usize = 256 * 1024;
/// Build commands of one package.
pub const BUILD_COMMANDS: usize = 64;
/// Bytes of one build command.
pub const BUILD_COMMAND_BYTES: usize = 16 * 1024;
/// Hosts that an egress list of a `wharf.toml` may name.
pub const MANIFEST_HOSTS: usize = 256;
/// Secrets that a package may want.
pub const MANIFEST_SECRETS: usize = 64;
/// Seconds the commands of a build may take, when its `wharf.toml` does not say.
pub const BUILD_SECONDS: u32 = 1800;
/// Seconds a `wharf.toml` may ask for.
pub const BUILD_MAX_SECONDS: u32 = 24 * 3600;
/// Days that the log of an ended build is kept.
pub const BUILD_LOG_DAYS: u64 = 31;
/// Days that an ended build is kept which no version came of, or whose version is gone. An agent's newest stays.
pub const BUILD_DAYS: u64 = 92;
/// Agents of one session.
pub const SESSION_AGENTS: usize = 16;
/// Times the agents of a session may hand one turn over.
pub const HANDOVERS: usize = 8;
/// Bytes of one secret's value.
pub const SECRET_BYTES: usize = 64 * 1024;
/// Entries of a page when the caller does not say.
pub const PAGE_DEFAULT: u32 = 50;
/// Entries of a page at the most.
pub const PAGE_MAX: u32 = 500;
/// Characters of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS: usize = 255;
/// Hours an idempotency key is kept.
pub const IDEMPOTENCY_HOURS: u32 = 24;
/// Queued messages of one session.
pub const QUEUED_MESSAGES: u32 = 1000;
/// Seconds an `exec` may run when the caller does not say.
pub const EXEC_TIMEOUT_SECONDS: u32 = 600;
/// Seconds an `exec` may run at the most in the foreground.
pub const EXEC_TIMEOUT_MAX_SECONDS: u32 = 86_400;
/// Bytes of stdout and of stderr an `exec` answers; longer output is read through processes and files.
pub const EXEC_OUTPUT_BYTES: usize = 4 * 1024 * 1024;
/// Seconds after the last use until an idle session closes, when the caller does not say.
pub const IDLE_TIMEOUT_SECONDS: u32 = 900;
/// Seconds a turn may take, when the caller does not say.
pub const TURN_TIMEOUT_SECONDS: u32 = 3600;
/// Seconds a client may take to send the head of a request.
pub const HEAD_SECONDS: u64 = 30;
/// Connections a listener serves at a time; more wait in the kernel's queue.
pub const LISTENER_CONNECTIONS: usize = 4096;
/// Seconds `wait=` holds an answer at the most.
pub const WAIT_SECONDS: u32 = 300;
/// Seconds between comment lines of an idle event stream.
pub const SSE_KEEPALIVE_SECONDS: u64 = 15;
/// Bytes of a session's environment, names and values together.
pub const ENV_BYTES: usize = 64 * 1024;
/// Patterns in a session's `network.allow`.
pub const EGRESS_PATTERNS: usize = 256;
/// Connections of a space.
pub const CONNECTIONS: usize = 256;
/// Bytes of instructions, of a setup script, and of metadata.
pub const TEXT_BYTES: usize = 256 * 1024;
/// Bytes of a request to a model provider.
pub const MODEL_REQUEST_BYTES: usize = 32 * 1024 * 1024;
/// Requests to model providers that one session may have open at a time.
pub const MODEL_REQUESTS_OPEN: usize = 32;
/// Bytes of requests to model providers that one session may have waiting for an answer.
pub const MODEL_REQUESTS_BYTES: usize = 64 * 1024 * 1024;
/// Policies of a space, and rules of one.
pub const POLICIES: usize = 64;
pub const POLICY_RULES: usize = 64;
/// Approvals that one session may have waiting.
pub const APPROVALS_PENDING: u32 = 32;
/// Bytes of a question to the guardrails, of an answer of a model that is held back until it is judged, and of a request's body
/// that is part of what a yes is for.
pub const GUARD_BYTES: usize = 8 * 1024 * 1024;
/// Questions to the guardrails that one session may have open at a time, and bytes of them; the same again for bodies of
/// requests that wait for a yes.
pub const GUARD_OPEN: usize = 64;
pub const GUARD_OPEN_BYTES: usize = 16 * 1024 * 1024;
/// How often the gateway may try a request to a model provider again.
pub const MODEL_RETRIES: u8 = 10;
/// Requests and connections to the ports of one session at a time, on one server.
pub const PORT_CONNECTIONS: usize = 128;
/// Bytes of the head of a request to a port, and of its answer.
pub const PORT_HEAD_BYTES: usize = 64 * 1024;
/// Bytes of the body of a request to a port.
pub const PORT_BODY_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Seconds a program in a session has to begin its answer.
pub const PORT_ANSWER_SECONDS: u64 = 300;
/// Seconds a request waits for something to listen on its port.
pub const PORT_LISTEN_SECONDS: u64 = 2;
/// Seconds it waits for that after the session was restored, since a restore starts no program again.
pub const PORT_WAKE_SECONDS: u64 = 20;
/// Seconds for which nothing may be said on a connection to a port.
pub const PORT_IDLE_SECONDS: u64 = 3600;
/// Seconds a link to a port is valid, when the caller does not say.
pub const PORT_LINK_SECONDS: u32 = 3600;
/// Seconds a link to a port is valid at the most.
pub const PORT_LINK_MAX_SECONDS: u32 = 86_400;
/// Files of one published copy.
pub const PUBLISHED_FILES: usize = 10_000;
/// Bytes of one published copy.
pub const PUBLISHED_BYTES: u64 = 1024 * 1024 * 1024;
/// Paths published at once.
pub const PUBLISHED_PATHS: usize = 64;
/// Seconds a link to a published copy is valid, when the caller does not say.
pub const PUBLISHED_LINK_SECONDS: u32 = 86_400;
/// Seconds a link to a published copy is valid, and a published copy kept when it is to go by itself, at the most.
pub const PUBLISHED_MAX_SECONDS: u32 = 31_536_000;
/// Bytes of a scripted provider's script.
pub const SCRIPT_BYTES: usize = 1024 * 1024;
/// Git repositories of a space.
pub const REPOS: usize = 1000;
/// Patterns of protected branches of one repository.
pub const REPO_PROTECTED: usize = 64;
/// Refs that one push may change.
pub const PUSH_REFS: usize = 2000;
/// Seconds nothing may be said between a git client and its git before both are let go.
pub const GIT_IDLE_SECONDS: u64 = 300;

#[cfg(test)]
mod tests;
