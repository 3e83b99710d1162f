//! Daemon and compute are killed at random moments under load, again and again: every acknowledged commit is there, sums are right, and
//! no table or index is damaged.
//!
//! `OFFSHOOT_ROUNDS` says how often (`make soak`: 100), `OFFSHOOT_SEED` when and what.

mod fixture;

use fixture::*;
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::process::Child;
use std::time::Duration;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

const SUMS: &str = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
    and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
    and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)";

/// pgbench's own load on a branch beside the bank's; it ends with its server.
struct Pgbench(Child);

impl Pgbench {
    fn start(url: &str) -> Pgbench {
        Pgbench(pgbench_command(url, &["-n", "-c", "3", "-T", "300"]).spawn().expect("pgbench runs"))
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_whatever_is_killed() {
    let (rounds, seed) = (number("OFFSHOOT_ROUNDS", 5), number("OFFSHOOT_SEED", 1));
    let mut random = StdRng::seed_from_u64(seed);
    let parameters = "[project.parameters]\nmax_wal_size = \"64MB\"\ncheckpoint_timeout = \"30s\"";
    let mut shop = Fixture::new().project(&format!("upload_interval = \"2s\"\n{parameters}")).start();
    let bench_url = shop.node.url(POSTGRES, "shop@bench");
    assert!(pgbench(&bench_url, &["-i", "-s", "3", "-q"]).status.success());
    let ledger = Ledger::open(&shop.url("shop@bank"), 4);
    for round in 1..=rounds {
        let load = Pgbench::start(&bench_url);
        ledger.progress(30).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2500))).await;
        let what = match random.random_range(0..4) {
            0 => {
                for branch in ["shop@bank", "shop@bench"] {
                    signal(shop.node.compute_pid(POSTGRES, branch), Signal::SIGKILL);
                }
                "computes"
            }
            1 => {
                // All at once, as when the machine dies under them.
                let computes = shop.node.processes();
                shop.node.kill();
                computes.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
                "daemon and computes"
            }
            2 => {
                shop.node.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                shop.node.start();
                shop.node.kill();
                "daemon, twice"
            }
            _ => {
                shop.node.kill();
                "daemon"
            }
        };
        if !shop.node.is_running() {
            shop.node.start();
        }
        drop(load);
        ledger.check().await;
        assert_eq!(psql(&bench_url, SUMS), "t", "round {round}, killed: {what}");
        for branch in ["shop@bank", "shop@bench"] {
            check_clean(&shop.node.url(POSTGRES, branch));
        }
        eprintln!("round {round} of {rounds}, seed {seed}: killed {what}, {} transfers", ledger.count());
    }
    ledger.progress(20).await;
    for branch in ["shop@bank", "shop@bench"] {
        shop.node.succeed(&["branch", "suspend", branch]);
    }
    ledger.check().await;
    ledger.close().await;
    shop.node.stop();
}
