//! The fixture's own parts that need no product: a broken fixture would make every other test lie.

mod fixture;

use fixture::{APP, Major, MotoServer, POSTGRES, Scratch, Source, SourceOptions, processes_below};

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
