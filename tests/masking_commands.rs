//! `offshoot masking check` and `preview`: what the rules would do to a source, before anything is imported.

mod fixture;

use fixture::*;
use serde_json::Value;

/// Every column of the shop's customers has a rule; its other tables are nobody's.
const COMPLETE: &str = r#"
key_env = "CLINIC_MASKING_KEY"
unlisted_column = "keep"
[database.shop.table."public.customers"]
unlisted_column = "deny"
[database.shop.table."public.customers".column]
id = { mask = "int", min = 1, max = 1000000 }
name = "name"
email = "email"
phone = "phone"
street = "street"
city = "city"
card_number = "card"
card_expires = "keep"
born = { mask = "date_shift", max_days = 30 }
note = "redact"
created_at = "keep"
"#;

/// Standard output and the exit code of `offshoot masking command shop --from SOURCE`.
fn run(masked: &Masked, command: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let url = masked.source.url(POSTGRES);
    let all = [&["masking", command, "shop", "--from", &url], arguments].concat();
    let output = within(command, 120, || masked.node.run(&all));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked") && !errors.contains("Usage:"), "{errors}");
    assert!(!errors.contains(POSTGRES.1), "no password: {errors}");
    assert!(masked.node.bases().is_empty(), "nothing was imported");
    (String::from_utf8(output.stdout).expect("it prints text"), output.status.code())
}

/// Every string below a value.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(all) => all.iter().flat_map(strings).collect(),
        Value::Object(all) => {
            all.iter().flat_map(|(key, value)| [vec![key.as_str()], strings(value)].concat()).collect()
        }
        _ => Vec::new(),
    }
}

/// The smallest object below `value` in which all of `wanted` are among the strings.
fn with<'a>(value: &'a Value, wanted: &[&str]) -> Option<&'a Value> {
    let below: Vec<&Value> = match value {
        Value::Array(all) => all.iter().collect(),
        Value::Object(all) => all.values().collect(),
        _ => Vec::new(),
    };
    let found = below.into_iter().find_map(|below| with(below, wanted));
    let has_all = || wanted.iter().all(|wanted| strings(value).contains(wanted));
    found.or_else(|| (value.is_object() && has_all()).then_some(value))
}

#[test]
fn check_shows_every_column_with_its_rule_and_why() {
    let masked = Masked::shop(COMPLETE);
    let (text, code) = run(&masked, "check", &[]);
    assert_eq!(code, Some(0), "{text}");
    for shown in
        ["customers", "order_items", "events", "payload", "card_expires", "date_shift", "numeric(10,2)", "customer_id"]
    {
        assert!(text.contains(shown), "{shown} is not in:\n{text}");
    }
    let line = text.lines().find(|line| line.contains("customer_id")).expect("it is there");
    assert!(line.contains("int") && line.contains("public.customers.id"), "it inherits, and says from where: {line}");

    let (json, code) = run(&masked, "check", &["--json"]);
    assert_eq!(code, Some(0));
    let json: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    for column in ["name", "email", "born", "created_at"] {
        with(&json, &["customers", column])
            .or(with(&json, &["public.customers", column]))
            .unwrap_or_else(|| panic!("{column}: {json}"));
    }
    let columns = "select count(*) from information_schema.columns join information_schema.tables using (table_schema, table_name) \
                   where table_schema = 'public' and table_type = 'BASE TABLE'";
    let tables = "(select count(*) from pg_class where relkind = 'v' and relname = 'revenue')";
    let all: usize = ["shop", "analytics"]
        .map(|database| masked.source.psql(database, columns).parse::<usize>().unwrap())
        .iter()
        .sum();
    // Two are a view's.
    assert_eq!(masked.source.psql("shop", &format!("select {tables}")), "1");
    let types = strings(&json).into_iter().filter(|text| *text == "type").count();
    assert_eq!(types, all - 2, "every column of every table has a type: {json}");
}

#[test]
fn check_fails_and_suggests_where_a_column_has_no_rule() {
    let masked = Masked::shop(&COMPLETE.replace("phone = \"phone\"\n", ""));
    masked.source.psql("shop", "alter table customers add column backup_email text, add column loyalty int");
    let (text, code) = run(&masked, "check", &[]);
    assert_eq!(code, Some(1), "{text}");
    let about = |column: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(column)).collect();
        assert!(!lines.is_empty(), "{column} is not in:\n{text}");
        lines.join("\n")
    };
    assert!(about("backup_email").contains("email"));
    assert!(about("loyalty").to_lowercase().contains("no rule"), "{}", about("loyalty"));
    assert!(about("phone").to_lowercase().contains("no rule"), "{}", about("phone"));

    let (json, code) = run(&masked, "check", &["--json"]);
    assert_eq!(code, Some(1));
    let json: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    let phone = with(&json, &["phone", "suggestion"]).unwrap_or_else(|| panic!("phone has a suggestion: {json}"));
    assert!(phone["suggestion"].to_string().contains("phone"), "{phone}");
}

#[test]
fn preview_shows_rows_before_and_after() {
    let masked = Masked::shop(COMPLETE);
    for arguments in [&[][..], &["--json"]] {
        let (text, code) = run(&masked, "preview", arguments);
        assert_eq!(code, Some(0), "{text}");
        let emails = masked.source.psql("shop", "select email from customers");
        let before = emails.lines().filter(|email| text.contains(*email)).count();
        assert!((1..100).contains(&before), "a few of the rows, not {before}:\n{text}");
        let after = text.matches("@example.com").count()
            - emails.lines().filter(|email| text.contains(*email) && email.ends_with("@example.com")).count();
        assert!(after >= 1, "and what becomes of them:\n{text}");
        assert!(text.contains("events"), "of every table:\n{text}");
        if !arguments.is_empty() {
            serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        }
    }
}

#[test]
fn both_refuse_what_an_import_refuses() {
    let masked = Masked::shop(&COMPLETE.replace("\"email\"", "\"emial\""));
    for command in ["check", "preview"] {
        let url = masked.source.url(POSTGRES);
        let error = masked.node.fail(&["masking", command, "shop", "--from", &url]);
        assert!(error.contains("emial") && error.contains("masking.toml"), "{error}");
        let error = masked.node.fail(&["masking", command, "shopp", "--from", &url]);
        assert!(error.contains("shopp"), "{error}");
    }
    let unmasked = Masked::new(SourceOptions::of(Major::Fifteen), config_with(""));
    let error = unmasked.node.fail(&["masking", "check", "shop", "--from", &unmasked.source.url(POSTGRES)]);
    assert!(error.to_lowercase().contains("masking"), "it says that the project has no rules: {error}");
}
