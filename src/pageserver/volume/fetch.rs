//! Bringing what a read or write must have from below: all of it at once, and behind it what a sequential reader will want next.

use super::Volume;
use super::read_ahead::{Lane, Missed};
use crate::model::FileId;
use crate::pageserver::PageError;
use crate::pageserver::base::Extent;
use crate::pageserver::file::{Fetched, Need};
use crate::pageserver::frame::{FRAME_SIZE, FrameRef};
use crate::pageserver::layer::LayerPage;
use std::collections::HashSet;

/// Frames that one window looks at: well compressed ones are many to a byte budget, and those of zeros cost it nothing.
const FRAMES_AHEAD: usize = 1024;

impl Volume {
    /// Adds what `needs` names to `fetched`. Cancel safe.
    pub(super) async fn fetch(&self, file: FileId, needs: Vec<Need>, fetched: &mut Fetched) -> Result<(), PageError> {
        let mut needs = needs;
        let mut seen = HashSet::new();
        needs.retain(|need| match need {
            Need::Layer(page, _) => seen.insert((0, page.0)),
            Need::Base(_, number) => seen.insert((1, *number)),
        });
        let (mut layer_pages, mut numbers, mut extent) = (Vec::new(), Vec::new(), None);
        for need in &needs {
            match need {
                Need::Layer(_, page) => layer_pages.push(*page),
                Need::Base(of, number) => {
                    numbers.push(*number);
                    extent = Some(*of);
                }
            }
        }
        let from_layers = self.ground.layers.pages_of(&layer_pages);
        let from_base = async {
            match extent {
                Some(extent) => self.ground.base.frames(file, extent, &numbers).await,
                None => Ok(Vec::new()),
            }
        };
        let demand = async { futures::try_join!(from_layers, from_base) };
        // Polled after the demand, which so has its own, shorter request under way first.
        let ahead = async {
            self.read_ahead_in_layers(file, &layer_pages);
            if let Some(extent) = extent {
                // Whoever reads what is not to be had learns why.
                let _ = self.read_ahead_in_base(file, extent, &numbers).await;
            }
        };
        let (contents, ()) = futures::join!(demand, ahead);
        let (from_layers, from_base) = contents?;
        let (mut from_layers, mut from_base) = (from_layers.into_iter(), from_base.into_iter());
        for need in needs {
            let content = match need {
                Need::Layer(..) => from_layers.next(),
                Need::Base(..) => from_base.next(),
            };
            fetched.add(need, content.expect("there is a content for each need"));
        }
        Ok(())
    }

    async fn read_ahead_in_base(&self, file: FileId, extent: Extent, numbers: &[u32]) -> Result<(), PageError> {
        let base = &self.ground.base;
        let mut missed = None;
        for number in numbers {
            let frame = base.place(extent, *number).await?;
            if !frame.is_zero() {
                missed = Some(Missed::with(missed, frame, *number));
            }
        }
        let Some(missed) = missed else { return Ok(()) };
        let Some(mut window) = self.streams.note(Lane::Pack(file, missed.object()), missed) else { return Ok(()) };
        let frames_in_file = u32::try_from(extent.size.div_ceil(FRAME_SIZE as u64)).unwrap_or(u32::MAX);
        let mut ahead: Vec<(FrameRef, u32)> = Vec::new();
        for number in (window.first_number()..frames_in_file).take(FRAMES_AHEAD) {
            let frame = base.place(extent, number).await?;
            if frame.is_zero() {
                continue;
            }
            if frame.object != missed.object() || !window.takes(frame, number) {
                break;
            }
            ahead.push((frame, number));
        }
        self.streams.advance(&window);
        base.read_ahead(file, ahead);
        Ok(())
    }

    fn read_ahead_in_layers(&self, file: FileId, pages: &[LayerPage]) {
        let layers = &self.ground.layers;
        let mut by_layer = std::collections::BTreeMap::new();
        for (layer, number, frame) in pages.iter().filter_map(|page| layers.place_of(*page)) {
            let missed = by_layer.get(&layer).copied();
            by_layer.insert(layer, Missed::with(missed, frame, number));
        }
        for (layer, missed) in by_layer {
            let Some(mut window) = self.streams.note(Lane::Layer(file, layer), missed) else { continue };
            let first = window.first_number();
            let numbered = layers.following(file, layer, first).iter().copied().zip(first..).take(FRAMES_AHEAD);
            let ahead: Vec<(FrameRef, u32)> =
                numbered.take_while(|(frame, number)| window.takes(*frame, *number)).collect();
            self.streams.advance(&window);
            layers.read_ahead(layer, ahead);
        }
    }
}
