//! The daemon ends at each step that makes something durable ([`FaultPoint`]), under load; what was acknowledged before is there afterwards.
//!
//! `OFFSHOOT_SEED` chooses which passage of the point it is.

mod fixture;

use fixture::*;
use offshoot::model::fault::FaultPoint;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::BTreeSet;
use std::time::Duration;

/// Passages of the point before the daemon ends, at most.
const PASSAGES: u32 = 3;

fn seed() -> u64 {
    std::env::var("OFFSHOOT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Makes, writes, suspends, wakes and uploads branches until the daemon ends by itself, then looks at what is left.
async fn ends_at(point: FaultPoint) {
    let mut random = StdRng::seed_from_u64(seed() ^ point.name().len() as u64);
    let fixture = Fixture::new().project("upload_interval = \"1s\"");
    // What lies on this machine needs no boot object.
    let mut shop = if point == FaultPoint::BootPut { fixture.moto() } else { fixture }.start();
    shop.psql("shop@x", NUMBERED);
    shop.node.stop();

    let passage = random.random_range(1..=PASSAGES);
    shop.node.set_environment("OFFSHOOT_FAULT", &format!("{}:{passage}", point.name()));
    shop.node.start();
    let writers = Writers::start(vec![shop.url("shop@x"); 3]);
    let mut made = Vec::new();
    for n in 0.. {
        assert!(n < 60, "the daemon never passes {} {passage} times", point.name());
        let name = format!("shop@new-{n}");
        // Either may be what ends the daemon.
        if try_psql(&shop.url(&name), "create table kept as select 1 as n").is_ok() {
            made.push(name);
        }
        if shop.node.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        if point == FaultPoint::ImagePut {
            shop.psql("shop@x", REWRITTEN);
        }
        shop.node.run(&["branch", "suspend", "shop@x"]);
        if shop.node.has_ended() {
            break;
        }
    }
    assert!(shop.node.log().contains(&format!("OFFSHOOT_FAULT: ending at {}", point.name())));

    shop.node.set_environment("OFFSHOOT_FAULT", "");
    shop.node.start();
    writers.progress(20).await;
    let acknowledged = writers.finish().await;
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
    check_clean(&shop.node.url(POSTGRES, "shop@x"));
    for name in &made {
        assert_eq!(shop.psql(name, "select n from kept"), "1", "{name} after {}", point.name());
    }
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
    shop.node.stop();
}

/// The one step of a clean stop: the map of the cache is a promise about extents that must be whole.
#[test]
fn the_cache_is_mapped() {
    let mut shop = Fixture::new().moto().start();
    shop.psql("shop@x", "create table kept as select 1 as n");
    shop.node.stop();
    shop.node.set_environment("OFFSHOOT_FAULT", FaultPoint::CacheMapped.name());
    shop.node.start();
    let sum = "select sum(length(prosrc)) from pg_proc";
    let right = shop.psql("shop@x", sum);
    signal(shop.node.pid(), nix::sys::signal::Signal::SIGTERM);
    until("the daemon to end at its map", 60, || shop.node.has_ended().then_some(()));
    assert!(shop.node.log().contains("OFFSHOOT_FAULT: ending at cache-mapped"));
    shop.node.set_environment("OFFSHOOT_FAULT", "");
    shop.node.start();
    assert_eq!(shop.psql("shop@x", "select n from kept"), "1");
    assert_eq!(shop.psql("shop@x", sum), right);
}

/// Steps that no serving node takes: `tests/masking/kills.rs` and `resumes.rs`, `tests/collection.rs`, `src/store` and `src/pageserver/tests` have their tests.
const ELSEWHERE: [FaultPoint; 17] = [
    FaultPoint::SchemaRestored,
    FaultPoint::TableCopied,
    FaultPoint::RowsCopied,
    FaultPoint::StepNoted,
    FaultPoint::StepCommitted,
    FaultPoint::KeysBuilt,
    FaultPoint::ClusterCopied,
    FaultPoint::ClusterSearched,
    FaultPoint::BaseStaged,
    FaultPoint::ReportPut,
    FaultPoint::BaseManifestPut,
    FaultPoint::TombstonePut,
    FaultPoint::PinPut,
    FaultPoint::CondemnPut,
    FaultPoint::GarbageDeleted,
    FaultPoint::CondemnRetired,
    FaultPoint::CondemnRemoved,
];

macro_rules! each_point {
    ($($test:ident: $point:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                ends_at(FaultPoint::$point).await;
            }
        )*

        #[test]
        fn every_point_has_a_test() {
            let names = |points: &[FaultPoint]| points.iter().map(|point| point.name()).collect::<BTreeSet<_>>();
            assert_eq!(names(FaultPoint::ALL), names(&[&[FaultPoint::CacheMapped, $(FaultPoint::$point,)*][..], &ELSEWHERE].concat()));
        }
    };
}

each_point! {
    a_branch_is_claimed: BranchClaimed,
    a_head_is_created: HeadCreated,
    a_head_is_taken: HeadTaken,
    a_start_is_noted: StartNoted,
    pages_are_synced: PagesSynced,
    the_journal_is_synced: JournalSynced,
    a_layer_is_put: LayerPut,
    an_image_is_put: ImagePut,
    a_manifest_is_put: ManifestPut,
    a_boot_object_is_put: BootPut,
    an_upload_is_published: UploadPublished,
    a_head_is_published: HeadPublished,
}
