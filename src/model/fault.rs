//! Fault points: a name for every step that makes something durable, so that a test can end the process right there.
//!
//! `OFFSHOOT_FAULT=<name>` aborts the process when it passes the point for the first time, `<name>:<n>` for the n-th time, as
//! `kill -9` would. Debug builds only: a release does not look at the variable. `tests/faults.rs` goes through [`FaultPoint::ALL`],
//! so that a point without a test does not exist.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! fault_points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One durable step. A point stands right after what its name says, unless that begins with `before`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FaultPoint {
            $($(#[$doc])* $variant,)*
        }

        impl FaultPoint {
            /// All there are.
            pub const ALL: &[FaultPoint] = &[$(FaultPoint::$variant,)*];

            /// As `OFFSHOOT_FAULT` spells it.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultPoint::$variant => $name,)*
                }
            }
        }
    };
}

fault_points! {
    /// A masked import's fresh cluster has its schema, and no row.
    SchemaRestored = "schema-restored",
    /// The rows of one of its tables are committed, and recorded.
    TableCopied = "table-copied",
    /// It has all rows, and no key or index.
    RowsCopied = "rows-copied",
    /// A step that must not be done twice is noted; its transaction is not committed yet.
    StepNoted = "step-noted",
    /// A step that must not be done twice is committed.
    StepCommitted = "step-committed",
    /// One of its databases has keys and indexes.
    KeysBuilt = "keys-built",
    /// It is complete, and was not searched for raw values.
    ClusterCopied = "cluster-copied",
    /// It was searched; nothing of it is in the store.
    ClusterSearched = "cluster-searched",
    /// A copy of an import's files is in the store; it is no base yet.
    BaseStaged = "base-staged",
    /// A masked base's report is in the store; no manifest names it yet.
    ReportPut = "report-put",
    /// A base's manifest is in the store; the project's head does not list it yet.
    BaseManifestPut = "base-manifest-put",
    /// A branch's folder says whose it is and that nothing was begun.
    BranchClaimed = "branch-claimed",
    /// A new branch's head is in the store.
    HeadCreated = "head-created",
    /// A woken branch's head names this node.
    HeadTaken = "head-taken",
    /// The folder says that its compute may hold what is nowhere else.
    StartNoted = "start-noted",
    /// An overlay file's pages are on disk; the journal does not name them yet.
    PagesSynced = "pages-synced",
    /// The journal's frame is on disk.
    JournalSynced = "journal-synced",
    /// A layer is in the store; no manifest names it yet.
    LayerPut = "layer-put",
    /// A branch's image, all its packs and its index, is in the store; no manifest names it yet.
    ImagePut = "image-put",
    /// A manifest is in the store; no head names it yet.
    ManifestPut = "manifest-put",
    /// A boot object is in the store; no head names its manifest yet.
    BootPut = "boot-put",
    /// The head names the manifest of an upload of an awake branch.
    UploadPublished = "upload-published",
    /// The map of what the node's cache holds is on disk.
    CacheMapped = "cache-mapped",
    /// The head names the new manifest; the local folder is still there.
    HeadPublished = "head-published",
    /// A branch's head says that it is deleted; its objects are still there.
    TombstonePut = "tombstone-put",
    /// A child's pin is in the store; it has not looked for condemned objects yet.
    PinPut = "pin-put",
    /// What nothing refers to is condemned; pins were not read since.
    CondemnPut = "condemn-put",
    /// One object that was condemned a grace ago is gone.
    GarbageDeleted = "garbage-deleted",
    /// A condemn list that cannot be used up is retired, and still there.
    CondemnRetired = "condemn-retired",
    /// A condemn list that is used up is gone.
    CondemnRemoved = "condemn-removed",
}

/// What [`pass`] waits for: the point's name and how often it is passed first.
fn armed() -> Option<&'static (String, u64)> {
    static ARMED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    let read = || {
        let wanted = std::env::var("OFFSHOOT_FAULT").ok()?;
        let (name, count) = wanted.split_once(':').unwrap_or((&wanted, "1"));
        Some((name.to_owned(), count.parse().unwrap_or(1)))
    };
    ARMED.get_or_init(read).as_ref()
}

/// Ends the process if a test asked for that at `point`.
#[inline]
pub fn pass(point: FaultPoint) {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if cfg!(debug_assertions)
        && let Some((name, count)) = armed()
        && name == point.name()
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        eprintln!("OFFSHOOT_FAULT: ending at {name}");
        std::process::abort();
    }
}
