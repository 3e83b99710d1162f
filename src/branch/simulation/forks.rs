//! Children under way: parent's head, pin, own head, end of the pin, with anything between.

use super::heads::new_head;
use super::world::World;
use crate::model::{BranchHead, BranchRef, ManifestRef};
use crate::store::{Lookup, Pinned, StoreError};
use rand::RngExt;

/// A child that is on its way from its parent's head to its own.
pub(super) struct Fork {
    pub node: usize,
    parent: BranchRef,
    child: BranchHead,
    reference: ManifestRef,
    pinned: Option<Pinned>,
}

impl World<'_> {
    /// What children fear happens more often than by chance: their parent goes before they pinned, and they pin right before a list is put.
    pub(super) fn chase_a_child(&mut self) -> bool {
        let Some(which) = self.forks.iter().position(|fork| fork.pinned.is_none()) else { return false };
        let Fork { node, parent, reference, .. } = &self.forks[which];
        let head = self.around.oracle.head(parent);
        let is_named = head.is_some_and(|head| head.manifest.as_ref() == Some(reference));
        let is_free = head.is_some_and(|head| !head.dirty);
        if self.collectors.iter().any(|collector| collector.is_about_to_condemn(&reference.key))
            && self.around.chance(40)
        {
            self.advance_fork(which);
            return true;
        }
        if is_named && is_free && self.around.chance(15) {
            let (number, parent) = (*node, parent.clone());
            self.delete(number, parent);
            return true;
        }
        false
    }

    /// A child's next step: its parent's head, its pin, its own head, the end of the pin.
    pub(super) fn fork(&mut self, number: usize) {
        if self.forks.is_empty() || self.around.chance(25) {
            let parent = self.some_branch_that(|head| head.is_some_and(|head| head.manifest.is_some()));
            let child = self.some_branch_that(|head| head.is_none());
            let node = &self.nodes[number];
            let catalog = &node.hold.catalog;
            let read = async {
                let head = catalog.branch_head(&parent).await?.map(|held| held.head);
                Ok::<_, StoreError>((head, catalog.look_up(&child).await?))
            };
            let Ok((Some(head), Lookup::Vacant { next_epoch })) = node.wait(read) else { return };
            let Some(reference) = head.manifest else { return };
            let now = node.hold.clock.now();
            let mut new = new_head(&child, next_epoch, node.fixture, &node.entropy, now);
            new.manifest = Some(reference.clone());
            self.around.tell(format!("node {number} begins {} as a child of {}", child.branch, parent.branch));
            return self.forks.push(Fork { node: number, parent, child: new, reference, pinned: None });
        }
        let which = self.around.random.random_range(0..self.forks.len());
        self.advance_fork(which);
    }

    fn advance_fork(&mut self, which: usize) {
        let mut fork = self.forks.swap_remove(which);
        let node = &self.nodes[fork.node];
        let (catalog, now) = (&node.hold.catalog, node.hold.clock.now());
        let Some(pinned) = fork.pinned.take() else {
            let pinned = node.wait(catalog.pin(&fork.reference, &fork.child.id, now));
            self.around.tell(format!("  pins for {}: {}", fork.child.name, pinned.is_ok()));
            match pinned {
                Ok(pinned) => self.forks.push(Fork { pinned: Some(pinned), ..fork }),
                // What it read of its parent is old.
                Err(StoreError::Condemned { .. } | StoreError::Missing { .. }) => {}
                Err(error) => drop(node.tolerate(error, &mut self.around)),
            }
            return;
        };
        let put = async {
            pinned.pin.check(now)?;
            catalog.create_branch(fork.child.clone()).await
        };
        let put = node.wait_put(put, &mut self.around);
        self.around.tell(format!("  puts the head of {}: {}", fork.child.name, put.is_ok()));
        match put {
            // What is left of a child that failed is over some day.
            Err(StoreError::Condemned { .. }) => {}
            Err(StoreError::Unavailable { reason, .. }) if reason.contains("made and deleted") => {}
            Err(error) => drop(node.tolerate(error, &mut self.around)),
            Ok(_) => {
                let unpinned = node.wait(catalog.unpin(&pinned.pin));
                if let Err(error) = unpinned {
                    node.tolerate(error, &mut self.around);
                }
            }
        }
    }
}
