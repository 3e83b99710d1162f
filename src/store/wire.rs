//! The HTTP client below S3, GCS and Azure: `object_store`'s own, with refusals turned into typed errors.
//!
//! `object_store` keeps most statuses in the text of a private error. Whether a request may be tried again depends on them, so they are
//! caught here, where they are still numbers, and found again in the error's chain ([`Refusal::of`]). What it has an error of its own for
//! (404, 409, 412 …) passes through.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

/// An answer that says no, for which `object_store` has no error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store answered {status}: {text}")]
pub(super) struct Refusal {
    pub status: u16,
    /// The beginning of the answer's body.
    pub text: String,
}

/// Longest part of a refusal that goes into logs and to clients.
const TEXT_MAX: usize = 300;

impl Refusal {
    /// The refusal at the root of `error`, where there is one.
    pub(super) fn of<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Refusal> {
        let mut cause = Some(error);
        while let Some(current) = cause {
            if let Some(refusal) = current.downcast_ref::<Refusal>() {
                return Some(refusal);
            }
            cause = current.source();
        }
        None
    }

    /// Whether the same request may be taken later. S3 answers 400 `RequestTimeout` where a connection went quiet.
    pub(super) fn is_passing(&self) -> bool {
        match self.status {
            501 | 505 => false,
            408 | 429 | 500.. => true,
            400 => self.text.contains("RequestTimeout"),
            _ => false,
        }
    }
}

/// Makes clients whose refusals are typed.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Typed(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Typed(HttpClient);

#[async_trait]
impl HttpService for Typed {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.execute(request).await?;
        let status = response.status().as_u16();
        if !matches!(status, 400 | 405..=408 | 410 | 411 | 413..) {
            return Ok(response);
        }
        let body = response.into_body().bytes().await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body[..body.len().min(TEXT_MAX)]).into_owned();
        Err(HttpError::new(HttpErrorKind::Unknown, Refusal { status, text }))
    }
}
