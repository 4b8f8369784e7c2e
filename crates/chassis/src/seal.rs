//! Envelope encryption: what a secret looks like at rest.
//!
//! Every value has a data key of its own (XChaCha20-Poly1305), wrapped by a key-encryption key that lives outside
//! the database. Associated data binds both layers to the place the value belongs to, so a row copied elsewhere
//! does not open. Rotation rewraps the data key and leaves the payload's bytes as they are.
//!
//! Refuses: key files others can read, values out of their place, keys it does not hold (by name).

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as B64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use wharf_domain::Plain;
use zeroize::Zeroizing;

const NONCE: usize = 24;
const KEY: usize = 32;
const TAG: usize = 16;
/// First byte of both parts: a later format gets another number and both stay readable.
const FORMAT: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("the sealed value was made under key {0}, which the key file does not hold")]
    UnknownKey(String),
    #[error("the sealed value does not open: it was altered or belongs elsewhere")]
    Broken,
    #[error("key file {path}: {reason}")]
    KeyFile { path: PathBuf, reason: String },
    #[error("no randomness from the system: {0}")]
    Random(String),
    #[error("the key service: {0}")]
    Service(String),
}

/// A value as it is stored. `wrapped` changes with the key-encryption key, `payload` never does.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Name of the key-encryption key `wrapped` was made under.
    pub key_id: String,
    pub wrapped: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Holder of the key-encryption key: a file here, an external key service elsewhere.
pub trait Kek: Send + Sync + 'static {
    /// The key new values are wrapped under.
    fn active(&self) -> String;
    /// Wraps under the active key; answers its name and the wrapped bytes.
    fn wrap(&self, data_key: &[u8; KEY], context: &[u8]) -> Result<(String, Vec<u8>), SealError>;
    fn unwrap(&self, key_id: &str, wrapped: &[u8], context: &[u8])
    -> Result<Zeroizing<[u8; KEY]>, SealError>;
}

/// Seals and opens values. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<dyn Kek>);

impl Keyring {
    /// The key file of this installation; made with mode 0600 at the first start.
    pub fn load_or_create(path: &Path) -> Result<Self, SealError> {
        Ok(Self(Arc::new(KeyFile::load_or_create(path)?)))
    }

    pub fn new(kek: Arc<dyn Kek>) -> Self {
        Self(kek)
    }

    /// Name of the key new values are wrapped under.
    pub fn active(&self) -> String {
        self.0.active()
    }

    /// `context` names the place, for example `secret/<space id>/<name>`.
    pub fn seal(&self, plain: &Plain, context: &str) -> Result<Sealed, SealError> {
        let data_key = random::<KEY>()?;
        let nonce = random::<NONCE>()?;
        let cipher = XChaCha20Poly1305::new(&Key::from(*data_key));
        let body = cipher
            .encrypt(&XNonce::from(*nonce), Payload { msg: plain.expose(), aad: context.as_bytes() })
            .map_err(|_| SealError::Broken)?;
        let (key_id, wrapped) = self.0.wrap(&data_key, context.as_bytes())?;
        let mut payload = Vec::with_capacity(1 + NONCE + body.len());
        payload.push(FORMAT);
        payload.extend_from_slice(&*nonce);
        payload.extend_from_slice(&body);
        Ok(Sealed { key_id, wrapped, payload })
    }

    pub fn open(&self, sealed: &Sealed, context: &str) -> Result<Plain, SealError> {
        let data_key = self.0.unwrap(&sealed.key_id, &sealed.wrapped, context.as_bytes())?;
        let mut opened = open_with(&data_key, &sealed.payload, context.as_bytes())?;
        Ok(Plain::new(std::mem::take(&mut *opened)))
    }

    /// The same value under the active key; `None` when it already is.
    pub fn rewrap(&self, sealed: &Sealed, context: &str) -> Result<Option<Sealed>, SealError> {
        if sealed.key_id == self.0.active() {
            return Ok(None);
        }
        let data_key = self.0.unwrap(&sealed.key_id, &sealed.wrapped, context.as_bytes())?;
        let (key_id, wrapped) = self.0.wrap(&data_key, context.as_bytes())?;
        Ok(Some(Sealed { key_id, wrapped, payload: sealed.payload.clone() }))
    }
}

fn open_with(key: &[u8; KEY], sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let [FORMAT, rest @ ..] = sealed else { return Err(SealError::Broken) };
    if rest.len() < NONCE + TAG {
        return Err(SealError::Broken);
    }
    let (nonce, body) = rest.split_at(NONCE);
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| SealError::Broken)?;
    XChaCha20Poly1305::new(&Key::from(*key))
        .decrypt(&XNonce::from(nonce), Payload { msg: body, aad })
        .map(Zeroizing::new)
        .map_err(|_| SealError::Broken)
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, SealError> {
    let mut bytes = Zeroizing::new([0u8; N]);
    getrandom::fill(&mut *bytes).map_err(|e| SealError::Random(e.to_string()))?;
    Ok(bytes)
}

/// Key-encryption keys in a file of mode 0600: one `id base64` a line, the last one active.
pub struct KeyFile {
    path: PathBuf,
    keys: RwLock<Vec<(String, Zeroizing<[u8; KEY]>)>>,
}

impl KeyFile {
    pub fn load_or_create(path: &Path) -> Result<Self, SealError> {
        if !path.exists() {
            write_new(path, &[fresh_key()?])?;
        }
        let keys = read(path)?;
        Ok(Self { path: path.to_owned(), keys: RwLock::new(keys) })
    }

    /// Adds a key and makes it the active one. Older keys stay until everything is rewrapped.
    pub fn rotate(path: &Path) -> Result<String, SealError> {
        let mut keys = read(path)?;
        let key = fresh_key()?;
        let id = key.0.clone();
        keys.push(key);
        write_new(path, &keys)?;
        Ok(id)
    }

    /// Drops every key but the active one. Only after nothing is wrapped under the others.
    pub fn retire(path: &Path) -> Result<(), SealError> {
        let mut keys = read(path)?;
        let active = keys.pop().into_iter().collect::<Vec<_>>();
        write_new(path, &active)
    }

    /// Another process may have rotated: an unknown key is looked for in the file once more.
    fn find(&self, key_id: &str) -> Result<Zeroizing<[u8; KEY]>, SealError> {
        if let Some(key) = self.held(key_id) {
            return Ok(key);
        }
        let fresh = read(&self.path)?;
        *self.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        self.held(key_id).ok_or_else(|| SealError::UnknownKey(key_id.to_owned()))
    }

    fn held(&self, key_id: &str) -> Option<Zeroizing<[u8; KEY]>> {
        let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.iter().find(|(id, _)| id == key_id).map(|(_, k)| k.clone())
    }
}

impl Kek for KeyFile {
    fn active(&self) -> String {
        // A rotation by `wharf key rotate` is another process: the file decides, memory is its copy.
        if let Ok(fresh) = read(&self.path) {
            *self.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner) = fresh;
        }
        let keys = self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.last().map(|(id, _)| id.clone()).unwrap_or_default()
    }

    fn wrap(&self, data_key: &[u8; KEY], context: &[u8]) -> Result<(String, Vec<u8>), SealError> {
        let key_id = self.active();
        let kek = self.find(&key_id)?;
        let nonce = random::<NONCE>()?;
        let body = XChaCha20Poly1305::new(&Key::from(*kek))
            .encrypt(&XNonce::from(*nonce), Payload { msg: data_key, aad: &aad(&key_id, context) })
            .map_err(|_| SealError::Broken)?;
        let mut wrapped = vec![FORMAT];
        wrapped.extend_from_slice(&*nonce);
        wrapped.extend_from_slice(&body);
        Ok((key_id, wrapped))
    }

    fn unwrap(
        &self,
        key_id: &str,
        wrapped: &[u8],
        context: &[u8],
    ) -> Result<Zeroizing<[u8; KEY]>, SealError> {
        let kek = self.find(key_id)?;
        let opened = open_with(&kek, wrapped, &aad(key_id, context))?;
        let mut data_key = Zeroizing::new([0u8; KEY]);
        if opened.len() != KEY {
            return Err(SealError::Broken);
        }
        data_key.copy_from_slice(&opened);
        Ok(data_key)
    }
}

fn aad(key_id: &str, context: &[u8]) -> Vec<u8> {
    [b"wrap/", key_id.as_bytes(), b"/", context].concat()
}

type NamedKey = (String, Zeroizing<[u8; KEY]>);

fn fresh_key() -> Result<NamedKey, SealError> {
    Ok((hex::encode(*random::<6>()?), random()?))
}

fn refuse(path: &Path, reason: impl Into<String>) -> SealError {
    SealError::KeyFile { path: path.to_owned(), reason: reason.into() }
}

fn read(path: &Path) -> Result<Vec<NamedKey>, SealError> {
    let meta = std::fs::metadata(path).map_err(|e| refuse(path, e.to_string()))?;
    if meta.mode() & 0o077 != 0 {
        return Err(refuse(
            path,
            format!("others may read it (mode {:o}); chmod 600 it", meta.mode() & 0o777),
        ));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| refuse(path, e.to_string()))?);
    let mut keys = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let wrong = || refuse(path, format!("line {} is not `id base64-of-32-bytes`", n + 1));
        let (id, key) = line.trim().split_once(' ').ok_or_else(wrong)?;
        let bytes = Zeroizing::new(B64.decode(key).map_err(|_| wrong())?);
        let mut held = Zeroizing::new([0u8; KEY]);
        if bytes.len() != KEY {
            return Err(wrong());
        }
        held.copy_from_slice(&bytes);
        keys.push((id.to_owned(), held));
    }
    if keys.is_empty() {
        return Err(refuse(path, "it holds no key"));
    }
    Ok(keys)
}

/// Replaces the file whole, so a crash leaves the old one or the new one.
fn write_new(path: &Path, keys: &[NamedKey]) -> Result<(), SealError> {
    let io = |e: std::io::Error| refuse(path, e.to_string());
    let part = path.with_extension("new");
    let mut text = Zeroizing::new(String::new());
    for (id, key) in keys {
        text.push_str(id);
        text.push(' ');
        text.push_str(&Zeroizing::new(B64.encode(**key)));
        text.push('\n');
    }
    let _ = std::fs::remove_file(&part);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    file.sync_all().map_err(io)?;
    std::fs::rename(&part, path).map_err(io)?;
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::File::open(dir).and_then(|d| d.sync_all()).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
