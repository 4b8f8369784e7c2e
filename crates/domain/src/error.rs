//! One error shape for every edge: a code from a closed set, a message for the caller and a cause for the log.
//!
//! The codes are API: they drive HTTP status, CLI exit codes and client retries. Each has its line of documentation.

use std::fmt;

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal, $status:literal, $retry:literal;)*) => {
        /// Machine-readable reason of a problem. Closed set: a client may match on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum Code { $($(#[doc = $doc])+ #[serde(rename = $text)] $variant),* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// The HTTP status this code answers with (RFC 9110).
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),* }
            }

            /// Whether the same request may succeed later without a change.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry),* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),* }
            }
        }
    };
}

codes! {
    /// The body or query could not be read.
    BadRequest = "bad_request", 400, false;
    /// A field or parameter is not known.
    UnknownField = "unknown_field", 422, false;
    /// A field's value is not allowed.
    InvalidField = "invalid_field", 422, false;
    /// A name is not a DNS label.
    InvalidName = "invalid_name", 422, false;
    /// The request names something that is not there.
    InvalidReference = "invalid_reference", 422, false;
    /// No valid credential came with the request.
    Unauthenticated = "unauthenticated", 401, false;
    /// The credential was valid once and is no more.
    TokenExpired = "token_expired", 401, false;
    /// The caller may know of this but not do that.
    Forbidden = "forbidden", 403, false;
    /// There is nothing of that name the caller may know of.
    NotFound = "not_found", 404, false;
    /// The path knows no such method.
    MethodNotAllowed = "method_not_allowed", 405, false;
    /// The name is taken.
    AlreadyExists = "already_exists", 409, false;
    /// The thing is not in a state that allows this.
    InvalidState = "invalid_state", 409, false;
    /// Something else still uses it.
    InUse = "in_use", 409, false;
    /// The idempotency key was used with another body.
    IdempotencyMismatch = "idempotency_mismatch", 409, false;
    /// A request with this idempotency key is still running.
    InProgress = "in_progress", 409, true;
    /// The lease is held by another; its fencing token is newer.
    LeaseLost = "lease_lost", 409, false;
    /// The thing changed since the version given.
    PreconditionFailed = "precondition_failed", 412, false;
    /// The body is over its limit.
    TooLarge = "too_large", 413, false;
    /// The body's media type is not understood here.
    UnsupportedMediaType = "unsupported_media_type", 415, false;
    /// The byte range lies outside the file.
    RangeNotSatisfiable = "range_not_satisfiable", 416, false;
    /// A quota of the space has no room for this.
    QuotaExceeded = "quota_exceeded", 422, false;
    /// The runtime cannot keep this promise.
    Unsupported = "unsupported", 422, false;
    /// Too many requests or attempts.
    RateLimited = "rate_limited", 429, true;
    /// Something broke inside; the request id finds it in the log.
    Internal = "internal", 500, false;
    /// What runs in the session did not answer as a server does.
    BadGateway = "bad_gateway", 502, true;
    /// A dependency is away for the moment.
    Unavailable = "unavailable", 503, true;
    /// It took longer than its limit.
    Timeout = "timeout", 504, true;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What crosses an edge: `public` goes to the caller, `internal` only to the log.
#[derive(Debug)]
pub struct Error {
    pub code: Code,
    /// Says what is wrong and what to do next, in the caller's words.
    pub public: String,
    /// Which field of the request is at fault, where one is.
    pub field: Option<String>,
    /// When to try again.
    pub retry_after: Option<std::time::Duration>,
    pub internal: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub fn new(code: Code, public: impl Into<String>) -> Self {
        Self { code, public: public.into(), field: None, retry_after: None, internal: None }
    }

    /// A defect or an unexpected fault: the caller learns only that it was logged.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(
            Code::Internal,
            "something broke inside; the request id finds the cause in the server's log",
        )
        .because(cause)
    }

    /// A dependency is away; the caller may retry.
    pub fn unavailable(what: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Unavailable, format!("{what} is away for the moment; try again"))
            .because(cause)
            .retry_after(std::time::Duration::from_secs(1))
    }

    pub fn not_found(kind: &str, name: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {kind} {name} that you may see"))
    }

    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.internal = Some(cause.into());
        self
    }

    #[must_use]
    pub fn retry_after(mut self, after: std::time::Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.public)?;
        if let Some(cause) = &self.internal {
            write!(f, " ({cause})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
