//! One node: store, branches, proxy and admin API, from start to a clean stop.

use crate::admin::Admin;
use crate::branch::{Branches, LifecycleError};
use crate::masking::{self, MaskingError};
use crate::model::Ambient;
use crate::proxy::{Proxy, ProxyError};
use crate::settings::Settings;
use crate::sources;
use crate::store::{Catalog, StoreError, open_and_probe};
use crate::telemetry::Metrics;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long sessions may go on after a stop was asked for.
const GRACE: Duration = Duration::from_secs(5);

/// Why a node does not start; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Branch(#[from] LifecycleError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Masking(#[from] MaskingError),
    #[error("cannot listen on server.admin_listen {address}: {source}")]
    Admin { address: std::net::SocketAddr, source: std::io::Error },
    #[error("cannot wait for signals: {0}")]
    Signal(std::io::Error),
    #[error("the config names no [[project]]; add one")]
    NoProject,
}

/// Runs a node until SIGTERM or SIGINT, then ends sessions, puts every branch to sleep and returns. A second signal returns at once; what was not
/// uploaded stays on this disk for the next start.
pub async fn serve(settings: Settings) -> Result<(), ServerError> {
    if settings.projects.is_empty() {
        return Err(ServerError::NoProject);
    }
    raise_descriptor_limit();
    let started = Instant::now();
    let ambient = Ambient::system();
    if let Some(raw) = &settings.raw_store {
        tracing::warn!(
            url = raw.url,
            "this node serves, and its config names the raw store, which only imports need; leave [raw_store] out here"
        );
    }
    let store = open_and_probe(&settings.store.url, &ambient.entropy).await?;
    let metrics = Metrics::new();
    store.register(&metrics);
    let catalog = Catalog::new(store, ambient.entropy.clone());
    // Its servers may still run. What cannot be removed now is the next import's to remove.
    if let Err(error) = sources::clear_killed_imports(&catalog, &settings.server.data_dir).await {
        tracing::warn!(%error, "cannot remove what a killed import left");
    }
    let branches = Branches::start(&settings, catalog, ambient.clone(), masking::policies(&settings)?).await?;
    let proxy = Proxy::bind(&settings.server, &settings.projects, branches.clone(), ambient).await?;
    let address = settings.server.admin_listen;
    branches.register(&metrics);
    let admin = Admin::bind(address, branches.clone(), metrics).await;
    let admin = admin.map_err(|source| ServerError::Admin { address, source })?;
    let mut signals = Signals::new().map_err(ServerError::Signal)?;

    let (stop, stopped) = watch::channel(false);
    let wait = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone: stop as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tracing::info!(
        postgres = %proxy.local_addr(),
        admin = %address,
        store = settings.store.url,
        millis = started.elapsed().as_millis(),
        "listening"
    );
    let proxy = tokio::spawn(proxy.serve(wait(stopped.clone()), GRACE));
    let admin = tokio::spawn(admin.serve(wait(stopped)));

    signals.next().await;
    tracing::info!("stopping: ending sessions and putting branches to sleep");
    stop.send_replace(true);
    let clean = async {
        // A panic in either was reported by its own task.
        let _ = proxy.await;
        branches.stop().await;
        admin.abort();
    };
    tokio::select! {
        () = clean => tracing::info!("stopped"),
        () = signals.next() => tracing::warn!("stopped at once; what was not uploaded stays on this disk"),
    }
    Ok(())
}

/// Packs, layers, overlay files and sockets each take a descriptor; the usual soft limit of 1024 is one branch's.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
