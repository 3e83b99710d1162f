//! Which branches a project has: how many, for the limit on them, and whether a name is likely to be one.
//!
//! Counting is a listing, which grows with the number of branches, and nobody's first connect should wait for it. So a count is kept, what this node
//! makes is added to it, and it is taken anew behind the clients' backs. Near the limit, or before the first count, it is taken at once. Nodes that
//! make branches at the same moment may together go beyond the limit by what they make within [`FRESH`].

use crate::model::{BranchName, BranchRef, ProjectName};
use crate::store::{Catalog, StoreError};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a count is taken for true before it is taken anew.
const FRESH: Duration = Duration::from_secs(10);
/// How long it may be relied on, should that fail.
const STALE: Duration = Duration::from_secs(300);
/// Branches below the limit from which on every one is counted for.
const MARGIN: usize = 16;

#[derive(Default)]
struct Count {
    /// Deleted ones, too, for as long as their heads say so.
    names: HashSet<BranchName>,
    /// `None` before the first.
    taken: Option<Instant>,
    /// When it was last begun to be taken anew.
    asked: Option<Instant>,
}

impl Count {
    fn is_older_than(&self, age: Duration) -> bool {
        self.taken.is_none_or(|taken| taken.elapsed() >= age)
    }
}

/// The counts of all projects.
#[derive(Default)]
pub(super) struct Census(Mutex<HashMap<ProjectName, Count>>);

impl Census {
    /// Whether a branch of this name was there when the project's were last counted, or made here since.
    pub(super) fn knows(&self, branch: &BranchRef) -> bool {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(&branch.project).is_some_and(|count| count.names.contains(&branch.branch))
    }

    /// Whether the project may have `branch`, a new one, which is counted in; false where it must be counted first. A count that has grown old, or is
    /// missing, is taken anew in the background.
    pub(super) fn admit(self: &Arc<Self>, catalog: &Catalog, branch: &BranchRef, limit: usize) -> bool {
        let project = &branch.project;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(project.clone()).or_default();
        if count.is_older_than(FRESH) && count.asked.is_none_or(|asked| asked.elapsed() >= FRESH) {
            count.asked = Some(Instant::now());
            let (census, catalog, project) = (self.clone(), catalog.clone(), project.clone());
            tokio::spawn(async move {
                if let Err(error) = census.count(&catalog, &project).await {
                    tracing::debug!(%project, %error, "branches cannot be counted now");
                }
            });
        }
        if count.is_older_than(STALE) || count.names.len() + MARGIN >= limit {
            return false;
        }
        count.names.insert(branch.branch.clone());
        true
    }

    /// Counts. Deleted branches count as long as that is no matter.
    pub(super) async fn count(&self, catalog: &Catalog, project: &ProjectName) -> Result<(), StoreError> {
        let names = catalog.branch_names(project).await?.into_iter().map(|branch| branch.branch).collect();
        let now = Some(Instant::now());
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.insert(project.clone(), Count { names, taken: now, asked: now });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Entropy;
    use crate::store::Store;

    #[tokio::test]
    async fn a_count_is_relied_on_far_from_the_limit_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&format!("file://{}", folder.path().display())).expect("opens");
        let catalog = Catalog::new(store, Entropy::seeded(1));
        let branch = |number: usize| -> BranchRef { format!("shop@{number}").parse().expect("a name") };
        let census = Arc::new(Census::default());
        assert!(!census.admit(&catalog, &branch(0), 1000), "nobody has counted");
        let counted = async {
            while !census.admit(&catalog, &branch(0), 1000) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), counted).await.expect("who was refused has it counted");
        census.count(&catalog, &branch(0).project).await.expect("the store answers");
        assert!(!census.knows(&branch(0)), "it was never made");
        for number in 0..MARGIN {
            assert!(census.admit(&catalog, &branch(number), 2 * MARGIN));
        }
        assert!(!census.admit(&catalog, &branch(MARGIN), 2 * MARGIN), "what was made here counts");
        assert!(census.knows(&branch(0)) && !census.knows(&branch(MARGIN)));
    }
}
