//! What a branch costs, as a Markdown table: `make bench`, or `make bench ARGS=--short` for a tenth of the sizes.
//!
//! Each figure has its baseline in the same run: the same Postgres binary with the same settings (read from the branch's own
//! command line) on the local file system over TCP. The two take turns, A B A B, so that a noisy neighbour meets both. A
//! figure is a median; its noise is half of what lies between its largest and smallest round, as a share of it. Needs the sizes below, doubled, in /tmp.

mod far;
#[path = "../../tests/fixture/mod.rs"]
mod fixture;
mod masking;
mod mount;
mod table;

use fixture::*;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use table::{Table, human, median};
use tokio_postgres::Client;

/// How much is measured.
struct Extent {
    /// Scale of pgbench in both bases, about 15 MB each.
    scale: u32,
    /// Megabytes of filler in the small and in the large base.
    filler_mb: [u64; 2],
    /// Samples of connects and wakes.
    connects: usize,
    wakes: usize,
    /// Rounds of everything that takes turns, and seconds of each pgbench.
    rounds: usize,
    seconds: u32,
    /// Rows that are masked.
    people: u64,
}

const FULL: Extent =
    Extent { scale: 30, filler_mb: [550, 9550], connects: 30, wakes: 15, rounds: 5, seconds: 10, people: 1_000_000 };
const SHORT: Extent =
    Extent { scale: 5, filler_mb: [30, 930], connects: 10, wakes: 4, rounds: 3, seconds: 3, people: 100_000 };

const PAGE: u64 = 8192;
const CLIENTS: &str = "8";

fn main() {
    if std::env::args().any(|argument| argument == "--far") {
        let (mut table, extent) = (Table::default(), FULL);
        far::wakes(&extent, &mut table);
        return table.print();
    }
    let asked = |name: &str| std::env::args().any(|argument| argument == name);
    let extent = if asked("--short") { SHORT } else { FULL };
    if asked("--masking") {
        let mut table = Table::default();
        masking::costs(extent.people, &mut table);
        return table.print();
    }
    let scratch = Scratch::new();
    if asked("--mount") {
        let mut table = Table::default();
        let small = Size::make(&scratch, "small", extent.filler_mb[0], &extent);
        let direct = small.direct(&scratch);
        mount::costs(&extent, &scratch, &small, &direct, &mut table);
        return table.print();
    }
    let sizes = [
        Size::make(&scratch, "small", extent.filler_mb[0], &extent),
        Size::make(&scratch, "large", extent.filler_mb[1], &extent),
    ];
    let [mut small, large] = sizes;
    let mut table = Table::default();
    first_connects(&extent, &small, &large, &mut table);
    drop(large);
    let direct = small.direct(&scratch);
    wakes(&extent, &mut small, &mut table);
    throughput(&extent, &small, &direct, &mut table);
    bulk(&extent, &scratch, &small, &direct, &mut table);
    mount::costs(&extent, &scratch, &small, &direct, &mut table);
    drop(direct);
    bytes(&scratch, &mut small, &mut table);
    drop(small);
    masking::costs(extent.people, &mut table);
    far::wakes(&extent, &mut table);
    table.print();
}

/// Progress goes to standard error, the table to standard output.
fn progress(what: &str) {
    eprintln!("bench: {what}");
}

// ---- the ground

/// A base of some size, served by a node of its own.
struct Size {
    node: Node,
    /// The stopped data directory that was imported.
    data: PathBuf,
    bytes: u64,
    import_s: f64,
}

impl Size {
    fn make(scratch: &Scratch, name: &str, filler_mb: u64, extent: &Extent) -> Size {
        progress(&format!("making and importing the {name} base"));
        let mut options = SourceOptions::of(Major::Fifteen);
        // Loading without WAL; the base is taken from the stopped data directory.
        for setting in
            ["wal_level=minimal", "max_wal_senders=0", "fsync=off", "max_wal_size=8GB", "maintenance_work_mem=512MB"]
        {
            options = options.argument(setting);
        }
        let mut source = Source::start(scratch, options);
        let url = source.database(POSTGRES, "shop");
        let made = pgbench(&url, &["-i", "-s", &extent.scale.to_string(), "-q"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // 1000 bytes a row, 8 rows less header to a page.
        let filler = format!(
            "create table filler with (autovacuum_enabled = off) as select n, repeat(md5(n::text), 30) as text from generate_series(1, {}) n",
            filler_mb * 1000
        );
        run_long(&url, &filler);
        let bytes =
            source.psql("shop", "select sum(pg_database_size(oid)) from pg_database").parse().expect("a number");
        source.stop();
        let config = NodeConfig {
            store_url: Some(format!("file://{}", scratch.join(&format!("store-{name}")).display())),
            ..NodeConfig::default()
        };
        let mut node = Node::new(scratch, name, &config);
        let start = Instant::now();
        import_long(&node, &source.data_dir());
        let import_s = start.elapsed().as_secs_f64();
        node.start();
        let data = source.data_dir();
        // The data directory stays: it goes with the scratch folder.
        Size { node, data, bytes, import_s }
    }

    /// The same database and settings, without Offshoot.
    fn direct(&self, scratch: &Scratch) -> Source {
        progress("starting the baseline");
        let mut options = SourceOptions::of(Major::Fifteen);
        options.data = Some(self.data.clone());
        let listed = psql(
            &self.node.url(POSTGRES, "shop@settings"),
            "select name || '=' || setting from pg_settings where source = 'command line'",
        );
        let own = [
            "listen_addresses",
            "port",
            "unix_socket",
            "data_directory",
            "config_file",
            "hba_file",
            "ident_file",
            "external_pid",
            "ssl",
            "cluster_name",
        ];
        for setting in listed.lines().filter(|setting| !own.iter().any(|name| setting.starts_with(name))) {
            options = options.argument(setting);
        }
        Source::start(scratch, options)
    }

    fn branch(&self, name: &str) -> String {
        self.node.url(POSTGRES, &format!("shop@{name}"))
    }
}

/// As `psql`, without its bound.
fn run_long(url: &str, sql: &str) {
    let status = psql_command(url).args(["-c", sql]).stdout(Stdio::null()).status().expect("psql runs");
    assert!(status.success(), "{sql}");
}

/// As `Node::import`, without its bound.
fn import_long(node: &Node, data: &Path) {
    let output = node.run(&["import", "shop", "--from", &data.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1000.0
}

/// From connect to the first row of a real table, with a driver that is loaded already.
fn first_row_ms(runtime: &tokio::runtime::Runtime, url: &str, query: &str) -> f64 {
    milliseconds(|| {
        runtime.block_on(async {
            let client = connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
            client.query_one(query, &[]).await.expect("a row");
        });
    })
}

const ONE_ROW: &str = "select bid from pgbench_branches where bid = 1";

fn runtime() -> tokio::runtime::Runtime {
    // A thread of its own lets a dropped client's connection end at once.
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime can be made")
}

// ---- what is measured

fn first_connects(extent: &Extent, small: &Size, large: &Size, table: &mut Table) {
    progress("first connects");
    let runtime = runtime();
    let mut samples = [Vec::new(), Vec::new()];
    for n in 0..extent.connects {
        for (size, samples) in [small, large].iter().zip(&mut samples) {
            samples.push(first_row_ms(&runtime, &size.branch(&format!("unseen-{n}")), ONE_ROW));
        }
    }
    let awake: Vec<f64> =
        (0..extent.connects).map(|_| first_row_ms(&runtime, &small.branch("unseen-0"), ONE_ROW)).collect();
    let place = small.data.with_file_name("copy");
    let copy = milliseconds(|| copy_tree(&small.data, &place));
    fs::remove_dir_all(place).expect("the copy is ours");
    for (size, samples) in [small, large].iter().zip(&samples) {
        let what = format!("first connect to an unseen name, base of {}", human(size.bytes));
        table.latency(&what, samples, "connect to it again, awake", median(&awake));
    }
    table.ratio("… of the large base to the small", "×", &samples[1], &samples[0]);
    table.row("a copy of the small base by `cp -a`", "ms", &[copy], "", None);
    for size in [small, large] {
        let rate = size.bytes as f64 / 1e6 / size.import_s;
        table.row(&format!("import of a data directory of {}", human(size.bytes)), "MB/s", &[rate], "", None);
    }
}

fn wakes(extent: &Extent, small: &mut Size, table: &mut Table) {
    progress("wakes");
    let runtime = runtime();
    small.node.stop();
    small.node.set_environment("OFFSHOOT_PROJECT_SHOP_IDLE_TIMEOUT", "1s");
    small.node.start();
    let url = small.branch("sleeper");
    psql(&url, "create table kept as select 1 as n");
    let mut warm = Vec::new();
    for _ in 0..extent.wakes {
        small.node.wait_asleep("shop@sleeper");
        warm.push(first_row_ms(&runtime, &url, ONE_ROW));
    }
    let mut cold = Vec::new();
    for _ in 0..extent.wakes.div_ceil(3) {
        small.node.wait_asleep("shop@sleeper");
        small.node.stop();
        small.node.wipe();
        small.node.start();
        cold.push(first_row_ms(&runtime, &url, ONE_ROW));
    }
    let awake: Vec<f64> = (0..extent.wakes).map(|_| first_row_ms(&runtime, &url, ONE_ROW)).collect();
    table.latency("wake, warm cache", &warm, "connect to it awake", median(&awake));
    table.latency("wake on a node that has nothing, file store", &cold, "connect to it awake", median(&awake));
    small.node.stop();
    small.node.set_environment("OFFSHOOT_PROJECT_SHOP_IDLE_TIMEOUT", "1h");
    small.node.start();
}

fn throughput(extent: &Extent, small: &Size, direct: &Source, table: &mut Table) {
    let sides = [small.branch("load"), direct.database(POSTGRES, "shop")];
    for url in &sides {
        run_long(url, "select count(*) from pgbench_accounts");
    }
    for (what, arguments) in [("pgbench select-only, 8 clients", &["-S"][..]), ("pgbench TPC-B, 8 clients", &[][..])] {
        progress(what);
        let arguments = [&["-c", CLIENTS], arguments].concat();
        let [branch, baseline] = take_turns(extent.rounds, &sides, |url| pgbench_tps(extent, url, &arguments));
        table.row(what, "transactions/s", &branch, "direct", Some(&baseline));
    }
}

/// Transactions a second after a checkpoint.
fn pgbench_tps(extent: &Extent, url: &str, arguments: &[&str]) -> f64 {
    run_long(url, "checkpoint");
    let threads = if arguments.contains(&"1") { "1" } else { "2" };
    let output = pgbench(url, &[&["-n", "-j", threads, "-T", &extent.seconds.to_string()], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "pgbench: {text} {}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
    line.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no tps in {text}"))
}

fn bulk(extent: &Extent, scratch: &Scratch, small: &Size, direct: &Source, table: &mut Table) {
    progress("COPY and sequential scan");
    let sides = [small.branch("bulk"), direct.database(POSTGRES, "shop")];
    let file = scratch.join("accounts.copy");
    let rows = u64::from(extent.scale) * 100_000 / 3;
    run_long(&sides[1], &format!("\\copy (select * from pgbench_accounts limit {rows}) to '{}'", file.display()));
    let megabytes = fs::metadata(&file).expect("psql wrote it").len() as f64 / 1e6;
    for url in &sides {
        run_long(url, "create table bulk (like pgbench_accounts)");
    }
    let copy_in = format!("\\copy bulk from '{}'", file.display());
    let [branch, baseline] = take_turns(extent.rounds, &sides, |url| {
        run_long(url, "truncate bulk");
        run_long(url, "checkpoint");
        megabytes / milliseconds(|| run_long(url, &copy_in)) * 1000.0
    });
    table.row(&format!("COPY in of {megabytes:.0} MB"), "MB/s", &branch, "direct", Some(&baseline));

    let runtime = runtime();
    let clients: Vec<Client> = sides.iter().map(|url| runtime.block_on(connect(url)).expect("in")).collect();
    let scan = |client: &Client| {
        runtime.block_on(client.query_one("select count(*), sum(abalance) from pgbench_accounts", &[])).expect("a row");
    };
    clients.iter().for_each(&scan);
    let scanned = u64::from(extent.scale) as f64 * 13.4;
    let [branch, baseline] = take_turns(extent.rounds, &[&clients[0], &clients[1]], |client| {
        scanned / milliseconds(|| scan(client)) * 1000.0
    });
    table.row(
        &format!("sequential scan of {scanned:.0} MB, in the page cache"),
        "MB/s",
        &branch,
        "direct",
        Some(&baseline),
    );
}

/// Runs `work` on either side in turn; the first round of each warms up and does not count.
fn take_turns<S>(rounds: usize, sides: &[S; 2], mut work: impl FnMut(&S) -> f64) -> [Vec<f64>; 2] {
    let mut results = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (side, results) in sides.iter().zip(&mut results) {
            let result = work(side);
            if round > 0 {
                results.push(result);
            }
        }
    }
    results
}

fn bytes(scratch: &Scratch, small: &mut Size, table: &mut Table) {
    progress("bytes");
    small.node.stop();
    small.node.start();
    // Fills the shared cache with what any start reads.
    psql(&small.branch("any"), "select 1");
    let before = local_bytes(small.node.data_dir());
    psql(&small.branch("fresh"), "select 1");
    psql(&small.branch("fresh"), "checkpoint");
    let fresh = local_bytes(small.node.data_dir()).saturating_sub(before);
    table.row("fresh branch awake, on the node, beyond its WAL segment", "KiB", &[fresh as f64 / 1024.0], "", None);

    let update = "update pgbench_accounts set abalance = abalance + 1 where abs(hashint4(aid)) % 100 = 0";
    let (pages, wal) = changed_by(update, scratch, small);
    psql(&small.branch("updated"), "select 1");
    psql(&small.branch("updated"), "checkpoint");
    let before = local_bytes(small.node.data_dir());
    run_long(&small.branch("updated"), update);
    psql(&small.branch("updated"), "checkpoint");
    let own = local_bytes(small.node.data_dir()).saturating_sub(before) + wal;
    let least = pages * PAGE + wal;
    table.row(
        "1 % of rows updated at random, awake, on the node with its WAL",
        "MB",
        &[own as f64 / 1e6],
        &format!("{pages} changed pages + {} WAL", human(wal)),
        Some(&[least as f64 / 1e6]),
    );

    small.node.stop();
    small.node.set_environment("OFFSHOOT_PROJECT_SHOP_IDLE_TIMEOUT", "1s");
    small.node.start();
    for name in ["fresh", "updated"] {
        psql(&small.branch(name), "select 1");
        small.node.wait_asleep(&format!("shop@{name}"));
    }
    let asleep = small.node.branch("shop@fresh").own_bytes;
    table.row("fresh branch asleep, in the store", "KiB", &[asleep as f64 / 1024.0], "", None);
    let asleep = small.node.branch("shop@updated").own_bytes;
    table.row(
        "1 % of rows updated at random, asleep, in the store",
        "MB",
        &[asleep as f64 / 1e6],
        "changed pages + WAL",
        Some(&[least as f64 / 1e6]),
    );
    small.node.stop();
}

/// Pages of the data directory that `sql` changes, and bytes of WAL it writes, found without Offshoot: the same
/// statement on a copy, compared page by page.
fn changed_by(sql: &str, scratch: &Scratch, small: &Size) -> (u64, u64) {
    let mut options = SourceOptions::of(Major::Fifteen).argument("autovacuum=off");
    options.data = Some(small.data.clone());
    let mut copy = Source::start(scratch, options);
    copy.psql("shop", "checkpoint");
    copy.stop();
    let before = copy.data_dir().with_file_name("before");
    copy_tree(&copy.data_dir(), &before);
    copy.restart();
    let start = copy.psql("shop", "select pg_current_wal_lsn()");
    run_long(&copy.database(POSTGRES, "shop"), sql);
    let wal = copy
        .psql("shop", &format!("select pg_wal_lsn_diff(pg_current_wal_lsn(), '{start}')"))
        .parse()
        .expect("a number");
    copy.stop();
    let pages = different_pages(&before.join("base"), &copy.data_dir().join("base"));
    copy.delete();
    (pages, wal)
}

fn different_pages(before: &Path, after: &Path) -> u64 {
    let mut pages = 0;
    for file in files_below(after) {
        let new = fs::File::open(&file).expect("our own copy");
        let old = fs::File::open(before.join(file.strip_prefix(after).expect("below it"))).ok();
        let old_size = old.as_ref().map_or(0, |old| old.metadata().expect("our own copy").len());
        let size = new.metadata().expect("our own copy").len();
        let (mut a, mut b) = ([0; PAGE as usize], [0; PAGE as usize]);
        for at in (0..size / PAGE * PAGE).step_by(PAGE as usize) {
            new.read_exact_at(&mut a, at).expect("a whole page");
            let same = at + PAGE <= old_size
                && old.as_ref().is_some_and(|old| old.read_exact_at(&mut b, at).is_ok())
                && a == b;
            pages += u64::from(!same);
        }
    }
    pages
}

/// Bytes on disk below a node's folder, without mounts, the cache that all branches share, and WAL segments.
fn local_bytes(folder: &Path) -> u64 {
    let device = fs::metadata(folder).expect("the node's folder is there").dev();
    let is_wal = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.len() == 24 && name.chars().all(|c| c.is_ascii_hexdigit())
    };
    let cache = folder.join("cache");
    let own = files_below(folder).into_iter().filter(|path| !path.starts_with(&cache) && !is_wal(path));
    own.filter_map(|path| fs::symlink_metadata(path).ok())
        .filter(|about| about.dev() == device)
        .map(|about| about.blocks() * 512)
        .sum()
}

/// Files below `folder` on its own file system.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let output = Command::new("find").arg(folder).args(["-xdev", "-type", "f", "-print0"]).output().expect("find runs");
    let paths = output.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    paths.map(|path| PathBuf::from(String::from_utf8_lossy(path).into_owned())).collect()
}
