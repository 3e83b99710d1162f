//! Uploads of a simulated node, cut into the steps between which anything may happen: freeze or stop, each layer, the manifest, the head.

use super::node::{Around, Live, Node, Trouble};
use super::oracle::Upload;
use crate::branch::hold::HoldError;
use crate::model::{
    BranchManifest, BranchRef, Entropy, Image, LayerRef, ManifestRef, Nonce, PAGE_SIZE, TreeDiff, UnixMs, WalSegment,
};
use crate::pageserver::tests::fixture::wal_pages;
use crate::pageserver::tests::model::Model;
use crate::pageserver::{ImageNames, PageError, Selection, Snapshot, build_image, build_snapshot_upload, build_upload};
use crate::store::simulated::SimulatedStore;
use crate::store::{Store, keys};
use rand::RngExt;
use std::collections::VecDeque;
use std::path::Path;

/// More than production keeps, so that merges come early and late.
const MAX_LAYERS: usize = 16;

/// What is still to be put of an upload.
pub(super) struct Uploading {
    /// Of a branch that goes on being written; `None`: of a stopped one.
    snapshot: Option<Snapshot>,
    puts: VecDeque<(String, Vec<u8>)>,
    image: Option<Image>,
    kept: Vec<LayerRef>,
    layers: Vec<LayerRef>,
    tree: TreeDiff,
    wal: Vec<u8>,
    moment: Model,
    changes: u64,
    seq: u64,
    began_ms: UnixMs,
    reference: Option<(ManifestRef, u64)>,
}

impl Node<'_> {
    /// Freezes a running branch. It goes on being written.
    pub(super) fn begin_upload(&mut self, branch: &BranchRef, around: &mut Around) {
        self.calm_pages();
        let (runtime, nonce) = (self.fixture.runtime.handle().clone(), Nonce::random(&self.entropy));
        let live = self.live.get_mut(branch).expect("it is up");
        let (all, wal) = (around.chance(25), wal_pages(&mut around.random));
        let uploaded = live.run.volume().uploaded();
        let all = all || uploaded.len() + live.run.layers.len() >= MAX_LAYERS;
        let frozen = live.run.volume().freeze(all, &runtime, || Ok::<_, PageError>(()));
        let (snapshot, ()) = frozen.expect("it can be frozen");
        let (moment, changes) = (live.run.model.latest(), live.changes);
        for _ in 0..around.random.random_range(0..6) {
            live.run.step();
            live.changes += 1;
        }
        let head = &live.held.head;
        let key = |number: usize| keys::layer(&head.id, head.epoch, head.seq + number as u64, &nonce);
        let mut puts = VecDeque::new();
        let layers = build_snapshot_upload(&snapshot, &wal, key, &mut |layer, bytes| {
            puts.push_back((layer.key, bytes));
            Ok(())
        });
        let kept = live.run.layers.iter().cloned().chain(uploaded.into_iter().filter(|_| !all)).collect();
        live.upload = Some(Uploading {
            puts,
            image: live.run.image.clone(),
            kept,
            layers: layers.expect("it can be built"),
            tree: snapshot.tree().clone(),
            snapshot: Some(snapshot),
            wal,
            moment,
            changes,
            seq: head.seq,
            began_ms: self.hold.clock.now(),
            reference: None,
        });
    }

    /// Stops a branch and builds what a suspend puts.
    pub(super) fn begin_suspend(&mut self, branch: &BranchRef, around: &mut Around) {
        self.calm_pages();
        let (runtime, nonce) = (self.fixture.runtime.handle().clone(), Nonce::random(&self.entropy));
        let live = self.live.get_mut(branch).expect("it is up");
        (live.stopped, live.upload) = (true, None);
        live.run.forget_all();
        let (wal, uploaded) = (wal_pages(&mut around.random), live.run.volume().uploaded());
        let origin = live.run.layers.clone();
        let selection = match origin.len() + uploaded.len() >= MAX_LAYERS || around.chance(15) {
            true => Selection { all: true, merge_from: around.random.random_range(0..=origin.len() / 2) },
            false => Selection { all: uploaded.is_empty() || around.chance(50), ..Selection::CHANGES },
        };
        let head = &live.held.head;
        if around.chance(12) {
            let mut moment = live.run.model.latest();
            moment.drop_linked();
            let (puts, image) = image_of(live, &wal, &nonce, &self.fixture.place("image"));
            live.upload = Some(Uploading {
                snapshot: None,
                puts,
                tree: TreeDiff { next_id: image.last_file_id + 1, ..TreeDiff::default() },
                image: Some(image),
                kept: Vec::new(),
                layers: Vec::new(),
                wal,
                moment,
                changes: live.changes,
                seq: live.held.head.seq,
                began_ms: self.hold.clock.now(),
                reference: None,
            });
            return;
        }
        let key = |number: usize| keys::layer(&head.id, head.epoch, head.seq + number as u64, &nonce);
        let mut puts = VecDeque::new();
        let upload =
            build_upload(live.run.volume(), &wal, (selection, &runtime.clone().into()), key, &mut |layer, bytes| {
                puts.push_back((layer.key, bytes));
                Ok(())
            });
        let upload = upload.expect("it can be built");
        let origin = origin.into_iter().take(selection.merge_from);
        live.upload = Some(Uploading {
            snapshot: None,
            puts,
            image: live.run.image.clone(),
            kept: origin.chain(uploaded.into_iter().filter(|_| !selection.all)).collect(),
            layers: upload.layers,
            tree: upload.tree,
            wal,
            moment: live.run.model.latest(),
            changes: live.changes,
            seq: head.seq,
            began_ms: self.hold.clock.now(),
            reference: None,
        });
    }

    /// The next step of an upload. One that fails is given up, as in production.
    pub(super) fn advance_upload(&mut self, branch: &BranchRef, around: &mut Around) -> Result<(), Trouble> {
        let mut upload = self.live.get_mut(branch).and_then(|live| live.upload.take()).expect("one is under way");
        if let Some((key, bytes)) = upload.puts.pop_front() {
            let put = self.wait(self.hold.catalog.store().create(&key, bytes));
            put.map_err(|e| self.tolerate(e, around))?;
            self.live.get_mut(branch).expect("it is up").upload = Some(upload);
            return Ok(());
        }
        match upload.reference.take() {
            None => {
                upload.reference = Some(self.put_manifest(branch, &upload, around)?);
                self.live.get_mut(branch).expect("it is up").upload = Some(upload);
                Ok(())
            }
            Some(reference) => self.publish(branch, upload, reference, around),
        }
    }

    fn put_manifest(
        &mut self,
        branch: &BranchRef,
        upload: &Uploading,
        around: &mut Around,
    ) -> Result<(ManifestRef, u64), Trouble> {
        let head = self.live[branch].held.head.clone();
        let pages = (upload.wal.len() / PAGE_SIZE) as u32;
        let wal = WalSegment { name: "0".repeat(24), size: 16 << 20, pages: (0..pages).collect() };
        let manifest = BranchManifest {
            format: BranchManifest::format_with(upload.image.as_ref()),
            branch: head.id.clone(),
            base: head.base.clone(),
            image: upload.image.clone(),
            layers: upload.kept.iter().chain(&upload.layers).cloned().collect(),
            tree: upload.tree.clone(),
            wal: vec![wal],
            databases: Vec::new(),
            roles: Vec::new(),
        };
        let key = keys::manifest(&head.id, head.epoch, upload.seq + 1, &Nonce::random(&self.entropy));
        let written = Upload {
            by: (head.id, head.epoch, self.hold.node.clone()),
            model: upload.moment.latest(),
            wal: upload.wal.clone(),
            objects: manifest.objects().map(str::to_owned).chain([key.clone()]).collect(),
            changes: upload.changes,
        };
        around.oracle.note_upload(&key, written);
        let put = self.wait(self.hold.catalog.create_manifest(key, &manifest));
        let (reference, stored) = put.map_err(|e| self.tolerate(e, around))?;
        Ok((reference, stored.len() as u64))
    }

    fn publish(
        &mut self,
        branch: &BranchRef,
        upload: Uploading,
        (reference, own_bytes): (ManifestRef, u64),
        around: &mut Around,
    ) -> Result<(), Trouble> {
        let mut live = self.live.remove(branch).expect("it is up");
        let Uploading { snapshot, layers, began_ms, .. } = upload;
        let outcome = match snapshot {
            Some(snapshot) => {
                let put = self.hold.publish_upload(&mut live.held, (reference, own_bytes, began_ms));
                self.wait_put(put, around).map(|()| snapshot.published(layers))
            }
            None => {
                live.in_doubt = true;
                let put = self.wait_put(self.hold.publish_suspend(&live.held, reference, own_bytes), around);
                if put.is_ok() {
                    self.live.insert(branch.clone(), live);
                    let id = self.live[branch].held.head.id.clone();
                    self.clear(branch, &id);
                    return Ok(());
                }
                if around.chance(40) {
                    self.live.insert(branch.clone(), live);
                    let power_cut = around.chance(50);
                    self.crash(power_cut, around);
                    return Err(Trouble::Died);
                }
                // Whatever it says: `settle` finds out.
                put.map(|_| ()).map_err(HoldError::Store)
            }
        };
        self.live.insert(branch.clone(), live);
        self.heed(branch, outcome, around)
    }
}

/// An image of a stopped branch, and the objects that are to be put for it: written to a store of its own first, so that anything may happen between two of
/// them. On a runtime of its own, too: the writer's puts are tasks, which the history's runtime runs only while that waits for something.
fn image_of(live: &Live<'_>, wal: &[u8], nonce: &Nonce, scratch: &Path) -> (VecDeque<(String, Vec<u8>)>, Image) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let (aside, entropy) = (SimulatedStore::new(0), Entropy::seeded(0));
    let store = Store::simulated(&aside, &entropy);
    let head = &live.held.head;
    let (id, epoch, seq, of_pack) = (head.id.clone(), head.epoch, head.seq, nonce.clone());
    let names = ImageNames {
        index: keys::image_index(&id, epoch, seq, nonce),
        pack: Box::new(move |number| keys::image_pack(&id, epoch, seq + u64::from(number), &of_pack)),
    };
    let built = build_image(live.run.volume(), wal, names, (store.clone(), scratch), &runtime.handle().clone().into());
    let image = built.expect("memory takes it").image;
    let mut puts = VecDeque::new();
    for key in runtime.block_on(store.list("v1")).expect("memory lists") {
        let bytes = runtime.block_on(aside.peek(&key)).expect("it is listed");
        puts.push_back((key, bytes.to_vec()));
    }
    (puts, image)
}
