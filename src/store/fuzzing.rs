//! What fuzzing throws at the readers of what the catalog and the collector keep (`fuzz/`, and `pageserver::fuzzing` for how).

use super::collect::references;
use super::document::{self, Document};
use super::keys::Key;
use super::pins::Pin;
use crate::model::{BaseManifest, BranchHead, BranchManifest, ProjectHead};

const KEY: &str = "v1/project/shop/branch/a/head";

/// Heads of projects and branches, and pins: JSON with a sum, and without.
pub fn head(data: &[u8]) -> bool {
    summed::<ProjectHead>(data) | summed::<BranchHead>(data) | summed::<Pin>(data)
}

fn summed<T: Document>(data: &[u8]) -> bool {
    let Ok(read) = document::decode_head::<T>(KEY, data) else { return false };
    let written = document::encode_head(KEY, &read);
    let again = document::decode_head::<T>(KEY, &written).expect("what was written is read");
    assert_eq!(document::encode_head(KEY, &again), written);
    true
}

/// Manifests of bases and branches: compressed as they are, and what is in them.
pub fn manifest(data: &[u8]) -> bool {
    let stored = document::decode::<BranchManifest>(KEY, data).is_ok();
    stored | within::<BaseManifest>(data) | within::<BranchManifest>(data)
}

fn within<T: Document>(json: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(json) else { return false };
    let written = document::encode(&read);
    let again = document::decode::<T>(KEY, &written);
    assert!(read.format() > T::NEWEST || again.is_ok_and(|again| document::encode(&again) == written));
    true
}

/// What the collector reads of any document: the keys in it; and what a key says.
pub fn keys(data: &[u8]) -> bool {
    let found = references(data).unwrap_or_default();
    let text = String::from_utf8_lossy(data);
    let known = |key: &str| Key::parse(key) != Key::Unknown;
    found.iter().any(|key| known(key)) | known(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::corpus::replay;
    use crate::model::{
        BaseId, BranchId, BranchRef, Cluster, Entropy, Image, ImagePack, LayerRef, ManifestRef, Nonce, SealedBase,
        TreeDiff, WalSegment,
    };
    use crate::store::keys::base_pack;

    fn branch_manifest() -> BranchManifest {
        BranchManifest {
            format: BranchManifest::FORMAT,
            branch: BranchId::from("i"),
            base: BaseId::from("b"),
            image: Some(Image {
                index: "v1/branch/i/index/1-1-n".to_owned(),
                index_bytes: 500,
                packs: vec![ImagePack {
                    key: "v1/branch/i/pack/1-2-n".to_owned(),
                    owner: "branch/i/index/1-1-n".to_owned(),
                    bytes: 5000,
                }],
                last_file_id: 40,
                files: 20,
                logical_bytes: 1 << 20,
            }),
            layers: vec![LayerRef { key: "v1/branch/i/layer/1-1-n".to_owned(), bytes: 4000, pages: 3 }],
            tree: TreeDiff::default(),
            wal: vec![WalSegment { name: "000000010000000000000001".to_owned(), size: 16 << 20, pages: vec![0, 7] }],
            databases: Vec::new(),
            roles: Vec::new(),
        }
    }

    #[test]
    fn heads_of_the_corpus() {
        let branch: BranchRef = "shop@a".parse().expect("a name");
        let (entropy, base) = (Entropy::seeded(1), BaseId::from("b1"));
        let of_branch = BranchHead::of_base(&branch, BranchId::from("i"), (base.clone(), 1), 1, 1_700_000_000_000);
        let sealed = SealedBase { id: base, version: 1, sealed_at_ms: 1_700_000_000_000 };
        let nonce = Nonce::random(&entropy);
        let of_project = ProjectHead { format: ProjectHead::FORMAT, nonce, bases: vec![sealed] };
        let manifest = ManifestRef { key: "v1/branch/i/manifest/1-1-n".to_owned(), sha256: "00".repeat(32) };
        let pin = Pin { format: Pin::FORMAT, manifest, child: BranchId::from("c"), pinned_at_ms: 1_700_000_000_000 };
        let samples = [
            document::encode_head(KEY, &of_branch).to_vec(),
            document::encode_head(KEY, &of_project).to_vec(),
            serde_json::to_vec(&pin).expect("serializes"),
        ];
        replay("head", head, &samples);
    }

    #[test]
    fn manifests_of_the_corpus() {
        let of_base = BaseManifest {
            format: BaseManifest::FORMAT,
            project: "shop".parse().expect("a name"),
            id: BaseId::from("b"),
            created_at_ms: 1_700_000_000_000,
            source: "a directory".to_owned(),
            cluster: Cluster {
                major: 15,
                server_version: "15.8".to_owned(),
                superuser: "postgres".to_owned(),
                databases: Vec::new(),
                roles: Vec::new(),
                settings: [("port".to_owned(), "5432".to_owned())].into(),
            },
            wal: vec![WalSegment { name: "000000010000000000000001".to_owned(), size: 16 << 20, pages: vec![0] }],
            packs: vec![crate::model::PackRef { number: 0, bytes: 5000 }],
            index_bytes: 300,
            last_file_id: 900,
            files: 800,
            logical_bytes: 1 << 20,
            stored_bytes: 5300,
            masking: None,
        };
        let of_branch = branch_manifest();
        let samples = [
            document::encode(&of_branch).to_vec(),
            serde_json::to_vec(&of_branch).expect("serializes"),
            serde_json::to_vec(&of_base).expect("serializes"),
        ];
        replay("manifest", manifest, &samples);
    }

    #[test]
    fn keys_of_the_corpus() {
        let json = serde_json::to_vec(&branch_manifest()).expect("serializes");
        let key = base_pack(&"shop".parse().expect("a name"), &BaseId::from("b"), 3);
        replay("keys", keys, &[json, key.into_bytes()]);
    }
}
