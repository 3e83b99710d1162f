//! The search for raw values before a base is sealed: what it finds, and what it knows to be nobody's.

use crate::fixture::*;

#[test]
fn a_raw_value_that_is_kept_somewhere_else() {
    let masked = Masked::shop(&shop_rules("", ""));
    masked
        .source
        .psql("shop", "create table letters as select id, 'Dear ' || email || ', thank you' as text from customers");
    import_refused(&masked, &["public.letters", "public.customers.email"]);
    // In a document, and compressed: long enough to be stored out of line.
    masked.source.psql("shop", "drop table letters; create table drafts (id int, body jsonb)");
    masked.source.psql(
        "shop",
        "insert into drafts select 1, jsonb_build_object('card', string_agg(card_number, ' ')) from customers",
    );
    import_refused(&masked, &["public.drafts", "public.customers.card_number"]);
}

#[test]
fn raw_values_of_what_nothing_comes_along_of_are_searched_for() {
    let masked = Masked::shop(&shop_rules(
        "",
        "[database.shop.table.\"public.people\".column]\n\
         gone = \"null\"\nfixed = { mask = \"constant\", value = \"somebody\" }\nanew = \"default\"\n\
         made = { mask = \"template\", template = \"person {id}\" }\nsaid = { mask = \"expression\", sql = \"'person'\" }\n\
         doc = { json = {} }\ntel = \"phone\"\nnumber = { mask = \"int\", min = 1, max = 900000000000000 }\n",
    ));
    masked.source.psql(
        "shop",
        "create table people as select i as id, md5('a' || i) as gone, md5('b' || i) as fixed, md5('c' || i) as anew, md5('d' || i) as made,
                md5('e' || i) as said, jsonb_build_object('unlisted', md5('f' || i)) as doc, '030 ' || 12345678 + i * 7919 as tel,
                123456789012347 + i::bigint * 7919777 as number from generate_series(1, 400) i;
         alter table people add primary key (id)",
    );
    let columns = ["gone", "fixed", "anew", "made", "said", "doc", "tel", "number"];
    for column in columns {
        let value = if column == "doc" { "doc ->> 'unlisted'" } else { column };
        masked.source.psql("shop", &format!("create table letters_{column} as select {value} from people"));
    }
    let names: Vec<String> =
        columns.iter().flat_map(|name| [format!("public.people.{name}"), format!("public.letters_{name}")]).collect();
    import_refused(&masked, &names.iter().map(String::as_str).collect::<Vec<_>>());
    // Somebody has looked at them.
    let excused: Vec<String> = columns.iter().map(|name| format!("\"shop.public.people.{name}\"")).collect();
    let text = std::fs::read_to_string(masked.scratch.join("masking.toml")).expect("it was written");
    masked.write_rules(&format!("unsearched_columns = [{}]\n{text}", excused.join(", ")));
    masked.import();
    masked.write_rules(&format!("unsearched_columns = [\"shop.public.people.gine\"]\n{text}"));
    let error = masked.node.fail(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
    assert!(error.contains("public.people.gine"), "{error}");

    masked.write_rules(&text);
    for column in columns {
        masked.source.psql("shop", &format!("drop table letters_{column}"));
    }
    masked.import();
}

#[test]
fn what_any_cluster_or_mask_has_is_no_leak() {
    let masked = Masked::shop(&shop_rules(
        "city = \"last_name\"",
        "[database.shop.table.\"public.words\".column]\nword = \"null\"\nname = \"null\"\ndoc = { json = {} }\nkey = \"default\"\n",
    ));
    masked.source.psql(
        "shop",
        "create table words (word text, name text, doc jsonb, key bigint default nextval('products_id_seq'), id serial);
         insert into words (word, name, doc, key) select (array['information_schema', 'invalid', 'replica', 'pg_catalog.default'])[1 + i % 4],
                (array['Jennifer', 'Martinez', 'Christopher'])[1 + i % 3], jsonb_build_object('status', 'disabled', 'n', i), 100000 + i
         from generate_series(1, 30) i",
    );
    masked.import();
}
