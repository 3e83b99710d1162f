//! `offshoot masking …`: what the rules do to a source, column by column, and a few rows before and after.

use super::import::raw_base;
use super::{known_project, print, source, table, until_interrupted};
use crate::masking::{self, Check, Preview, Rules};
use crate::model::ProjectName;
use crate::settings::Settings;
use crate::sources::{ImportError, Server, Source, clear_raw_side};
use anyhow::Context;
use clap::Subcommand;
use std::process::ExitCode;

/// Characters of a rule that a listing shows; `--json` has all.
const RULE: usize = 60;
/// Characters of a value that a preview shows.
const SHOWN: usize = 40;

#[derive(Subcommand)]
pub(super) enum MaskingCommand {
    /// Every column of every database, what is done to it and why; exits with 1 if the rules do not cover or fit the source
    Check {
        project: ProjectName,
        /// postgres://user@host/ [default: the project's source]
        #[arg(long)]
        from: Option<String>,
        /// The project's current base in the raw store instead
        #[arg(long, conflicts_with = "from")]
        from_raw: bool,
        #[arg(long)]
        json: bool,
    },
    /// A few rows of each table before and after; this shows raw values
    Preview {
        project: ProjectName,
        /// postgres://user@host/ [default: the project's source]
        #[arg(long)]
        from: Option<String>,
        /// The project's current base in the raw store instead
        #[arg(long, conflicts_with = "from")]
        from_raw: bool,
        /// Only tables whose schema.table holds this
        #[arg(long)]
        table: Option<String>,
        /// Of each table
        #[arg(long, default_value_t = 3)]
        rows: usize,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(settings: Settings, command: MaskingCommand) -> anyhow::Result<ExitCode> {
    match command {
        MaskingCommand::Check { project, from, from_raw, json } => {
            let rules = rules(&settings, &project)?;
            let check = match from_raw {
                true => {
                    let base = raw_base(&settings, &project).await?;
                    looked_at(&settings, base.look(&settings, async |server| masking::check(server, &rules).await))
                        .await??
                }
                false => masking::check(&server(&settings, &project, from)?, &rules).await?,
            };
            print_check(&check, json)?;
            Ok(if check.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        MaskingCommand::Preview { project, from, from_raw, table, rows, json } => {
            let rules = rules(&settings, &project)?;
            let mut previews = match from_raw {
                true => {
                    let base = raw_base(&settings, &project).await?;
                    let preview = async |server: &Server| masking::preview(server, &rules, rows).await;
                    looked_at(&settings, base.look(&settings, preview)).await??
                }
                false => masking::preview(&server(&settings, &project, from)?, &rules, rows).await?,
            };
            previews.retain(|preview| table.as_ref().is_none_or(|part| preview.table.contains(part)));
            print_previews(&previews, json)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a look at a raw base comes to. Nothing of it stays behind, also where a signal ends it.
async fn looked_at<T>(settings: &Settings, look: impl Future<Output = Result<T, ImportError>>) -> anyhow::Result<T> {
    match until_interrupted(look).await {
        Some(looked) => Ok(looked?),
        None => {
            clear_raw_side(&settings.server.data_dir).await?;
            anyhow::bail!("interrupted")
        }
    }
}

fn rules(settings: &Settings, project: &ProjectName) -> anyhow::Result<Rules> {
    let rules = known_project(settings, project)?.masking.as_deref();
    let rules =
        rules.with_context(|| format!("project {project} has no masking in the config; name a rules file there"))?;
    Ok(Rules::load(rules)?)
}

fn server(settings: &Settings, project: &ProjectName, from: Option<String>) -> anyhow::Result<Server> {
    match source(settings, project, from)? {
        Source::Server(server) => Ok(*server),
        Source::DataDirectory(path) | Source::Dump(path) => {
            anyhow::bail!(
                "{} is no running server; start Postgres on it, or restore it into one, and give its URL, or make a raw base of it and say --from-raw",
                path.display()
            )
        }
    }
}

fn print_check(check: &Check, json: bool) -> anyhow::Result<()> {
    if json {
        return print(serde_json::to_string_pretty(check)?);
    }
    let mut listing = table(&["DATABASE", "TABLE", "COLUMN", "TYPE", "RULE", "BECAUSE"]);
    for column in &check.columns {
        let (rule, because) = match (&column.rule, &column.suggestion) {
            (Some(rule), _) => (shorten(rule), column.because.clone().unwrap_or_default()),
            (None, Some(suggestion)) => {
                ("?".to_owned(), format!("perhaps {}: {}", suggestion.rule, suggestion.because))
            }
            (None, None) => ("?".to_owned(), "nothing speaks of a person; perhaps keep".to_owned()),
        };
        listing.add_row([&column.database, &column.table, &column.column, &column.type_name, &rule, &because]);
    }
    let problems = check.problems.iter().map(|problem| format!("problem: {problem}"));
    print(std::iter::once(listing.to_string()).chain(problems).collect::<Vec<_>>().join("\n"))
}

fn print_previews(previews: &[Preview], json: bool) -> anyhow::Result<()> {
    if json {
        return print(serde_json::to_string_pretty(previews)?);
    }
    for preview in previews {
        print(format!("{}: {}", preview.database, preview.table))?;
        let columns = preview.columns.iter().map(String::as_str);
        let mut listing = table(&[""].into_iter().chain(columns).collect::<Vec<_>>());
        for (before, after) in preview.before.iter().zip(&preview.after) {
            listing.add_row(row("before", before));
            listing.add_row(row("after", after));
        }
        print(format!("{listing}\n"))?;
    }
    Ok(())
}

/// In one line of a listing.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(RULE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn row(which: &str, values: &[Option<String>]) -> Vec<String> {
    let shown = |value: &Option<String>| match value {
        None => "NULL".to_owned(),
        Some(value) if value.chars().count() > SHOWN => format!("{}…", value.chars().take(SHOWN).collect::<String>()),
        Some(value) => value.clone(),
    };
    std::iter::once(which.to_owned()).chain(values.iter().map(shown)).collect()
}
