//! Small stand-ins for what branches and imports put into a store, for the collector's tests.

use crate::model::{
    BaseId, BaseManifest, BranchHead, BranchId, BranchManifest, BranchRef, Cluster, Entropy, Holder, Image, ImagePack,
    LayerRef, ManifestRef, NodeId, Nonce, PackRef, ProjectName, TreeDiff, UnixMs, WalSegment,
};
use crate::store::{Catalog, Created, Held, StoreError, keys};
use std::collections::BTreeMap;

pub(super) fn project() -> ProjectName {
    "shop".parse().expect("a name")
}

pub(super) fn branch(name: &str) -> BranchRef {
    BranchRef { project: project(), branch: name.parse().expect("a name") }
}

fn wal() -> WalSegment {
    WalSegment { name: "0".repeat(24), size: 16 << 20, pages: Vec::new() }
}

/// Of a base with so many packs of [`put_packs`].
pub(super) fn base_manifest(id: &BaseId, packs: u32) -> BaseManifest {
    let cluster = Cluster {
        major: 15,
        server_version: "15.0".to_owned(),
        superuser: "postgres".to_owned(),
        databases: Vec::new(),
        roles: Vec::new(),
        settings: BTreeMap::new(),
    };
    BaseManifest {
        format: BaseManifest::FORMAT,
        project: project(),
        id: id.clone(),
        created_at_ms: 0,
        source: "a test".to_owned(),
        cluster,
        wal: vec![wal()],
        packs: (0..packs).map(|number| PackRef { number, bytes: 4 }).collect(),
        index_bytes: 5,
        last_file_id: 0,
        files: 0,
        logical_bytes: 0,
        stored_bytes: 0,
        masking: None,
    }
}

/// What an import puts before it seals.
pub(super) async fn put_packs(catalog: &Catalog, id: &BaseId, count: u32) -> Result<(), StoreError> {
    for number in 0..count {
        catalog.store().create(&keys::base_pack(&project(), id, number), b"pack".to_vec()).await?;
    }
    catalog.store().create(&keys::base_index(&project(), id), b"index".to_vec()).await
}

pub(super) fn head(name: &str, base: &BaseId, epoch: u64, entropy: &Entropy, now: UnixMs) -> BranchHead {
    let mut head = BranchHead::of_base(&branch(name), BranchId::random(entropy), (base.clone(), 1), epoch, now);
    (head.holder, head.dirty) = (Some(Holder { node: NodeId::from("n"), lease_until_ms: 0 }), true);
    head
}

pub(super) async fn create(catalog: &Catalog, head: BranchHead) -> Result<Held, StoreError> {
    match catalog.create_branch(head).await? {
        Created::New(held) | Created::Existing(held) => Ok(held),
    }
}

/// Makes `held` this node's in a new epoch.
pub(super) async fn take(catalog: &Catalog, held: &Held) -> Result<Held, StoreError> {
    let take = |head: &mut BranchHead| {
        (head.epoch, head.holder, head.dirty) =
            (head.epoch + 1, Some(Holder { node: NodeId::from("n"), lease_until_ms: 0 }), true);
    };
    catalog.update_branch(held, take).await
}

/// Puts `count` layers and a manifest of them and of `former`, as a suspend does before it publishes.
pub(super) async fn upload(
    catalog: &Catalog,
    held: &Held,
    former: Vec<LayerRef>,
    count: u64,
    entropy: &Entropy,
) -> Result<ManifestRef, StoreError> {
    upload_over(catalog, held, (None, former), count, entropy).await
}

/// Puts the index of an image and one pack of it, which go on needing a pack of `former`.
pub(super) async fn put_image(
    catalog: &Catalog,
    held: &Held,
    former: Option<Image>,
    entropy: &Entropy,
) -> Result<Image, StoreError> {
    let (head, nonce) = (&held.head, Nonce::random(entropy));
    let index = keys::image_index(&head.id, head.epoch, head.seq, &nonce);
    let pack = keys::image_pack(&head.id, head.epoch, head.seq, &nonce);
    for key in [&pack, &index] {
        catalog.store().create(key, b"image".to_vec()).await?;
    }
    let own = ImagePack { key: pack, owner: Image::owner_of(&index).to_owned(), bytes: 5 };
    let packs = former.into_iter().filter_map(|former| former.packs.into_iter().next_back()).chain([own]).collect();
    Ok(Image { index, index_bytes: 5, packs, last_file_id: 30, files: 1, logical_bytes: 8192 })
}

/// As [`upload`], over an image.
pub(super) async fn upload_over(
    catalog: &Catalog,
    held: &Held,
    (image, former): (Option<Image>, Vec<LayerRef>),
    count: u64,
    entropy: &Entropy,
) -> Result<ManifestRef, StoreError> {
    let head = &held.head;
    let mut layers = former;
    for number in 0..count {
        let key = keys::layer(&head.id, head.epoch, head.seq + number, &Nonce::random(entropy));
        catalog.store().create(&key, b"layer".to_vec()).await?;
        layers.push(LayerRef { key, bytes: 5, pages: 1 });
    }
    let manifest = BranchManifest {
        format: BranchManifest::format_with(image.as_ref()),
        branch: head.id.clone(),
        base: head.base.clone(),
        image,
        layers,
        tree: TreeDiff::default(),
        wal: vec![wal()],
        databases: Vec::new(),
        roles: Vec::new(),
    };
    let key = keys::manifest(&head.id, head.epoch, head.seq + 1, &Nonce::random(entropy));
    Ok(catalog.create_manifest(key, &manifest).await?.0)
}

/// Publishes an upload; asleep afterwards unless `awake`.
pub(super) async fn publish(
    catalog: &Catalog,
    held: &Held,
    manifest: ManifestRef,
    awake: bool,
) -> Result<Held, StoreError> {
    let publish = |head: &mut BranchHead| {
        head.manifest = Some(manifest);
        if !awake {
            (head.holder, head.dirty) = (None, false);
        }
    };
    catalog.update_branch(held, publish).await
}
