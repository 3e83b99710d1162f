//! How much memory a masked import takes, whatever the size of a value: what is kept is never held, what is masked is held a few times.

use crate::fixture::*;
use std::time::Duration;

/// Values of 100 MB that are kept, one of 40 MB that is masked, and a small one in each row that is, too. Nothing is compressed, so that no
/// page is spared.
const LARGE: &str = "
    create table letters (id int primary key, sender text, body text, scan bytea);
    alter table letters alter body set storage external, alter scan set storage external;
    insert into letters select n, 'sender ' || n, repeat(md5(n::text), 3276800), null from generate_series(1, 3) n;
    insert into letters select n, 'sender ' || n, null, decode(repeat(md5(n::text), 6553600), 'hex') from generate_series(4, 5) n;
    create table remarks (id int primary key, sender text, remark text);
    alter table remarks alter remark set storage external;
    insert into remarks select n, 'sender ' || n, repeat('remark ' || n || '. ', 4000000) from generate_series(1, 2) n;";
const RULES: &str = r#"
key_env = "CLINIC_MASKING_KEY"
unlisted_column = "keep"
[database.shop.table."public.letters".column]
sender = "hmac"
[database.shop.table."public.remarks".column]
sender = "hmac"
remark = "redact"
"#;
/// Bytes. A masked value is held raw, masked and as COPY's text, in buffers that double as they grow.
const BOUND: u64 = 300 << 20;

/// The greatest part of it that a running process ever had in memory, in bytes (VmHWM of proc(5)); `None` once it has ended.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn an_import_holds_no_value_that_it_keeps_and_few_copies_of_one_that_it_masks() {
    let mut masked = Masked::shop(RULES);
    masked.source.psql("shop", LARGE);
    let mut import = masked.node.spawn(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
    let mut most = 0;
    until("the import to end", 240, || {
        most = peak(import.id()).unwrap_or(0).max(most);
        pause(Duration::from_millis(20));
        import.try_wait().expect("a child can be waited for")
    });
    let output = import.wait_with_output().expect("a child can be waited for");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eprintln!("{} MiB at most", most >> 20);
    assert!(most > 40 << 20, "{most} bytes: nothing was measured");

    masked.node.start();
    let kept = "select id, md5(body), md5(scan), length(sender) from letters order by id";
    let without_sender = |text: String| {
        text.lines().map(|line| line.rsplit_once('|').expect("columns").0.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(without_sender(masked.psql("shop@x", kept)), without_sender(masked.source.psql("shop", kept)));
    let stars = "select count(*) from remarks where remark = repeat('*', length(remark)) and length(remark) = 40000000";
    assert_eq!(masked.psql("shop@x", stars), "2");
    assert!(most < BOUND, "{} MiB of memory", most >> 20);
}
