//! Boot objects: damage to one costs a wake some time and nothing else, so nobody but fsck would ever say so.

use super::{Fsck, Trouble};
use crate::pageserver::BootSet;
use crate::store::StoreError;
use bytes::Bytes;

impl Fsck<'_> {
    /// Checks the boot object under `key`, where there is one: it is whole, and its copy of `document` is what is stored.
    pub(super) async fn check_boot(&mut self, key: &str, document: &str) {
        let Some(bytes) = self.listed.get(key).copied() else { return };
        self.report.count(bytes);
        if let Err(trouble) = self.compare_boot(key, document).await {
            self.note(key, trouble);
        }
    }

    async fn compare_boot(&self, key: &str, document: &str) -> Result<(), Trouble> {
        let boot = BootSet::open(key, self.whole(key).await?).map_err(|e| Trouble::damaged(e.to_string()))?;
        match boot.document(document) {
            Some(copy) if copy != self.whole(document).await? => {
                Err(Trouble::damaged(format!("its copy of {document} is not what is stored")))
            }
            _ => Ok(()),
        }
    }

    async fn whole(&self, key: &str) -> Result<Bytes, Trouble> {
        let object = self.catalog.store().get(key).await?;
        Ok(object.ok_or_else(|| StoreError::Missing { key: key.to_owned() })?.bytes)
    }
}
