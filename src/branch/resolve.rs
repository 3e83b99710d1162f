//! From the name that a client asks for to a branch: which project has the database.
//!
//! What each project's base has is known to a running node, so this asks nobody, as a rule: an older answer is taken and refreshed behind the
//! client's back ([`super::bases::Bases::known`]). Only a database that nobody seems to have is looked for anew.

use super::AwakeStatus;
use super::branches::Branches;
use super::error::{BranchError, LifecycleError};
use crate::compute;
use crate::model::{BranchRef, Database, ProjectName, SealedBase, Target};
use std::collections::BTreeSet;

/// What the bases of all projects say of a database.
#[derive(Default)]
struct Found {
    having: Vec<ProjectName>,
    /// Databases that could have been meant.
    known: BTreeSet<String>,
    without_base: Option<ProjectName>,
}

impl Branches {
    /// Which branch `target` means: the project that has its database. `project` narrows it where several have
    /// (`options=-c offshoot.project=name`).
    pub async fn resolve(&self, target: &Target, project: Option<&str>) -> Result<BranchRef, BranchError> {
        let shared = &self.0.shared;
        let unknown =
            |project: &str| BranchError::UnknownProject { project: project.to_owned(), known: shared.project_names() };
        let branch_of = |project: &ProjectName| BranchRef { project: project.clone(), branch: target.branch.clone() };
        if let Some(project) = project {
            let name: ProjectName = project.parse().map_err(|_| unknown(project))?;
            return if shared.projects.contains_key(&name) { Ok(branch_of(&name)) } else { Err(unknown(project)) };
        }
        let mut found = self.find(target, true).await?;
        if found.having.is_empty() {
            found = self.find(target, false).await?;
        }
        // Databases made inside a branch.
        if found.having.is_empty() {
            for name in shared.projects.keys() {
                if self.branch_has_database(&branch_of(name), &target.database).await {
                    found.having.push(name.clone());
                }
            }
        }
        match (&found.having[..], found.without_base) {
            ([only], _) => Ok(branch_of(only)),
            ([], Some(project)) if found.known.is_empty() => Err(BranchError::NoBase { project: project.to_string() }),
            ([], _) => {
                let (database, known) = (target.database.clone(), found.known.into_iter().collect());
                Err(BranchError::UnknownDatabase { database, known })
            }
            (several, _) => Err(BranchError::AmbiguousDatabase {
                database: target.database.clone(),
                projects: several.iter().map(ToString::to_string).collect(),
            }),
        }
    }

    /// Looks through the bases, with `may_be_old` through what is known of them where that is anything.
    async fn find(&self, target: &Target, may_be_old: bool) -> Result<Found, BranchError> {
        let bases = &self.0.shared.bases;
        let mut found = Found::default();
        for name in self.0.shared.projects.keys() {
            let branch = BranchRef { project: name.clone(), branch: target.branch.clone() };
            let failed = |e: LifecycleError| e.of_branch(&branch);
            let sealed = match bases.known(name).filter(|_| may_be_old) {
                Some(sealed) => {
                    // A new branch is made of the current base, which is read meanwhile; one that is there needs none.
                    if !self.0.shared.census.knows(&branch) {
                        self.refresh(name);
                    }
                    sealed
                }
                None => bases.last_known(name).await.map_err(failed)?,
            };
            let Some(databases) = self.databases(name, sealed).await.map_err(failed)? else {
                found.without_base = Some(name.clone());
                continue;
            };
            if databases.iter().any(|database| database.name == target.database && database.allow_connections) {
                found.having.push(name.clone());
            }
            let connectable =
                databases.into_iter().filter(|database| database.allow_connections && !database.is_template);
            found.known.extend(connectable.map(|database| database.name));
        }
        Ok(found)
    }

    async fn databases(
        &self,
        project: &ProjectName,
        sealed: Option<SealedBase>,
    ) -> Result<Option<Vec<Database>>, LifecycleError> {
        let Some(sealed) = sealed else { return Ok(None) };
        let base = self.0.shared.bases.open(project, &sealed.id).await?;
        Ok(Some(base.manifest.cluster.databases.clone()))
    }

    /// Reads a project's head again, in the background, if it was read more than a moment ago.
    fn refresh(&self, project: &ProjectName) {
        let (shared, project) = (self.0.shared.clone(), project.clone());
        if shared.bases.begin_refresh(&project) {
            tokio::spawn(async move {
                // A store that does not answer is found out by whoever needs an answer.
                let _ = shared.bases.current(&project).await;
            });
        }
    }

    /// Opens the current base of every project and counts its branches, in the background: the first client need not wait for that.
    pub(super) fn warm(&self) {
        for project in self.0.shared.projects.keys() {
            let (shared, project) = (self.0.shared.clone(), project.clone());
            tokio::spawn(async move {
                let warmed = async {
                    if let Some(sealed) = shared.bases.current(&project).await? {
                        shared.bases.open(&project, &sealed.id).await?;
                    }
                    shared.census.count(&shared.catalog, &project).await?;
                    Ok::<_, LifecycleError>(())
                };
                if let Err(error) = warmed.await {
                    tracing::warn!(%project, %error, "a base cannot be opened ahead of its first client");
                }
            });
        }
    }

    async fn branch_has_database(&self, branch: &BranchRef, database: &str) -> bool {
        let question = async |awake: AwakeStatus| compute::read_databases(&awake.socket, &awake.superuser).await;
        let asked = self.ask(branch, question, |recorded| recorded.databases.clone());
        let databases = match asked.await {
            Some(answer) => answer.ok(),
            None => self.manifest(branch).await.ok().flatten().map(|manifest| manifest.databases),
        };
        databases.is_some_and(|databases| databases.iter().any(|d| d.name == database && d.allow_connections))
    }
}
