//! The fixture's own parts that need no product: a broken fixture would make every other test lie.

mod fixture;

use fixture::*;
use std::time::{Duration, Instant};

fn a_source_works(major: Major) {
    let scratch = Scratch::new();
    let mut source = Source::start(&scratch, SourceOptions::of(major));
    assert_eq!(source.psql("shop", "select count(*) from customers"), "1500");
    assert_eq!(fixture::psql(&source.database(APP, "analytics"), "select count(*) from events"), "3000");
    assert_eq!(source.psql("postgres", "show server_version").split('.').next(), Some(major.number().as_str()));
    source.crash();
    source.restart();
    assert_eq!(source.psql("shop", "select count(*) from customers"), "1500");
    source.delete();
    assert!(processes_below(scratch.path()).is_empty());
}

#[test]
fn a_source_starts_crashes_and_goes() {
    a_source_works(Major::Fifteen);
}

#[test]
fn a_source_of_postgres_18_starts_crashes_and_goes() {
    a_source_works(Major::Eighteen);
}

#[test]
fn a_source_can_keep_its_config_elsewhere() {
    let scratch = Scratch::new();
    let mut options = SourceOptions::of(Major::Fifteen).conf("work_mem = '7MB'\n");
    options.conf_outside = true;
    let source = Source::start(&scratch, options);
    assert_eq!(source.psql("shop", "show work_mem"), "7MB");
    assert!(!source.data_dir().join("postgresql.conf").exists());
}

#[test]
fn a_panicking_test_leaves_nothing() {
    let panicked = std::panic::catch_unwind(|| {
        let scratch = Scratch::new();
        let source = Source::start(&scratch, SourceOptions::of(Major::Fifteen));
        let path = scratch.path().to_owned();
        std::panic::panic_any((path, source.url(POSTGRES)));
    });
    let payload = panicked.expect_err("it panics");
    let (path, url) = payload.downcast_ref::<(std::path::PathBuf, String)>().expect("what it carried");
    assert!(!path.exists() && processes_below(path).is_empty());
    assert!(fixture::try_psql(url, "select 1").is_err());
}

#[test]
fn moto_serves_a_bucket() {
    let scratch = Scratch::new();
    let moto = MotoServer::start(&scratch);
    assert!(moto.environment().iter().any(|(name, _)| name == "AWS_ENDPOINT_URL"));
}

/// Through a proxy, before another that answers by itself: its share of the time is at most what both cost.
#[test]
fn an_unruly_store_takes_as_long_as_it_is_told_and_little_itself() {
    let last = UnrulyStore::before(free_port(), 1);
    last.obey(Conduct { rules: vec![Rule::new(Fault::Status(200))], ..Conduct::default() });
    let first = UnrulyStore::before(last.port(), 2);
    let url = format!("http://127.0.0.1:{}/offshoot/key", first.port());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let client = reqwest::Client::new();
    let took = |requests: usize| {
        let mut took: Vec<Duration> = (0..requests)
            .map(|_| {
                let began = Instant::now();
                let answer = runtime.block_on(client.get(&url).send()).expect("it answers");
                assert_eq!(answer.status(), 200);
                began.elapsed()
            })
            .collect();
        took.sort();
        took
    };
    let (began, quick) = (Instant::now(), took(1000));
    println!(
        "two proxies: {:?} in the middle, {:.0} requests/s one by one",
        quick[500],
        1000.0 / began.elapsed().as_secs_f64()
    );
    assert!(quick[500] < Duration::from_millis(4), "{:?} in the middle", quick[500]);
    let crowd = async {
        let began = Instant::now();
        let asks = (0..16).map(|_| async {
            for _ in 0..200 {
                client.get(&url).send().await.expect("it answers");
            }
        });
        futures::future::join_all(asks).await;
        3200.0 / began.elapsed().as_secs_f64()
    };
    println!("two proxies: {:.0} requests/s by 16 at once", runtime.block_on(crowd));
    first.obey(Conduct { latency: Latency::measured(), ..Conduct::default() });
    let slow = took(300);
    let (median, p90) = (slow[150].as_secs_f64() * 1000.0, slow[270].as_secs_f64() * 1000.0);
    assert!((17.0..32.0).contains(&median) && (33.0..65.0).contains(&p90), "median {median} ms, 90 % in {p90} ms");
    assert_eq!(first.counts().of("GET", "/key"), 4500);
    assert_eq!(first.counts().total(), last.counts().total());
}
