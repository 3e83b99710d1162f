//! What a rules file may say, and what it may not.

use super::*;

const LEAST: &str = "key_env = \"K\"\n";

fn parse(text: &str) -> Result<Rules, String> {
    Rules::parse(text, Path::new("/etc/offshoot"))
}

fn column(rule: &str) -> Result<ColumnRule, String> {
    let text = format!("{LEAST}[domain.mail]\nmask = \"email\"\n[database.d.table.\"s.t\".column]\nc = {rule}\n");
    parse(&text).map(|rules| rules.databases["d"].tables["s.t"].columns["c"].clone())
}

#[test]
fn the_least_file_denies_everything() {
    let rules = parse(LEAST).expect("valid");
    assert_eq!(rules.unlisted("d", "s.t"), Unlisted::Deny);
    assert_eq!(
        (rules.large_objects, rules.role_passwords, rules.comments),
        (LargeObjects::Deny, Kept::Drop, Kept::Drop)
    );
}

#[test]
fn the_key_has_one_place_and_no_default() {
    assert!(parse("").expect_err("refused").contains("key_env or key_file"));
    assert!(parse("key_env = \"K\"\nkey_file = \"k\"\n").is_err());
    let rules = parse("key_file = \"shop.key\"\n").expect("valid");
    assert!(matches!(rules.key, KeySource::File(path) if path == Path::new("/etc/offshoot/shop.key")));
}

#[test]
fn a_rule_is_a_name_or_a_table() {
    assert!(matches!(column("\"mail\""), Ok(ColumnRule::Mask(Mask { domain, .. })) if domain == "mail"));
    assert!(
        matches!(column("\"uuid\""), Ok(ColumnRule::Mask(Mask { domain, spec: MaskSpec::Uuid })) if domain == "uuid")
    );
    let permuted = column("{ mask = \"int\", min = 1, max = 5000, domain = \"ids\" }");
    assert!(matches!(permuted, Ok(ColumnRule::Mask(Mask { domain, .. })) if domain == "ids"));
    assert!(matches!(column("{ each = { fields = { a = \"mail\" } } }"), Ok(ColumnRule::Each(_))));
    assert!(matches!(
        column("{ json = { \"$.a\" = \"mail\" } }"),
        Ok(ColumnRule::Json { unlisted: UnlistedLeaf::Redact, .. })
    ));
    for (bad, reason) in [
        ("\"mial\"", "neither"),
        ("\"int\"", "neither"),
        ("7", "name of a mask"),
        ("{ mask = \"email\", att = \"x\" }", "att"),
        ("{ each = \"mail\", fields = {} }", "no meaning"),
        ("{ json = { \"a\" = \"mail\" } }", "path"),
        ("{ json = {}, unlisted = \"drop\" }", "unlisted"),
        ("{}", "one of"),
    ] {
        let error = column(bad).expect_err(bad);
        assert!(error.contains(reason) && error.contains("s.t.c"), "{bad}: {error}");
    }
}

#[test]
fn unlisted_columns_are_relaxed_where_it_is_written() {
    let text = format!(
        "{LEAST}[database.a]\nunlisted_column = \"keep\"\n[database.b.table.\"s.t\"]\nunlisted_column = \"keep\"\n\
         [database.a.table.\"s.t\"]\nunlisted_column = \"deny\"\n"
    );
    let rules = parse(&text).expect("valid");
    let unlisted = |database, table| rules.unlisted(database, table);
    assert_eq!((unlisted("a", "s.u"), unlisted("a", "s.t")), (Unlisted::Keep, Unlisted::Deny));
    assert_eq!((unlisted("b", "s.t"), unlisted("b", "s.u")), (Unlisted::Keep, Unlisted::Deny));
}

#[test]
fn the_first_pattern_that_fits_counts() {
    let text = format!(
        "{LEAST}[[pattern]]\ncolumn = \"*mail\"\ntype = \"text\"\nrule = \"email\"\n\
         [[pattern]]\ncolumn = \"*\"\ntable = \"log.*\"\nrule = \"null\"\n"
    );
    let rules = parse(&text).expect("valid");
    let number = |table, column, ty| rules.pattern("d", table, column, ty).map(|(number, _)| number);
    assert_eq!(number("log.t", "email", "text"), Some(1));
    assert_eq!(number("log.t", "email", "citext"), Some(2));
    assert_eq!(number("s.t", "other", "text"), None);
}

#[test]
fn what_says_the_same_has_the_same_fingerprint() {
    let one =
        parse(&format!("{LEAST}[database.d.table.\"s.t\".column]\na = \"email\"\nb = \"keep\"\n")).expect("valid");
    let same = "# looked at\nkey_env = \"OTHER\"\n[database.d.table.\"s.t\".column]\nb = \"keep\"\n\
                a = { mask = \"email\", at = \"example.com\" }\n";
    assert_eq!(one.fingerprint(), parse(same).expect("valid").fingerprint());
    let other = parse(&format!("{LEAST}[database.d.table.\"s.t\".column]\na = \"email\"\n")).expect("valid");
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn typing_errors_are_named() {
    assert!(parse("key_envv = \"K\"\n").is_err());
    assert!(
        parse(&format!("{LEAST}[database.d.table.t.column]\na = \"keep\"\n"))
            .expect_err("refused")
            .contains("public.t")
    );
    assert!(parse(&format!("{LEAST}[domain.email]\nmask = \"email\"\n")).expect_err("refused").contains("another"));
}

#[test]
fn the_sample_is_valid_and_says_what_the_defaults_are() {
    let sample = parse(include_str!("../../../config/masking.toml")).expect("the sample parses");
    let least = parse(LEAST).expect("valid");
    assert_eq!(sample.unlisted_column, least.unlisted_column);
    assert_eq!((sample.large_objects, sample.role_passwords), (least.large_objects, least.role_passwords));
    assert_eq!((sample.comments, sample.keep_settings), (least.comments, least.keep_settings));
    assert_eq!(sample.databases["shop"].tables.len(), 3);
}
