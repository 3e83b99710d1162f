//! The gate in front of a masked project: a branch is made of a base that was masked by the project's own rules, or of none.
//!
//! Asked whenever a branch is made, of what the base's manifest says of itself ([`MaskingSeal`]): that it was masked at all, by the rules that
//! are in force now, and that an installation which is trusted vouches for it. What cannot be told counts as no. Branches that
//! are there go on with what they were made of, by whatever rules it was masked; one of a raw base, from before the project was masked, does not.

use super::error::BranchError;
use crate::model::{BaseId, BaseManifest, BranchRef, MaskingSeal, MaskingStatement, ProjectName};
use ring::signature::{ED25519, UnparsedPublicKey};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// What masked bases a project takes. Both may change while a node runs. Calls block, shortly.
pub trait MaskingPolicy: Send + Sync {
    /// SHA-256 of the rules in force, in hexadecimal; the error says why they cannot be read.
    fn rules_sha256(&self) -> Result<String, String>;
    /// Ed25519 public keys of trusted installations, in hexadecimal.
    fn signers(&self) -> Vec<String>;
}

/// The policies of those projects that have masking.
#[derive(Clone, Default)]
pub struct MaskingPolicies(BTreeMap<ProjectName, (Arc<dyn MaskingPolicy>, bool)>);

impl MaskingPolicies {
    /// With `allow_raw`, what the policy refuses is let through, and noted.
    pub fn insert(&mut self, project: ProjectName, policy: Arc<dyn MaskingPolicy>, allow_raw: bool) {
        self.0.insert(project, (policy, allow_raw));
    }
}

#[derive(Default)]
pub(super) struct Gate {
    policies: MaskingPolicies,
    /// Bases whose signatures were verified.
    verified: Mutex<HashSet<BaseId>>,
}

impl Gate {
    pub(super) fn new(policies: MaskingPolicies) -> Gate {
        Gate { policies, verified: Mutex::default() }
    }

    /// Whether anything is asked of the bases of `project`.
    pub(super) fn is_before(&self, project: &ProjectName) -> bool {
        self.policies.0.contains_key(project)
    }

    /// Whether `branch` may be made of the base with `manifest`. Blocks, shortly.
    pub(super) fn admit(&self, branch: &BranchRef, manifest: &BaseManifest) -> Result<(), BranchError> {
        let Some((policy, allow_raw)) = self.policies.0.get(&branch.project) else { return Ok(()) };
        match self.judge(policy.as_ref(), manifest) {
            Ok(()) => Ok(()),
            Err(reason) if *allow_raw => {
                tracing::warn!(%branch, base = %manifest.id, reason, "audit: a branch is made of a raw base, as allow_raw says");
                Ok(())
            }
            Err(reason) => Err(BranchError::NotMasked { project: branch.project.to_string(), reason }),
        }
    }

    /// Whether `branch`, which is there, may go on, on the base with `manifest`. Blocks, shortly.
    pub(super) fn readmit(&self, branch: &BranchRef, manifest: &BaseManifest) -> Result<(), BranchError> {
        let Some((policy, allow_raw)) = self.policies.0.get(&branch.project) else { return Ok(()) };
        match self.judge_seal(policy.as_ref(), manifest) {
            Ok(_) => Ok(()),
            Err(reason) if *allow_raw => {
                tracing::warn!(%branch, base = %manifest.id, reason, "audit: a branch of a raw base is woken, as allow_raw says");
                Ok(())
            }
            Err(reason) => Err(BranchError::MadeOfRaw { branch: branch.to_string(), reason }),
        }
    }

    /// The error is why not.
    fn judge(&self, policy: &dyn MaskingPolicy, manifest: &BaseManifest) -> Result<(), String> {
        let seal = self.judge_seal(policy, manifest)?;
        let rules = policy.rules_sha256().map_err(|e| format!("the rules in force cannot be read: {e}"))?;
        if seal.statement.rules_sha256 != rules {
            return Err("its current base was masked by other rules than those in force".to_owned());
        }
        Ok(())
    }

    /// Whether the base is masked, by whatever rules.
    fn judge_seal<'m>(
        &self,
        policy: &dyn MaskingPolicy,
        manifest: &'m BaseManifest,
    ) -> Result<&'m MaskingSeal, String> {
        let seal = manifest.masking.as_ref().ok_or("its base is not masked")?;
        if seal.statement.format != MaskingStatement::FORMAT {
            return Err(format!(
                "its base is sealed in a format ({}) that this node does not know",
                seal.statement.format
            ));
        }
        if !policy.signers().contains(&seal.signer) {
            return Err(format!("its base is signed by {}, which is not among the trusted signers", seal.signer));
        }
        let is_known = self.verified.lock().unwrap_or_else(PoisonError::into_inner).contains(&manifest.id);
        if !is_known {
            verify(seal, manifest).ok_or("the signature of its base does not fit")?;
            self.verified.lock().unwrap_or_else(PoisonError::into_inner).insert(manifest.id.clone());
        }
        Ok(seal)
    }
}

fn verify(seal: &MaskingSeal, manifest: &BaseManifest) -> Option<()> {
    let (key, signature) = (bytes(&seal.signer)?, bytes(&seal.signature)?);
    let signed = MaskingSeal::signed_bytes(manifest, &seal.statement);
    UnparsedPublicKey::new(&ED25519, key).verify(&signed, &signature).ok()
}

fn bytes(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cluster, PackRef, ScanSummary};
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    struct Policy(Result<String, String>, Vec<String>);

    impl MaskingPolicy for Policy {
        fn rules_sha256(&self) -> Result<String, String> {
            self.0.clone()
        }

        fn signers(&self) -> Vec<String> {
            self.1.clone()
        }
    }

    fn hexadecimal(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn manifest() -> BaseManifest {
        BaseManifest {
            format: BaseManifest::FORMAT,
            project: "shop".parse().unwrap(),
            id: BaseId::from("base"),
            created_at_ms: 1,
            source: String::new(),
            cluster: Cluster {
                major: 15,
                server_version: String::new(),
                superuser: String::new(),
                databases: vec![],
                roles: vec![],
                settings: BTreeMap::new(),
            },
            wal: Vec::new(),
            packs: vec![PackRef { number: 0, bytes: 9 }],
            index_bytes: 1,
            last_file_id: 1,
            files: 1,
            logical_bytes: 1,
            stored_bytes: 1,
            masking: None,
        }
    }

    /// A sealed base, and the policy that takes it.
    fn sealed() -> (BaseManifest, Policy) {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let statement = MaskingStatement {
            format: MaskingStatement::FORMAT,
            version: "0".to_owned(),
            catalog_sha256: String::new(),
            rules_sha256: "rules".to_owned(),
            key_id: String::new(),
            tables: 1,
            rows: 1,
            scan: ScanSummary::default(),
            report_sha256: String::new(),
        };
        let mut manifest = manifest();
        let signature = hexadecimal(key.sign(&MaskingSeal::signed_bytes(&manifest, &statement)).as_ref());
        let signer = hexadecimal(key.public_key().as_ref());
        manifest.masking = Some(MaskingSeal { statement, signer: signer.clone(), signature });
        (manifest, Policy(Ok("rules".to_owned()), vec![signer]))
    }

    fn admit(manifest: &BaseManifest, policy: Policy, allow_raw: bool) -> Result<(), String> {
        let mut policies = MaskingPolicies::default();
        policies.insert("shop".parse().unwrap(), Arc::new(policy), allow_raw);
        let branch = BranchRef { project: "shop".parse().unwrap(), branch: "x".parse().unwrap() };
        Gate::new(policies).admit(&branch, manifest).map_err(|e| e.to_string())
    }

    #[test]
    fn a_base_masked_by_the_rules_in_force_is_taken() {
        let (manifest, policy) = sealed();
        admit(&manifest, policy, false).unwrap();
    }

    #[test]
    fn a_branch_that_is_there_goes_on_under_other_rules_and_not_of_a_raw_base() {
        let readmit = |manifest: &BaseManifest, policy: Policy, allow_raw| {
            let mut policies = MaskingPolicies::default();
            policies.insert("shop".parse().unwrap(), Arc::new(policy), allow_raw);
            let branch = BranchRef { project: "shop".parse().unwrap(), branch: "x".parse().unwrap() };
            Gate::new(policies).readmit(&branch, manifest).map_err(|e| e.to_string())
        };
        let (base, Policy(_, signers)) = sealed();
        readmit(&base, Policy(Ok("others".to_owned()), signers.clone()), false).unwrap();
        let raw = readmit(&manifest(), Policy(Ok("rules".to_owned()), signers.clone()), false).unwrap_err();
        assert!(raw.contains("not masked"), "{raw}");
        readmit(&manifest(), Policy(Ok("rules".to_owned()), signers), true).unwrap();
    }

    #[test]
    fn what_cannot_be_told_counts_as_no() {
        let (_, policy) = sealed();
        assert!(admit(&manifest(), policy, false).unwrap_err().contains("not masked"));
        let (base, Policy(_, signers)) = sealed();
        let other = Policy(Ok("others".to_owned()), signers.clone());
        assert!(admit(&base, other, false).unwrap_err().contains("other rules"));
        let unread = Policy(Err("gone".to_owned()), signers);
        assert!(admit(&base, unread, false).unwrap_err().contains("gone"));
        let (base, Policy(rules, _)) = sealed();
        assert!(admit(&base, Policy(rules, vec![]), false).unwrap_err().contains("trusted"));
    }

    #[test]
    fn a_seal_counts_under_its_own_base_only_and_as_it_was_signed() {
        let changes: [&dyn Fn(&mut BaseManifest); 6] = [
            &|manifest| manifest.id = BaseId::from("other"),
            &|manifest| manifest.packs[0].bytes += 1,
            &|manifest| manifest.logical_bytes += 1,
            &|manifest| manifest.masking.as_mut().unwrap().statement.rows += 1,
            &|manifest| manifest.masking.as_mut().unwrap().statement.key_id.push('x'),
            &|manifest| manifest.masking.as_mut().unwrap().signature = "zz".to_owned(),
        ];
        for change in changes {
            let (mut base, policy) = sealed();
            change(&mut base);
            assert!(admit(&base, policy, false).unwrap_err().contains("signature"));
        }
    }

    #[test]
    fn allow_raw_lets_anything_through() {
        let (_, policy) = sealed();
        admit(&manifest(), policy, true).unwrap();
    }
}
