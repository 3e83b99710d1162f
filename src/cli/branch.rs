//! `offshoot branch …`: asks the running server where there is one, the store otherwise.

use super::{bytes, known_project, print, table, time};
use crate::branch::{BranchSummary, Released};
use crate::model::{Ambient, BranchRef, Entropy, ProjectName};
use crate::settings::Settings;
use crate::store::{Catalog, Deletion, Store, open_and_probe};
use anyhow::{Context, bail};
use std::time::Duration;

/// A suspend uploads what the branch changed.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(600);

/// Lists branches by name.
pub(super) async fn list(settings: Settings, project: Option<ProjectName>, json: bool) -> anyhow::Result<()> {
    if let Some(project) = &project {
        known_project(&settings, project)?;
    }
    let branches = match from_server(&settings, project.as_ref()).await? {
        Some(branches) => branches,
        None => from_store(&settings, project.as_ref()).await?,
    };
    if json {
        print(serde_json::to_string_pretty(&branches)?)?;
        return Ok(());
    }
    let mut listing = table(&["BRANCH", "STATE", "OWN PAGES", "SESSIONS", "PARENT", "LAST USE"]);
    for branch in branches {
        listing.add_row([
            branch.name,
            branch.state,
            bytes(branch.own_bytes),
            branch.sessions.to_string(),
            branch.parent,
            time(branch.used_at_ms),
        ]);
    }
    print(&listing)?;
    Ok(())
}

/// Puts a branch to sleep.
pub(super) async fn suspend(settings: Settings, branch: BranchRef) -> anyhow::Result<()> {
    let mut url = api(&settings, "v1/branches")?;
    url.path_segments_mut().map_err(|()| anyhow::anyhow!("server.admin_listen is no address"))?.extend([
        branch.project.as_str(),
        branch.branch.as_str(),
        "suspend",
    ]);
    let client = reqwest::Client::builder().timeout(SUSPEND_TIMEOUT).build()?;
    let answer = client
        .post(url)
        .send()
        .await
        .context("no server answers at server.admin_listen; a branch is only awake on a running one")?;
    if !answer.status().is_success() {
        bail!("{}", answer.text().await?);
    }
    Ok(())
}

/// Takes a branch from a node that is gone.
pub(super) async fn release(settings: Settings, branch: BranchRef) -> anyhow::Result<()> {
    known_project(&settings, &branch.project)?;
    let ambient = Ambient::system();
    let catalog = Catalog::new(Store::open(&settings.store.url)?, ambient.entropy.clone());
    match crate::branch::release(&catalog, &branch, ambient.clock.now(), settings.server.lease).await? {
        Released::WasFree => print(format_args!("{branch} is held by no node"))?,
        Released::AsOf(Some(at_ms)) => print(format_args!("{branch} goes on as it was uploaded at {}", time(at_ms)))?,
        Released::AsOf(None) => print(format_args!("{branch} goes on as it was made: nothing of it was uploaded"))?,
    }
    Ok(())
}

/// Deletes a branch that no node holds. Its objects go with later collections, but for those that other branches list.
pub(super) async fn delete(settings: Settings, branch: BranchRef) -> anyhow::Result<()> {
    known_project(&settings, &branch.project)?;
    let ambient = Ambient::system();
    let store = open_and_probe(&settings.store.url, &ambient.entropy).await?;
    match Catalog::new(store, ambient.entropy).delete_branch(&branch, ambient.clock.now()).await? {
        Deletion::Deleted => Ok(()),
        Deletion::Absent => bail!("there is no branch {branch}"),
        Deletion::Held(head) => {
            let node = head.holder.map_or_else(|| "a node".to_owned(), |holder| format!("node {}", holder.node));
            bail!(
                "branch {branch} is awake on {node}, or has changes there that are not uploaded; let it fall asleep, or run \
                 `offshoot branch suspend {branch}` there, and delete it then"
            )
        }
    }
}

fn api(settings: &Settings, path: &str) -> anyhow::Result<reqwest::Url> {
    Ok(reqwest::Url::parse(&format!("http://{}/{path}", settings.server.admin_listen))?)
}

/// `None` where no server answers.
async fn from_server(settings: &Settings, project: Option<&ProjectName>) -> anyhow::Result<Option<Vec<BranchSummary>>> {
    let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(1)).build()?;
    let mut url = api(settings, "v1/branches")?;
    if let Some(project) = project {
        url.query_pairs_mut().append_pair("project", project.as_str());
    }
    match client.get(url).send().await {
        Ok(answer) if answer.status().is_success() => Ok(Some(answer.json().await?)),
        Ok(answer) => bail!("the server says: {}", answer.text().await?),
        Err(e) if e.is_connect() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

async fn from_store(settings: &Settings, project: Option<&ProjectName>) -> anyhow::Result<Vec<BranchSummary>> {
    let catalog = Catalog::new(Store::open(&settings.store.url)?, Entropy::system());
    let mut branches = Vec::new();
    for known in settings.projects.iter().filter(|known| project.is_none_or(|project| *project == known.name)) {
        branches.extend(catalog.branches(&known.name).await?.iter().map(BranchSummary::of_head));
    }
    Ok(branches)
}
