//! How much memory a masked import takes, whatever the size of a value: what is kept, redacted, hashed or replaced is never held, and anything else
//! a few times.

use crate::fixture::*;
use std::time::Duration;

/// Values of 100 MB that are kept, of 100 MB and of 40 MB that are masked, and a small one in each row that is, too. Nothing is compressed, so that no
/// page is spared.
const LARGE: &str = "
    create table letters (id int primary key, sender text, body text, scan bytea);
    alter table letters alter body set storage external, alter scan set storage external;
    insert into letters select n, 'sender ' || n, repeat(md5(n::text), 3276800), null from generate_series(1, 2) n;
    insert into letters select n, 'sender ' || n, null, decode(repeat(md5(n::text), 6553600), 'hex') from (values (4)) v (n);
    create table remarks (id int primary key, sender text, remark text, said text, gone text, scan bytea);
    alter table remarks alter remark set storage external, alter said set storage external, alter gone set storage external,
        alter scan set storage external;
    insert into remarks select 1, 'sender 1', repeat(E'remark\n1€ ', 10000000);
    insert into remarks select 2, 'sender 2', null, repeat('said so ', 12500000);
    insert into remarks select 3, 'sender 3', null, null, repeat('gone ', 20000000);
    insert into remarks select 4, 'sender 4', null, null, null, decode(repeat(md5('remark 4'), 6553600), 'hex');
    create table companies (id int primary key, name text);
    alter table companies alter name set storage external;
    insert into companies values (1, repeat('Company ', 5000000));
    create table documents (id int primary key, document jsonb);
    alter table documents alter document set storage external;
    insert into documents select 1, jsonb_build_object('list', jsonb_agg(n % 7), 'mail', 'somebody@else.example') from generate_series(1, 12000000) n;";
const RULES: &str = r#"
key_env = "CLINIC_MASKING_KEY"
unlisted_column = "keep"
[database.shop.table."public.letters".column]
sender = "hmac"
[database.shop.table."public.remarks".column]
sender = "hmac"
remark = "redact"
said = "hmac"
gone = "null"
scan = "redact"
[database.shop.table."public.companies".column]
name = "company"
[database.shop.table."public.documents".column]
document = { json = { "$.mail" = "email" } }
"#;
/// Bytes. The name of 40 MB is held raw and with what is read next to it, in buffers that double as they grow.
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
    for (sql, expected) in [
        ("select count(*) from remarks where remark = repeat('*', 100000000)", "1"),
        ("select count(*) from remarks where scan = decode(repeat('00', 104857600), 'hex')", "1"),
        ("select count(said), max(length(said)), count(gone) from remarks", "1|32|0"),
        ("select count(*) from companies where length(name) < 100 and name !~ 'Company Company'", "1"),
        (
            "select jsonb_array_length(document -> 'list'), document -> 'list' -> 77, document ->> 'mail' ~ 'else' from documents",
            "12000000|0|f",
        ),
    ] {
        assert_eq!(masked.psql("shop@x", sql), expected, "{sql}");
    }
    assert!(most < BOUND, "{} MiB of memory", most >> 20);
}
