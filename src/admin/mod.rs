//! The HTTP API: health, branches, and what to do with them. Binds to loopback unless the config says otherwise.
//!
//! | method and path | answer |
//! |---|---|
//! | `GET /healthz` | 200 once the node takes clients |
//! | `GET /metrics` | what the node counts, as Prometheus reads it |
//! | `GET /v1/branches?project=P` | a JSON array of [`BranchSummary`] |
//! | `POST /v1/branches/{project}/{branch}/suspend` | 204 once it sleeps |

use crate::branch::{BranchError, BranchSummary, Branches};
use crate::model::{BranchRef, ProjectName};
use crate::telemetry::Metrics;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use std::future::Future;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// The API's listener, bound.
pub struct Admin {
    listener: TcpListener,
    router: Router,
}

impl Admin {
    /// Binds `address`.
    pub async fn bind(address: SocketAddr, branches: Branches, metrics: Metrics) -> std::io::Result<Admin> {
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/metrics", get(async move || ([(CONTENT_TYPE, Metrics::MEDIA_TYPE)], metrics.text())))
            .route("/v1/branches", get(list))
            .route("/v1/branches/{project}/{branch}/suspend", post(suspend))
            .with_state(branches);
        Ok(Admin { listener: TcpListener::bind(address).await?, router })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` resolves.
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(stop).await
    }
}

#[derive(Deserialize)]
struct Listing {
    project: Option<ProjectName>,
}

async fn list(
    State(branches): State<Branches>,
    Query(listing): Query<Listing>,
) -> Result<Json<Vec<BranchSummary>>, Refusal> {
    Ok(Json(branches.list(listing.project.as_ref()).await?))
}

async fn suspend(
    State(branches): State<Branches>,
    Path((project, branch)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let bad = |e: crate::model::NameError| Refusal(StatusCode::BAD_REQUEST, e.to_string());
    let branch = BranchRef { project: project.parse().map_err(bad)?, branch: branch.parse().map_err(bad)? };
    branches.suspend(&branch).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An error as HTTP has it: the one place that chooses the status.
struct Refusal(StatusCode, String);

impl From<BranchError> for Refusal {
    fn from(error: BranchError) -> Self {
        let status = match &error {
            BranchError::UnknownDatabase { .. }
            | BranchError::AmbiguousDatabase { .. }
            | BranchError::UnknownProject { .. }
            | BranchError::NoBranch { .. }
            | BranchError::NoBase { .. } => StatusCode::NOT_FOUND,
            BranchError::TooManyBranches { .. }
            | BranchError::HeldElsewhere { .. }
            | BranchError::LeaseValid { .. }
            | BranchError::NotMasked { .. }
            | BranchError::MadeOfRaw { .. }
            | BranchError::LocalDataLost { .. } => StatusCode::CONFLICT,
            BranchError::Stopping | BranchError::Store { .. } => StatusCode::SERVICE_UNAVAILABLE,
            BranchError::Start { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}
