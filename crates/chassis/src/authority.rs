//! The certificate authority of a space: what its sessions trust beside the world's, and the gateway answers with for
//! hosts of a connection.
//!
//! Its key is made once, kept sealed and leaves the store to the gateway alone. It is nobody's authority outside the
//! sessions of its space.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use wharf_domain::egress::Host;
use wharf_domain::{Plain, SpaceId, Time};

/// How long an authority is good for, and what it signs. Sessions get a new leaf long before.
const AUTHORITY: Duration = Duration::from_secs(20 * 365 * 86_400);
const LEAF: Duration = Duration::from_secs(30 * 86_400);
/// Clocks inside and outside are one clock; this is for certificates that are compared by the day.
const BEFORE: Duration = Duration::from_secs(86_400);

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the key of the space's authority is not text")]
    Key,
}

/// A new authority: its certificate and its key, both PEM.
pub struct Made {
    pub certificate: String,
    pub key: Plain,
}

/// One that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Of every leaf: the gateway is one server, whatever name it answers for.
    leaf_key: KeyPair,
}

/// What a server shows: its certificate and key, DER (the key PKCS #8).
pub struct Leaf {
    pub certificate: Vec<u8>,
    pub key: Plain,
}

/// A moment as the certificate library has it.
macro_rules! stamp {
    ($at:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis($at.millis().max(0) as u64)
    };
}

fn params(space: SpaceId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Wharf");
    params.distinguished_name.push(DnType::CommonName, format!("Wharf space {space}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Makes the authority of a space.
pub fn make(space: SpaceId, now: Time) -> Result<Made, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = params(space);
    params.not_before = stamp!(now) - BEFORE;
    params.not_after = stamp!(now) + AUTHORITY;
    let certificate = params.self_signed(&key)?;
    Ok(Made { certificate: certificate.pem(), key: Plain::new(key.serialize_pem()) })
}

impl Authority {
    /// Of the key as [`make`] gave it.
    pub fn open(space: SpaceId, key: &Plain) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key.expose_str().ok_or(AuthorityError::Key)?)?;
        Ok(Self { issuer: Issuer::new(params(space), key), leaf_key: KeyPair::generate()? })
    }

    /// A certificate for one host.
    pub fn leaf(&self, host: &Host, now: Time) -> Result<Leaf, AuthorityError> {
        let name = match host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        };
        let mut params = CertificateParams::new(vec![name.clone()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        // A common name has up to 64 characters (X.520); what counts is the name above.
        let common = if name.len() <= 64 { name } else { "Wharf gateway".to_owned() };
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_before = stamp!(now) - BEFORE;
        params.not_after = stamp!(now) + LEAF;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&self.leaf_key, &self.issuer)?;
        Ok(Leaf { certificate: certificate.der().to_vec(), key: Plain::new(self.leaf_key.serialize_der()) })
    }
}
