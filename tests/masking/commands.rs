//! `offshoot masking check` and `preview`: what the rules would do to a source, before anything is imported.

use crate::fixture::*;
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

/// What `check --json` says of a column.
fn about<'a>(check: &'a Value, table: &str, column: &str) -> &'a Value {
    let rows = check["columns"].as_array().unwrap_or_else(|| panic!("columns are a list: {check}"));
    let found: Vec<&Value> = rows.iter().filter(|row| row["table"] == table && row["column"] == column).collect();
    assert_eq!(found.len(), 1, "{table}.{column} is there once: {check}");
    found[0]
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
    for (table, column, type_name, rule, because) in [
        ("public.customers", "email", "text", "email", "listed"),
        ("public.customers", "born", "date", "date_shift", "listed"),
        ("public.orders", "customer_id", "bigint", "int", "refers to public.customers.id"),
        ("public.order_items", "price", "numeric(10,2)", "keep", "unlisted"),
        ("public.events", "payload", "jsonb", "keep", "unlisted"),
    ] {
        let found = about(&json, table, column);
        assert!(found["type"] == type_name && found["rule"] == rule && found["because"] == because, "{found}");
    }
    assert_eq!(about(&json, "public.events", "at")["database"], "analytics");
    assert_eq!(json["problems"].as_array().map(Vec::len), Some(0), "{json}");
    let columns = "select count(*) from information_schema.columns join information_schema.tables using (table_schema, table_name) \
                   where table_schema = 'public' and table_type = 'BASE TABLE'";
    let all = ["shop", "analytics"].map(|database| masked.source.psql(database, columns));
    let all: usize = all.iter().map(|count| count.parse::<usize>().expect("a number")).sum();
    assert_eq!(json["columns"].as_array().map(Vec::len), Some(all), "every column of every table: {json}");
}

#[test]
fn check_fails_and_suggests_where_a_column_has_no_rule() {
    let masked = Masked::shop(&COMPLETE.replace("phone = \"phone\"\n", ""));
    masked.source.psql("shop", "alter table customers add column backup_email text, add column loyalty int");
    let (text, code) = run(&masked, "check", &[]);
    assert_eq!(code, Some(1), "{text}");
    let lines_with = |column: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(column)).collect();
        assert!(!lines.is_empty(), "{column} is not in:\n{text}");
        lines.join("\n")
    };
    assert!(lines_with("backup_email").contains("email"));
    assert!(lines_with("loyalty").to_lowercase().contains("no rule"), "{}", lines_with("loyalty"));
    assert!(lines_with("phone").to_lowercase().contains("no rule"), "{}", lines_with("phone"));

    let (json, code) = run(&masked, "check", &["--json"]);
    assert_eq!(code, Some(1));
    let json: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
    for (column, rule) in [("phone", "phone"), ("backup_email", "email")] {
        let found = about(&json, "public.customers", column);
        assert!(found["rule"].is_null(), "{found}");
        assert!(found["suggestion"].to_string().contains(rule), "{found}");
    }
    assert!(about(&json, "public.customers", "email")["suggestion"].is_null());
    let problems = json["problems"].to_string();
    for column in ["phone", "backup_email", "loyalty"] {
        assert!(problems.contains(&format!("public.customers.{column}")), "{problems}");
    }
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
