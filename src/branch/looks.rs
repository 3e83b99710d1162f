//! What the store said of branches a moment ago: a login reads a branch's head and roles, and right after it the branch is brought up from the same.
//!
//! A look is used once and believed for [`FRESH`]. Whoever acts on one does so by a conditional put, which finds out whether it has grown old.

use super::boot::Known;
use crate::model::BranchRef;
use crate::store::Lookup;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const FRESH: Duration = Duration::from_secs(5);
/// Logins under way whose look is kept.
const MOST: usize = 256;
/// Of them with manifest and boot object, which may be some megabytes: whoever knows a branch's name can have them read, without a password.
const MOST_KNOWN: usize = 16;

type Look = (Lookup, Option<Known>);

#[derive(Default)]
pub(super) struct Looks(Mutex<HashMap<BranchRef, (Instant, Look)>>);

impl Looks {
    /// Keeps what was just read.
    pub(super) fn put(&self, branch: &BranchRef, look: Look) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|_, (at, _)| at.elapsed() < FRESH);
        let known = looks.values().filter(|(_, (_, known))| known.is_some()).count();
        if looks.len() < MOST && (look.1.is_none() || known < MOST_KNOWN) {
            looks.insert(branch.clone(), (Instant::now(), look));
        }
    }

    /// What was read within the last seconds, if nobody has taken it. One of a branch that some node holds is never given: that is no time for a shortcut.
    pub(super) fn take(&self, branch: &BranchRef) -> Option<Look> {
        let (at, look) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(branch)?;
        let is_held = matches!(&look.0, Lookup::Found(held) if held.head.dirty || held.head.holder.is_some());
        (at.elapsed() < FRESH && !is_held).then_some(look)
    }
}
