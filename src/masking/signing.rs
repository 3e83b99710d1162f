//! The installation's own key, which masked bases are signed with: Ed25519, made at the first masked import, never leaving its node.
//!
//! `<data_dir>/installation.key`, mode 0600: a PKCS#8 document as `ring` writes it. A node that only serves needs the public half, which
//! `trusted_signers` names.

use super::MaskingError;
use crate::model::{BaseManifest, MaskingSeal, MaskingStatement};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const FILE: &str = "installation.key";

/// The private half.
pub(super) struct InstallationKey(Ed25519KeyPair);

impl InstallationKey {
    /// Reads the key of the installation at `data_dir`, or makes it. Blocks.
    pub(super) fn load_or_create(data_dir: &Path) -> Result<InstallationKey, MaskingError> {
        let path = data_dir.join(FILE);
        let failed = |what: &str| MaskingError::io(format!("cannot {what} the installation's key {}", path.display()));
        let document = match std::fs::read(&path) {
            Ok(document) => document,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                    .map_err(|_| failed("make")(std::io::Error::other("the system has no randomness")))?;
                // Whole under its name, or not there at all.
                let draft = path.with_extension(format!("key.{}", std::process::id()));
                let write = || {
                    let mut file =
                        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
                    file.write_all(document.as_ref())?;
                    file.sync_all()?;
                    std::fs::hard_link(&draft, &path).or_else(|e| if path.exists() { Ok(()) } else { Err(e) })?;
                    std::fs::remove_file(&draft)?;
                    std::fs::read(&path)
                };
                write().map_err(failed("write"))?
            }
            Err(e) => return Err(failed("read")(e)),
        };
        let pair = Ed25519KeyPair::from_pkcs8(&document)
            .map_err(|_| failed("use")(std::io::Error::other("it is no Ed25519 key; restore it from a backup")))?;
        Ok(InstallationKey(pair))
    }

    /// The public half, in hexadecimal.
    pub(super) fn public(&self) -> String {
        hexadecimal(self.0.public_key().as_ref())
    }

    pub(super) fn seal(&self, manifest: &BaseManifest, statement: MaskingStatement) -> MaskingSeal {
        let signature = self.0.sign(&MaskingSeal::signed_bytes(manifest, &statement));
        MaskingSeal { statement, signer: self.public(), signature: hexadecimal(signature.as_ref()) }
    }
}

/// The public key of the installation at `data_dir`, if it has one.
pub(super) fn public_key(data_dir: &Path) -> Result<Option<String>, MaskingError> {
    match data_dir.join(FILE).exists() {
        true => InstallationKey::load_or_create(data_dir).map(|key| Some(key.public())),
        false => Ok(None),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
