//! The command line (DESIGN.md, "The surface"): what it takes, and what it prints.

mod base;
mod branch;
mod fsck;
mod gc;
mod import;
mod masking;

use crate::model::{BranchRef, ProjectName};
use crate::settings::{self, Settings};
use crate::{server, telemetry};
use anyhow::Context;
use clap::{Parser, Subcommand};
use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Writable, isolated, copy-on-write branches of a Postgres, made by connecting to them.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The config file [default: ./offshoot.toml, /etc/offshoot/offshoot.toml]
    #[arg(long, global = true, env = "OFFSHOOT_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: take clients until SIGTERM
    Serve,
    /// Make a new base of a project from a running Postgres, a dump or a stopped data directory
    Import(import::ImportArguments),
    /// What the masking rules of a project do to its source; nothing is copied
    #[command(subcommand)]
    Masking(masking::MaskingCommand),
    /// The bases of a project
    #[command(subcommand)]
    Base(BaseCommand),
    /// The branches of a project
    #[command(subcommand)]
    Branch(BranchCommand),
    /// Remove from the store what nothing refers to: condemned by one run, deleted by a run at least a grace later
    Gc {
        /// Change nothing, and say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Between the two runs, at least an hour; the same wherever this store is collected
        #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
        grace: std::time::Duration,
        /// Of the raw store
        #[arg(long)]
        raw: bool,
        #[arg(long)]
        json: bool,
    },
    /// Read and check everything in the store that is in use; exits with 1 for damage, 2 if not all could be read
    Fsck {
        /// Only project@branch and what it needs
        #[arg(long)]
        branch: Option<BranchRef>,
        /// Of the raw store
        #[arg(long, conflicts_with = "branch")]
        raw: bool,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum BaseCommand {
    /// List them, oldest first
    List {
        project: ProjectName,
        /// Those of the raw store
        #[arg(long)]
        raw: bool,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum BranchCommand {
    /// List them, with state, size of their own pages, parent and last use
    List {
        project: Option<ProjectName>,
        #[arg(long)]
        json: bool,
    },
    /// Take a branch from a node that is gone: it goes on from its last upload, what was written after is given up
    Release {
        /// project@branch
        branch: BranchRef,
    },
    /// Put a branch to sleep now, ending its sessions
    Suspend {
        /// project@branch
        branch: BranchRef,
    },
    /// Delete a branch that is asleep; branches made from it stay
    Delete {
        /// project@branch
        branch: BranchRef,
    },
}

/// Runs the command and prints its error, if any, on one line with its causes.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let failure = match cli.command {
        Command::Fsck { .. } => ExitCode::from(fsck::UNREAD),
        _ => ExitCode::FAILURE,
    };
    execute(cli).unwrap_or_else(|error| {
        eprintln!("offshoot: {}", in_full(&error));
        failure
    })
}

/// The error and its causes, but for those that the text before them already holds.
fn in_full(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let settings = settings::load(cli.config.as_deref())?;
    match cli.command {
        Command::Fsck { branch, raw, json } => {
            telemetry::init("warn");
            return block_on(fsck::run(on_store(settings, raw)?, branch, json));
        }
        Command::Gc { dry_run, grace, raw, json } => {
            telemetry::init("warn");
            block_on(gc::run(on_store(settings, raw)?, grace, dry_run, json))
        }
        Command::Branch(BranchCommand::Delete { branch }) => {
            telemetry::init("warn");
            block_on(branch::delete(settings, branch))
        }
        Command::Serve => {
            telemetry::init("info,fuser=error");
            block_on(async { Ok(server::serve(settings).await?) })
        }
        Command::Import(arguments) => {
            telemetry::init("warn,fuser=error");
            block_on(import::run(settings, arguments))
        }
        Command::Masking(command) => {
            telemetry::init("warn");
            return block_on(masking::run(settings, command));
        }
        Command::Base(BaseCommand::List { project, raw, json }) => {
            telemetry::init("warn,fuser=error");
            block_on(base::list(on_store(settings, raw)?, project, json))
        }
        Command::Branch(BranchCommand::List { project, json }) => {
            telemetry::init("warn,fuser=error");
            block_on(branch::list(settings, project, json))
        }
        Command::Branch(BranchCommand::Release { branch }) => {
            telemetry::init("warn,fuser=error");
            block_on(branch::release(settings, branch))
        }
        Command::Branch(BranchCommand::Suspend { branch }) => {
            telemetry::init("warn,fuser=error");
            block_on(branch::suspend(settings, branch))
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let outcome = runtime.block_on(command);
    // A blocking thread that hangs in the kernel must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

/// The project, if the config has it.
fn known_project<'a>(
    settings: &'a Settings,
    project: &ProjectName,
) -> anyhow::Result<&'a crate::settings::ProjectSettings> {
    settings.projects.iter().find(|known| known.name == *project).with_context(|| {
        let known: Vec<&str> = settings.projects.iter().map(|project| project.name.as_str()).collect();
        format!("the config has no project {project}; it has: {}", known.join(", "))
    })
}

/// With the raw store for the store, if `raw`.
fn on_store(mut settings: Settings, raw: bool) -> anyhow::Result<Settings> {
    if raw {
        settings.store = settings
            .raw_store
            .clone()
            .context("the config names no raw store; give it one: [raw_store] url = \"…\"")?;
    }
    Ok(settings)
}

/// Where a project's data comes from: as the command says, else as the config does.
fn source(settings: &Settings, project: &ProjectName, from: Option<String>) -> anyhow::Result<crate::sources::Source> {
    let configured =
        || known_project(settings, project).map(|known| known.source.as_ref().map(|url| url.expose().to_owned()));
    let source = match from {
        Some(from) => Some(from),
        None => configured()?,
    };
    Ok(source.context("say where the data comes from, with --from or the project's source")?.parse()?)
}

/// What `work` comes to; `None` where a signal ends it first.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        done = work => Some(done),
        Ok(()) = tokio::signal::ctrl_c() => None,
        () = terminated => None,
    }
}

/// A line to standard output. Whoever reads only the beginning of what there is has seen enough.
fn print(text: impl Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// A table without borders that a terminal or `awk` can read.
fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header);
    table
}

/// Milliseconds since the epoch as people read them.
fn time(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Bytes as people read them.
fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
