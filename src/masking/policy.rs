//! Which masked bases a project takes, for the gate in front of its branches: those made by the rules in force and signed by this installation or
//! one that the config names.

use super::rules::Rules;
use super::{MaskingError, signing};
use crate::branch::{MaskingPolicies, MaskingPolicy};
use crate::settings::Settings;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The policies of all projects with masking. Rules that cannot be read are an error at once, so that a node does not start with them.
pub fn policies(settings: &Settings) -> Result<MaskingPolicies, MaskingError> {
    let mut policies = MaskingPolicies::default();
    for project in &settings.projects {
        let Some(rules) = &project.masking else { continue };
        let policy = Policy {
            rules: rules.clone(),
            data_dir: settings.server.data_dir.clone(),
            trusted: project.trusted_signers.iter().map(|key| key.to_lowercase()).collect(),
            known: Mutex::new(None),
        };
        policy.read()?;
        policies.insert(project.name.clone(), Arc::new(policy), project.allow_raw);
    }
    Ok(policies)
}

struct Policy {
    rules: PathBuf,
    data_dir: PathBuf,
    trusted: Vec<String>,
    /// The fingerprint of the rules as of a change of their file.
    known: Mutex<Option<((SystemTime, u64), String)>>,
}

impl Policy {
    fn read(&self) -> Result<String, MaskingError> {
        let failed = |source| MaskingError::ReadRules { path: self.rules.clone(), source };
        let metadata = std::fs::metadata(&self.rules).map_err(failed)?;
        let version = (metadata.modified().map_err(failed)?, metadata.len());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fingerprint)) = known.as_ref().filter(|(at, _)| *at == version) {
            return Ok(fingerprint.clone());
        }
        let fingerprint = Rules::load(&self.rules)?.fingerprint();
        *known = Some((version, fingerprint.clone()));
        Ok(fingerprint)
    }
}

impl MaskingPolicy for Policy {
    fn rules_sha256(&self) -> Result<String, String> {
        self.read().map_err(|e| e.to_string())
    }

    fn signers(&self) -> Vec<String> {
        let own = signing::public_key(&self.data_dir).inspect_err(|error| tracing::error!(%error)).ok().flatten();
        self.trusted.iter().cloned().chain(own).collect()
    }
}
