//! Databases, rows and rules made from a seed, copied masked by the real binary, and looked at by an oracle that knows the promises of the rules and
//! nothing of the code.
//!
//! `OFFSHOOT_SEED` says which (the first of them), `OFFSHOOT_ROUNDS` how many clusters (`make soak`: 100).

use crate::fixture::*;
use crate::generated::{BREAKS, Break, Cluster, Verdicts, load, rules_file, secrets_within};
use serde_json::Value;
use std::path::PathBuf;

/// Databases of a cluster: an import costs as much as several of them.
const DATABASES: usize = 6;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A source with the databases of a seed, and a node whose project has their rules.
fn loaded(cluster: &Cluster) -> Masked {
    let masked = Masked::new(SourceOptions::of(Major::Fifteen), masked_config());
    for database in ["shop", "analytics"] {
        masked.source.psql("postgres", &format!("drop database {database}"));
    }
    load(cluster, &masked.source, masked.scratch.path());
    masked.write_rules(&rules_file(cluster, &masked.source).to_string());
    masked
}

#[test]
fn what_is_made_from_a_seed_is_masked_as_its_rules_say() {
    let (first, rounds) = (number("OFFSHOOT_SEED", 1), number("OFFSHOOT_ROUNDS", 1));
    for seed in first..first + rounds {
        // For what fails without naming it.
        eprintln!("seed {seed}");
        let cluster = Cluster::generate(seed, DATABASES);
        let mut masked = loaded(&cluster);
        let imported = masked.node.run(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
        let said = String::from_utf8_lossy(&imported.stderr);
        assert!(imported.status.success(), "seed {seed}: {said}");
        masked.node.start();
        let mut verdicts = Verdicts::new(&cluster);
        for database in &cluster.databases {
            let source = masked.source.database(POSTGRES, &database.name);
            verdicts.compare(database, &source, &masked.url(&format!("{}@x", database.name)));
        }
        let (rows, values) = verdicts.finish();
        eprintln!("{rows} rows, {values} different values of keyed masks");
    }
}

/// What `masking check --json` says, and whether it takes the rules. Nothing raw is in it.
fn checked(masked: &Masked, cluster: &Cluster) -> (Value, bool) {
    let output = masked.node.run(&["masking", "check", "shop", "--json", "--from", &masked.source.url(POSTGRES)]);
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    assert_eq!(secrets_within(&cluster.secrets, &String::from_utf8_lossy(&said)).len(), 0, "seed {}", cluster.seed);
    let said = String::from_utf8_lossy(&output.stdout);
    let check = serde_json::from_str(&said).unwrap_or_else(|error| panic!("seed {}: {error} in {said}", cluster.seed));
    (check, output.status.success())
}

#[test]
fn a_plan_with_one_thing_broken_is_refused_and_says_what() {
    let seed = number("OFFSHOOT_SEED", 1);
    let cluster = Cluster::generate(seed, DATABASES);
    let masked = loaded(&cluster);
    let good = rules_file(&cluster, &masked.source);
    let (check, is_taken) = checked(&masked, &cluster);
    assert!(is_taken, "seed {seed}: {}", check["problems"]);

    let mut waiting: Vec<&Break> = BREAKS.iter().collect();
    loop {
        // One for each database: they are planned one by one.
        let mut rules = good.clone();
        let mut broken = Vec::new();
        for database in &cluster.databases {
            let found = waiting.iter().enumerate().find_map(|(at, it)| Some((at, it.apply(database, &mut rules)?)));
            broken.extend(found.map(|(at, object)| (database, waiting.remove(at), object)));
        }
        if broken.is_empty() {
            break;
        }
        masked.write_rules(&rules.to_string());
        let (check, is_taken) = checked(&masked, &cluster);
        assert!(!is_taken, "seed {seed}");
        let problems = check["problems"].as_array().expect("a list");
        for (database, it, object) in &broken {
            let is_it = |problem: &&Value| {
                let says = |key: &str| problem[key].as_str().unwrap_or_default();
                says("database") == database.name
                    && says("object").starts_with(object.as_str())
                    && says("what").contains(it.what)
            };
            assert!(
                problems.iter().any(|problem| is_it(&problem)),
                "seed {seed}: {} in {} {object}: {problems:#?}",
                it.name,
                database.name
            );
        }
        let is_broken = |problem: &&Value| broken.iter().any(|(database, ..)| problem["database"] == *database.name);
        assert!(
            problems.iter().all(|problem| is_broken(&problem)),
            "seed {seed}: where nothing is broken: {problems:#?}"
        );
    }
    // A seed may have made nothing that one of them is for.
    let names: Vec<&str> = waiting.iter().map(|it| it.name).collect();
    assert!(
        if seed == 1 { waiting.is_empty() } else { waiting.len() < BREAKS.len() / 2 },
        "seed {seed}: not tried: {names:?}"
    );
    nothing_is_stored(&masked, &cluster);
}

/// An import under the rules as they are is refused before anything is written.
fn nothing_is_stored(masked: &Masked, cluster: &Cluster) {
    let output = masked.node.run(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
    assert!(!output.status.success(), "seed {}", cluster.seed);
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(secrets_within(&cluster.secrets, &String::from_utf8_lossy(&said)).len(), 0, "seed {}", cluster.seed);
    let below = |place: PathBuf| place.read_dir().into_iter().flatten().flatten().count();
    assert_eq!(below(masked.node.data_dir().join("import")), 0);
    assert_eq!(below(masked.node.store_dir().join("v1/project/shop/base")), 0);
    assert!(masked.node.bases().is_empty());
}
