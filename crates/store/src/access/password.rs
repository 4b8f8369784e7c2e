//! Passwords: argon2id, verified off the async threads, few at a time.
//!
//! Each verification takes tens of milliseconds and 19 MiB by design, so their number at once is bounded.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;
use wharf_domain::{Code, Error, Plain};

/// Shorter ones are guessed; longer ones cost the hash nothing but bound what it reads.
const MIN: usize = 8;
const MAX: usize = 1024;
/// At once; more wait their turn.
static TURN: Semaphore = Semaphore::const_new(2);
/// What unknown accounts are verified against, so that they take as long as known ones. Same cost parameters.
static NOBODY: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();

pub(crate) fn check(password: &Plain) -> Result<(), Error> {
    let length = password.expose_str().map_or(0, |p| p.chars().count());
    if length < MIN || password.len() > MAX {
        return Err(Error::new(
            Code::InvalidField,
            format!("a password has at least {MIN} characters and at most {MAX} bytes of UTF-8"),
        )
        .field("password"));
    }
    Ok(())
}

pub(crate) async fn hash(password: &Plain) -> Result<String, Error> {
    let password = password.clone();
    work(move || {
        Argon2::default()
            .hash_password(password.expose())
            .map(|h| h.to_string())
            .map_err(|e| Error::internal(e.to_string()))
    })
    .await
}

/// `None` (no such account, or one without a password) takes as long and is never right.
pub(crate) async fn verify(password: &Plain, stored: Option<&str>) -> Result<bool, Error> {
    let nobody = NOBODY.get_or_try_init(|| async { hash(&Plain::new("nobody")).await }).await?;
    let known = stored.is_some();
    let text = stored.unwrap_or(nobody).to_owned();
    // Longer ones are never stored; do not let them be hashed either.
    let password = if password.len() > MAX { Plain::new("") } else { password.clone() };
    let right = work(move || {
        let parsed = PasswordHash::new(&text).map_err(|e| Error::internal(e.to_string()))?;
        Ok(Argon2::default().verify_password(password.expose(), &parsed).is_ok())
    })
    .await?;
    Ok(right && known)
}

async fn work<T: Send + 'static>(f: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let _turn = TURN.acquire().await.map_err(Error::internal)?;
    tokio::task::spawn_blocking(f).await.map_err(Error::internal)?
}

/// 24 characters without look-alikes: about 138 bits.
pub(crate) fn random() -> Result<Plain, Error> {
    const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    let mut out = Vec::with_capacity(24);
    let mut bytes = [0u8; 64];
    while out.len() < 24 {
        getrandom::fill(&mut bytes).map_err(|e| Error::internal(e.to_string()))?;
        // Bytes past the last whole multiple would make some letters likelier.
        let fair = 256 - 256 % ALPHABET.len();
        out.extend(
            bytes.iter().filter(|b| (**b as usize) < fair).map(|b| ALPHABET[*b as usize % ALPHABET.len()]),
        );
    }
    out.truncate(24);
    Ok(Plain::new(out))
}
