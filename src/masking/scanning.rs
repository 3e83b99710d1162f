//! The search for raw values in what is about to be sealed.

use super::MaskingError;
use super::pipeline::Copied;
use crate::model::ScanSummary;
use crate::sources::Progress;

/// What was searched.
pub(super) struct Scanned {
    pub summary: ScanSummary,
}

pub(super) async fn scan(_copied: &Copied, _progress: &Progress) -> Result<Scanned, MaskingError> {
    Ok(Scanned { summary: ScanSummary::default() })
}
