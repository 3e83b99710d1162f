//! Wakes against an object store as far away as one is: moto behind a proxy whose answers take what FACTS.md measured of S3 (log-normal, p50 22 ms,
//! p90 42, tails of 200 to 800), its own time included.

use super::fixture::*;
use super::table::{Table, median};
use super::{Extent, first_row_ms, progress, runtime};
use futures::StreamExt;
use offshoot::model::{BranchHead, Entropy};
use offshoot::store::{Catalog, Created, Store};

/// Suspends of the deep branch.
const DEPTH: u32 = 50;

/// A query of a table of the shop, as the first of a session.
const QUERY: &str = "select count(*) from customers where note like '%x%'";

pub fn wakes(extent: &Extent, table: &mut Table) {
    progress("wakes from a far store");
    let runtime = runtime();
    let conduct = Conduct { latency: Latency::measured(), ..Conduct::default() };
    let mut shop = Fixture::new().project("max_branches = 10000").moto().unruly(conduct).start();
    let url = shop.url("shop@sleeper");
    let first_row = |url: &str| first_row_ms(&runtime, url, QUERY);
    psql(&url, "create table kept as select n from generate_series(1, 1000) n");
    let asleep = |shop: &Shop| {
        // A start's recording ends a second after its first session.
        pause(std::time::Duration::from_millis(1200));
        shop.node.succeed(&["branch", "suspend", "shop@sleeper"]);
    };
    first_row(&url);
    asleep(&shop);

    let mut warm = Vec::new();
    for _ in 0..extent.wakes {
        warm.push(first_row(&url));
        asleep(&shop);
    }
    let cold = cold_wakes(extent, &mut shop, |_| "sleeper".to_owned(), first_row);
    progress("the same after one suspend, and after 50");
    let shallow = |number: usize| format!("shallow-{number}");
    for number in 0..extent.wakes {
        let name = format!("shop@{}", shallow(number));
        psql(&shop.url(&name), "create table kept as select n from generate_series(1, 1000) n");
        first_row(&shop.url(&name));
        pause(std::time::Duration::from_millis(1200));
        shop.node.succeed(&["branch", "suspend", &name]);
    }
    let once = cold_wakes(extent, &mut shop, shallow, first_row);
    for number in 0..DEPTH {
        let sql = format!(
            "create table deep_{number} as select n from generate_series(1, 200) n; update customers set note = note where id % 50 = {number}"
        );
        psql(&shop.url("shop@deep"), &sql);
        shop.node.succeed(&["branch", "suspend", "shop@deep"]);
    }
    first_row(&shop.url("shop@deep"));
    pause(std::time::Duration::from_millis(1200));
    shop.node.succeed(&["branch", "suspend", "shop@deep"]);
    let deep = cold_wakes(extent, &mut shop, |_| "deep".to_owned(), first_row);
    let unseen = |shop: &Shop, name: &str| -> Vec<f64> {
        (0..extent.wakes).map(|number| first_row(&shop.url(&format!("shop@{name}-{number}")))).collect()
    };
    let few = unseen(&shop, "few");
    progress("the same among 5,000 branches");
    add_branches(&runtime, &shop, 5000);
    let many = unseen(&shop, "many");
    let mut among = Vec::new();
    for _ in 0..extent.wakes {
        among.push(first_row(&url));
        asleep(&shop);
    }
    first_row(&url);
    let awake: Vec<f64> = (0..extent.wakes).map(|_| first_row(&url)).collect();
    let beside = ("connect to it awake", median(&awake));
    table.latency("wake, store at 22 ms, warm cache", &warm, beside.0, beside.1);
    table.latency("wake, store at 22 ms, node that has nothing", &cold.ms, beside.0, beside.1);
    table.row("… requests of it", "requests", &cold.requests, "", None);
    table.row("… at the prices of S3, a thousand of them", "cents", &cold.cents_a_thousand, "", None);
    table.latency("… of branches that were suspended once before", &once.ms, beside.0, beside.1);
    table.latency("… of one that was suspended 50 times before", &deep.ms, beside.0, beside.1);
    table.ratio("… of 50 suspends to one", "×", &deep.ms, &once.ms);
    table.row("… requests after 50 suspends", "requests", &deep.requests, "", None);
    table.latency("unseen name, store at 22 ms, 10 branches", &few, beside.0, beside.1);
    table.latency("unseen name, store at 22 ms, 5,000 branches", &many, beside.0, beside.1);
    table.latency("wake, store at 22 ms, warm cache, 5,000 branches", &among, beside.0, beside.1);
}

/// What wakes on an empty node took and asked for.
struct Cold {
    ms: Vec<f64>,
    requests: Vec<f64>,
    cents_a_thousand: Vec<f64>,
}

fn cold_wakes(
    extent: &Extent,
    shop: &mut Shop,
    name: impl Fn(usize) -> String,
    first_row: impl Fn(&str) -> f64,
) -> Cold {
    let mut cold = Cold { ms: Vec::new(), requests: Vec::new(), cents_a_thousand: Vec::new() };
    for number in 0..extent.wakes {
        let name = name(number);
        shop.node.stop();
        shop.node.wipe();
        shop.node.start();
        // A node opens its bases when it starts.
        pause(std::time::Duration::from_millis(1500));
        let before = shop.unruly().counts();
        cold.ms.push(first_row(&shop.url(&format!("shop@{name}"))));
        let asked = shop.unruly().counts().since(&before);
        cold.requests.push(asked.iter().map(|(_, _, count)| *count as f64).sum());
        let cents = asked.iter().map(|(method, path, count)| *count as f64 * cents_a_thousand(method, path));
        cold.cents_a_thousand.push(cents.sum());
        pause(std::time::Duration::from_millis(1200));
        shop.node.succeed(&["branch", "suspend", &format!("shop@{name}")]);
    }
    cold
}

/// What a thousand such requests cost on S3 in its standard class, us-east-1: reads 0.04 cents, puts and lists 0.5, deletions nothing.
fn cents_a_thousand(method: &str, path: &str) -> f64 {
    let is_list = path.trim_matches('/').split('/').count() == 1;
    match method {
        "GET" | "HEAD" if !is_list => 0.04,
        "DELETE" => 0.0,
        _ => 0.5,
    }
}

/// Puts heads of branches that nobody holds, as so many first connects and suspends would leave them.
fn add_branches(runtime: &tokio::runtime::Runtime, shop: &Shop, count: usize) {
    for (name, value) in shop.moto().environment() {
        // SAFETY: nothing else of this process reads or writes the environment at this moment: the bench has one thread of its own, and its runtime's is idle.
        unsafe { std::env::set_var(name, value) };
    }
    let store = Store::open("s3://offshoot/some/prefix").expect("the fixture's store");
    let entropy = Entropy::system();
    let catalog = Catalog::new(store, entropy.clone());
    runtime.block_on(async {
        let branch = offshoot::model::BranchRef {
            project: "shop".parse().expect("a name"),
            branch: "sleeper".parse().expect("a name"),
        };
        let model = catalog.branch_head(&branch).await.expect("the store answers").expect("it is there").head;
        let heads = (0..count).map(|number| BranchHead {
            name: format!("idle-{number}").parse().expect("a name"),
            id: offshoot::model::BranchId::random(&entropy),
            epoch: 1,
            holder: None,
            dirty: false,
            manifest: None,
            ..model.clone()
        });
        let mut puts = futures::stream::iter(heads).map(|head| catalog.create_branch(head)).buffer_unordered(16);
        while let Some(created) = puts.next().await {
            assert!(matches!(created.expect("the store takes it"), Created::New(_)));
        }
    });
}
