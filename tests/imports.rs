//! Getting a database in: from a live server under load, from a data directory, again, half-way, and every way it can be refused.

mod fixture;

use fixture::*;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A node that serves nothing yet, and a source made to measure.
struct Import {
    node: Node,
    source: Source,
    scratch: Scratch,
}

impl Import {
    fn from(options: SourceOptions) -> Import {
        let scratch = Scratch::new();
        let source = Source::start(&scratch, options);
        Import { node: Node::new(&scratch, "node", &NodeConfig::default()), source, scratch }
    }

    fn usual() -> Import {
        Import::from(SourceOptions::of(Major::Fifteen))
    }

    /// Runs an import that must fail; its complaint must name each of `names`, whatever the case, and show no password.
    fn refused(&self, from: &str, names: &[&str]) -> String {
        let error = self.node.fail(&["import", "shop", "--from", from]);
        for name in names {
            assert!(error.to_lowercase().contains(&name.to_lowercase()), "the error does not name {name:?}: {error}");
        }
        for (_, password) in [POSTGRES, REPLICATOR] {
            assert!(!error.contains(password), "the error shows a password: {error}");
        }
        assert!(self.node.bases().is_empty(), "a refused import leaves no base");
        error
    }

    fn data_dir(&self) -> String {
        self.source.data_dir().display().to_string()
    }

    /// Serves the imported shop: it must be whole.
    fn check(&mut self) {
        self.node.start();
        let url = |database: &str| self.node.url(APP, database);
        assert_eq!(psql(&url("shop@x"), "select count(*) from customers"), "1500");
        assert_eq!(psql(&url("analytics@x"), "select count(*) from events"), "3000");
        psql(&url("shop@x"), "insert into products (sku, name, price, stock) values ('new', 'new', 1, 1)");
    }
}

#[test]
fn a_role_with_replication_alone_can_import_a_live_server() {
    let mut import = Import::usual();
    let printed = import.node.run(&["import", "shop", "--from", &import.source.url(REPLICATOR)]);
    let errors = String::from_utf8_lossy(&printed.stderr).into_owned();
    assert!(printed.status.success(), "{errors}");
    assert!(
        !errors.contains('\r') && !errors.contains('\u{1b}'),
        "without a terminal it prints plain lines: {errors:?}"
    );
    assert!(!errors.contains(REPLICATOR.1));
    let bases = import.node.bases();
    assert_eq!(bases.len(), 1, "{bases:?}");
    assert_eq!(bases[0]["version"], 1, "{bases:?}");
    assert!(!bases[0].to_string().contains(REPLICATOR.1), "the source is kept without its password");
    assert_eq!(
        import.source.psql("postgres", "select count(*) from pg_replication_slots"),
        "0",
        "its slot went with it"
    );
    import.check();
}

#[test]
fn a_server_under_load_is_imported_as_of_one_moment() {
    let mut import = Import::usual();
    let url = import.source.database(POSTGRES, "shop");
    assert!(pgbench(&url, &["-i", "-s", "5", "-q"]).status.success());
    let load = pgbench_command(&url, &["-n", "-c", "4", "-T", "600"]).spawn().expect("pgbench runs");
    until("some transactions", 60, || (psql(&url, "select count(*) > 200 from pgbench_history") == "t").then_some(()));
    import.node.import(&import.source.url(POSTGRES));
    signal(load.id() as i32, Signal::SIGTERM);
    let _ = load.wait_with_output();
    import.node.start();
    let branch = import.node.url(POSTGRES, "shop@x");
    let sums = "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
                (select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history)";
    let sums = psql(&branch, sums);
    let each: Vec<&str> = sums.split('|').collect();
    assert!(each.iter().all(|sum| *sum == each[0]), "the four sums of pgbench differ: {sums}");
    assert_eq!(psql(&branch, "select count(*) > 200 from pgbench_history"), "t");
    psql(&branch, "create extension amcheck; select bt_index_check('pgbench_accounts_pkey', true)");
}

#[test]
fn a_stopped_data_directory_is_imported_and_left_as_it_was() {
    let mut import = Import::usual();
    import.source.stop();
    let before = digest(&import.source.data_dir());
    import.node.import(&import.data_dir());
    assert_eq!(digest(&import.source.data_dir()), before, "an import reads");
    import.check();
}

/// Bytes before a WAL file's end: a shutdown checkpoint's record, of 120 with its padding, begins there and ends in the next file.
const SHORT_OF_END: i64 = 100;

/// Writes WAL until `left` bytes or up to 56 fewer are left of its file: that is how long the smallest of these records is.
fn fill_wal_file(url: &str, left: i64) {
    psql(
        url,
        &format!(
            "do $$ declare remaining int; begin loop
                 remaining := (select setting::int from pg_settings where name = 'wal_segment_size')
                     - (select file_offset from pg_walfile_name_offset(pg_current_wal_insert_lsn()));
                 exit when remaining between {left} - 56 and {left};
                 perform pg_logical_emit_message(false, '', repeat('x', case when remaining > {left}
                     then greatest(0, remaining - remaining / 64 - 200 - {left}) else 0 end));
             end loop; end $$"
        ),
    );
}

/// Bytes from the last checkpoint's record to the end of its WAL file, and its place in the whole WAL.
fn last_checkpoint(url: &str) -> (i64, i64) {
    let sql = "select setting::bigint - (redo_lsn - '0/0') % setting::bigint, (redo_lsn - '0/0')::bigint
               from pg_control_checkpoint(), pg_settings where name = 'wal_segment_size'";
    let found = psql(url, sql);
    let (left, place) = found.split_once('|').expect("two columns");
    (left.parse().expect("a number"), place.parse().expect("a number"))
}

#[test]
fn checkpoints_that_cross_the_end_of_a_wal_file_are_found_again() {
    let crosses = |(left, _): (i64, i64)| (1..114).contains(&left);
    let mut import = Import::usual();
    // The source's own.
    fill_wal_file(&import.source.url(POSTGRES), SHORT_OF_END);
    import.source.stop();
    import.source.restart();
    let of_source = last_checkpoint(&import.source.url(POSTGRES));
    assert!(crosses(of_source), "{of_source:?}");
    fill_wal_file(&import.source.url(POSTGRES), SHORT_OF_END);
    import.source.stop();
    import.node.import(&import.data_dir());
    import.check();

    // A branch's.
    let branch = import.node.url(POSTGRES, "shop@x");
    fill_wal_file(&branch, SHORT_OF_END);
    import.node.stop();
    import.node.start();
    assert!(crosses(last_checkpoint(&branch)), "{:?}", last_checkpoint(&branch));
    assert_eq!(psql(&branch, "select count(*) from products where sku = 'new'"), "1");

    // The base's, which comes after what the private start writes.
    import.source.restart();
    import.source.stop();
    import.node.stop();
    import.node.import(&import.data_dir());
    import.node.start();
    let of_base = last_checkpoint(&import.node.url(POSTGRES, "shop@y"));
    import.source.restart();
    let written = of_base.1 - last_checkpoint(&import.source.url(POSTGRES)).1;
    assert!((0..10_000).contains(&written), "{written}");
    fill_wal_file(&import.source.url(POSTGRES), written + SHORT_OF_END);
    import.source.stop();
    import.node.stop();
    import.node.import(&import.data_dir());
    import.node.start();
    let branch = import.node.url(POSTGRES, "shop@z");
    assert!(crosses(last_checkpoint(&branch)), "{:?}, after {written} bytes", last_checkpoint(&branch));
    assert_eq!(psql(&branch, "select count(*) from customers"), "1500");
}

fn digest(folder: &Path) -> String {
    let script = "cd \"$0\" && find . -printf '%p %s %m %U %T@\\n' | sort | md5sum && find . -type f -print0 | sort -z | xargs -0 md5sum | md5sum";
    let output = Command::new("bash").args(["-c", script]).arg(folder).output().expect("bash runs");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_server_whose_settings_live_elsewhere_keeps_them() {
    let mut options = SourceOptions::of(Major::Fifteen).conf("work_mem = '7MB'\ndefault_statistics_target = 123\n");
    options.conf_outside = true;
    let mut import = Import::from(options);
    import.node.import(&import.source.url(POSTGRES));
    import.check();
    let settings = "select current_setting('work_mem'), current_setting('default_statistics_target')";
    assert_eq!(psql(&import.node.url(APP, "shop@x"), settings), "7MB|123");
}

/// What is right for production and would keep a clone from starting, hang its commits, or let it reach out.
#[test]
fn settings_that_cannot_work_in_a_clone_are_overridden() {
    let conf = "archive_mode = on\narchive_command = 'false'\nshared_preload_libraries = 'no_such_library'\n\
                ssl = on\nssl_cert_file = '/nowhere/server.crt'\nssl_key_file = '/nowhere/server.key'\n\
                listen_addresses = '*'\nport = 5999\nunix_socket_directories = '/nowhere'\n\
                synchronous_standby_names = 'nobody'\nprimary_conninfo = 'host=nowhere'\nprimary_slot_name = 'nothing'\n\
                logging_collector = on\nlog_directory = '/nowhere'\nexternal_pid_file = '/nowhere/pid'\nhuge_pages = on\n\
                hot_standby = off\n";
    let mut options = SourceOptions::of(Major::Fifteen).conf(conf);
    for setting in [
        "archive_mode=off",
        "shared_preload_libraries=",
        "ssl=off",
        "synchronous_standby_names=",
        "logging_collector=off",
        "external_pid_file=",
        "huge_pages=off",
    ] {
        options = options.argument(setting);
    }
    let mut import = Import::from(options);
    import.node.import(&import.source.url(POSTGRES));
    import.check();
    let settings = "select current_setting('archive_mode'), current_setting('shared_preload_libraries'), current_setting('synchronous_standby_names')";
    assert_eq!(psql(&import.node.url(POSTGRES, "shop@x"), settings), "off||");
}

#[test]
fn an_import_that_dies_half_way_leaves_no_base_and_can_be_run_again() {
    let mut import = Import::usual();
    for after_ms in [0, 30, 150] {
        let mut running = import.node.spawn(&["import", "shop", "--from", &import.source.url(POSTGRES)]);
        let bases = import.node.store_dir().join("v1/project/shop/base");
        until("the import to begin writing", 60, || {
            assert!(
                running.try_wait().expect("a child can be waited for").is_none(),
                "the import ended before it could be killed"
            );
            bases.read_dir().is_ok_and(|mut entries| entries.next().is_some()).then_some(())
        });
        pause(Duration::from_millis(after_ms));
        let ended = running.try_wait().expect("a child can be waited for");
        running.kill().expect("a child can be killed");
        running.wait().expect("a child can be waited for");
        if ended.is_none() {
            assert!(import.node.bases().is_empty(), "killed {after_ms} ms after its first byte, it left a base");
        }
        until("the source to notice", 30, || {
            (import.source.psql("postgres", "select count(*) from pg_replication_slots") == "0").then_some(())
        });
    }
    import.node.import(&import.source.url(POSTGRES));
    import.check();
}

#[test]
fn a_source_that_dies_half_way_leaves_no_base() {
    let mut import = Import::usual();
    let running = import.node.spawn(&["import", "shop", "--from", &import.source.url(POSTGRES)]);
    let bases = import.node.store_dir().join("v1/project/shop/base");
    // Caught early enough, this is in the middle of the copy; later, the base may be whole by rights.
    until("the import to begin writing", 60, || {
        bases.read_dir().is_ok_and(|mut entries| entries.next().is_some()).then_some(())
    });
    import.source.crash();
    let output = within("an import without its source", 60, || running.wait_with_output().expect("it ends"));
    if output.status.success() {
        assert_eq!(import.node.bases().len(), 1);
    } else {
        assert!(import.node.bases().is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_second_import_while_serving_makes_base_2_and_old_branches_stay() {
    let shop = Fixture::new().live_source().idle_timeout("1s").start();
    assert_eq!(shop.psql("shop@old", "select count(*) from customers"), "1500");
    shop.source().psql("shop", "create table news as select 1 as n");
    shop.node.import(&shop.source().url(POSTGRES));
    let mut versions: Vec<u64> = shop.node.bases().iter().filter_map(|base| base["version"].as_u64()).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2]);

    let mut n = 0;
    until("a new branch to come from base 2", 20, || {
        n += 1;
        try_psql(&shop.node.url(POSTGRES, &format!("shop@new-{n}")), "select n from news").ok()
    });
    assert!(shop.node.branch(&format!("shop@new-{n}")).parent.contains('2'));
    shop.node.wait_asleep("shop@old");
    assert_eq!(shop.psql("shop@old", "select to_regclass('news') is null, count(*) from customers"), "t|1500");
    assert!(shop.node.branch("shop@old").parent.contains('1'));
}

#[test]
fn wrong_password() {
    let import = Import::usual();
    import.refused(&import.source.url(("postgres", "wrong")), &["password", "postgres"]);
}

#[test]
fn nobody_listens() {
    let import = Import::usual();
    let port = free_port();
    import.refused(&format!("postgres://postgres:x@127.0.0.1:{port}/postgres"), &[&port.to_string()]);
}

#[test]
fn no_replication_privilege() {
    let import = Import::usual();
    import.refused(&import.source.url(("plain", "plain-pw")), &["replication", "plain"]);
}

#[test]
fn no_replication_line_in_pg_hba() {
    let mut import = Import::usual();
    import.source.stop();
    std::fs::write(import.source.data_dir().join("pg_hba.conf"), "host all all 127.0.0.1/32 scram-sha-256\n")
        .expect("the copy is ours");
    import.source.restart();
    import.refused(&import.source.url(POSTGRES), &["pg_hba.conf", "replication"]);
}

#[test]
fn wal_level_too_low() {
    let import = Import::from(SourceOptions::of(Major::Fifteen).conf("wal_level = minimal\nmax_wal_senders = 0\n"));
    import.refused(&import.source.url(POSTGRES), &["wal_level", "replica"]);
}

#[test]
fn no_wal_senders() {
    let import = Import::from(SourceOptions::of(Major::Fifteen).conf("max_wal_senders = 0\n"));
    import.refused(&import.source.url(POSTGRES), &["max_wal_senders"]);
}

#[test]
fn no_binaries_for_a_data_directory_of_another_version() {
    let mut import = Import::usual();
    import.source.stop();
    std::fs::write(import.source.data_dir().join("PG_VERSION"), "14\n").expect("the copy is ours");
    import.refused(&import.data_dir(), &["14", &Major::Fifteen.number()]);
}

#[test]
fn no_binaries_for_a_live_server_of_postgres_18() {
    let import = Import::from(SourceOptions::of(Major::Eighteen));
    import.refused(&import.source.url(POSTGRES), &["18", &Major::Fifteen.number()]);
}

#[test]
fn extra_tablespaces() {
    let mut import = Import::usual();
    let place = import.scratch.join("elsewhere");
    make_folder(&place);
    import.source.psql("postgres", &format!("create tablespace elsewhere location '{}'", place.display()));
    import.refused(&import.source.url(POSTGRES), &["tablespace", "elsewhere"]);
    import.source.stop();
    import.refused(&import.data_dir(), &["tablespace"]);
}

#[test]
fn a_running_data_directory() {
    let import = Import::usual();
    import.refused(&import.data_dir(), &["running"]);
}

#[test]
fn a_data_directory_that_was_not_shut_down_cleanly() {
    let mut import = Import::usual();
    import.source.crash();
    import.refused(&import.data_dir(), &["clean"]);
}

#[test]
fn no_data_directory_at_all() {
    let import = Import::usual();
    import.refused("/nowhere/at/all", &["/nowhere/at/all"]);
    let empty = import.scratch.join("empty");
    make_folder(&empty);
    import.refused(&empty.display().to_string(), &["PG_VERSION"]);
}

#[test]
fn an_unknown_project() {
    let import = Import::usual();
    let error = import.node.fail(&["import", "shopp", "--from", &import.source.url(POSTGRES)]);
    assert!(error.contains("shopp") && error.contains("shop"), "it lists the known ones: {error}");
}

#[test]
fn a_store_that_cannot_be_written() {
    let scratch = Scratch::new();
    let source = Source::start(&scratch, SourceOptions::of(Major::Fifteen));
    std::fs::write(scratch.join("file"), "not a folder").expect("the scratch folder is writable");
    let store = format!("{}/file/store", scratch.path().display());
    let config = NodeConfig { store_url: Some(format!("file://{store}")), ..NodeConfig::default() };
    let node = Node::new(&scratch, "node", &config);
    let error = node.fail(&["import", "shop", "--from", &source.url(POSTGRES)]);
    assert!(error.contains(&store), "it names the store: {error}");
}

/// Needs a file system of a few megabytes, and so root.
#[test]
fn a_full_disk() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a file system: run it as root, or leave it out by name"
    );
    let mut import = Import::usual();
    let store = import.node.store_dir();
    std::fs::create_dir(&store).expect("the scratch folder is writable");
    mount_tmpfs(&store, "size=2m");
    import.refused(&import.source.url(POSTGRES), &["space"]);
    mount_tmpfs(&store, "remount,size=512m");
    import.node.import(&import.source.url(POSTGRES));
    import.check();
}

fn mount_tmpfs(place: &Path, options: &str) {
    let status =
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place).status().expect("mount runs");
    assert!(status.success());
}
