//! Deaths of the process and of the machine, and what the volume may be afterwards.
//!
//! A kill leaves every file as the kernel has it: the journal up to its last write, overlays with all that was written to them. A power cut may
//! moreover lose or garble what the journal got since its last commit.

use super::changes::Run;
use super::model::is_transient;
use rand::RngExt;

impl Run<'_> {
    /// The process dies, with `power_cut` the machine too; then the volume is opened again.
    pub fn crash(&mut self, power_cut: bool) {
        self.tell(format_args!("crash, power cut: {power_cut}"));
        self.close();
        if power_cut {
            self.garble_journal();
        }
        self.open();
        let found = self.found_names();
        self.model.check_names_after_crash(&found, self.seed);
        for (path, named) in found.iter().filter(|(path, named)| !named.directory && !is_transient(path)) {
            let content = self.found_content(named.id);
            self.model.check_file_after_crash((path, named.id), &content, self.seed);
        }
        self.take_as_durable();
    }

    /// Cuts, flips or appends bytes somewhere after the last commit.
    fn garble_journal(&mut self) {
        let path = self.delta.join("journal");
        let mut journal = std::fs::read(&path).expect("the journal can be read");
        let (committed, length) = (self.committed as usize, journal.len());
        match self.random.random_range(0..3) {
            0 => journal.truncate(self.random.random_range(committed..=length)),
            1 if committed < length => {
                journal[self.random.random_range(committed..length)] ^= 1 << self.random.random_range(0..8)
            }
            _ => {
                let garbage = self.random.random_range(1..200);
                journal.extend((0..garbage).map(|_| self.random.random::<u8>()));
            }
        }
        self.tell(format_args!("journal of {length} bytes, {committed} committed, is now {} long", journal.len()));
        std::fs::write(&path, journal).expect("the journal can be written");
    }
}
