//! The base that every history begins with, written once by the real writer and copied into each store.

use super::world::project;
use crate::model::{BaseManifest, Cluster, Entropy};
use crate::pageserver::tests::fixture::{Fixture, content_of, folder, write_base};
use crate::pageserver::{Base, PageCache, StagedBase};
use crate::settings::CacheSettings;
use crate::store::simulated::SimulatedStore;
use crate::store::{Catalog, Store, keys};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Runtime;

/// Tiny, since a history is compared with it some hundred times.
const FILES: [(&str, usize); 6] = [
    ("PG_VERSION", 5),
    ("empty", 0),
    ("base/5/16384", 20_000),
    ("base/5/16385", 8192),
    ("global/pg_control", 4096),
    ("base/sparse", 17_000),
];
/// Writes far behind the end of a file stay below this.
const LARGEST: u64 = 50_000;

pub(super) struct Template {
    objects: Vec<(String, Bytes)>,
    manifest: BaseManifest,
    last_file_id: u64,
    content: Arc<Vec<(String, Vec<u8>)>>,
}

impl Template {
    /// The one there is.
    pub(super) fn get() -> &'static Template {
        static TEMPLATE: OnceLock<Template> = OnceLock::new();
        TEMPLATE.get_or_init(Template::write)
    }

    fn write() -> Template {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let (simulated, entropy) = (SimulatedStore::new(0), Entropy::seeded(0));
        let store = Store::simulated(&simulated, &entropy);
        let content = content_of(&mut FILES.iter());
        let scratch = folder();
        let staged = write_base(&store, scratch.path(), &runtime, &content);
        runtime.block_on(async {
            let index = simulated.peek(&keys::base_staged_index(&staged.project, &staged.id)).await;
            simulated.plant(&keys::base_index(&staged.project, &staged.id), index.expect("it was put")).await;
            simulated.remove(&keys::base_staged_index(&staged.project, &staged.id)).await;
            let manifest = base_manifest(&staged);
            Catalog::new(store.clone(), entropy).publish_base(&manifest).await.expect("it is sealed");
            let mut objects = Vec::new();
            for key in store.list("v1").await.expect("memory lists") {
                let bytes = simulated.peek(&key).await.expect("it is listed");
                objects.push((key, bytes));
            }
            Template { objects, manifest, last_file_id: staged.last_file_id, content: Arc::new(content) }
        })
    }

    pub(super) async fn plant(&self, store: &SimulatedStore) {
        for (key, bytes) in &self.objects {
            store.plant(key, bytes.clone()).await;
        }
    }

    /// What a node that reaches the store through `door` reads pages with.
    pub(super) fn fixture(&self, runtime: &Arc<Runtime>, door: &SimulatedStore) -> Fixture {
        let (folder, store) = (folder(), Store::simulated(door, &Entropy::seeded(0)));
        let cache = PageCache::open(store.clone(), &folder.path().join("cache"), &CacheSettings::default());
        let cache = cache.expect("a cache opens");
        let base = runtime.block_on(Base::open(cache.clone(), &self.manifest)).expect("the base opens");
        let BaseManifest { project, id, packs, index_bytes, .. } = self.manifest.clone();
        let staged = StagedBase { project, id, packs, index_bytes, last_file_id: self.last_file_id };
        let parts = (runtime.clone(), store, folder);
        Fixture::of_parts(parts, (cache, Arc::new(base)), staged, self.content.clone(), LARGEST)
    }
}

fn base_manifest(staged: &StagedBase) -> BaseManifest {
    let cluster = Cluster {
        major: 18,
        server_version: "18.0".to_owned(),
        superuser: "postgres".to_owned(),
        databases: Vec::new(),
        roles: Vec::new(),
        settings: BTreeMap::new(),
    };
    BaseManifest {
        format: BaseManifest::FORMAT,
        project: project(),
        id: staged.id.clone(),
        created_at_ms: 0,
        source: "a test".to_owned(),
        cluster,
        wal: Vec::new(),
        packs: staged.packs.clone(),
        index_bytes: staged.index_bytes,
        last_file_id: staged.last_file_id,
        files: FILES.len() as u64,
        logical_bytes: 0,
        stored_bytes: 0,
        masking: None,
    }
}
