//! Deaths of the process and of the machine, and what the volume may be afterwards.
//!
//! A kill leaves every file as it was written. A power cut keeps what was synced, and any part of the rest (`disk::simulated`).

use super::changes::Run;
use super::fixture::Fixture;
use super::model::{Names, is_transient};
use super::seeds;
use crate::pageserver::PageError;
use rand::RngExt;

#[test]
fn a_file_whose_sync_failed_takes_no_write_until_it_is_opened_anew() {
    let fixture = Fixture::new(&[]);
    for seed in seeds(2000..2020) {
        let mut run = Run::new(&fixture, seed);
        (0..40).for_each(|_| run.step());
        run.put_file("base", "broken", b"before");
        let path = ["base", "broken"];
        let id = run.model.names()[&path.join("/")].id;
        let file = run.volume().file(id).expect("it is a file");
        run.delta.set_broken(true);
        assert!(run.volume().sync(&file).is_err(), "a broken disk synced");
        run.delta.set_broken(false);
        assert!(matches!(run.volume().sync(&file), Err(PageError::Poisoned(_))), "seed {seed}: the second fsync lied");
        assert!(matches!(run.volume().set_size(&file, 0), Err(PageError::Poisoned(_))), "seed {seed}: it was cut");
        let written = run.fixture.runtime.block_on(run.volume().write(&file, 0, b"after"));
        assert!(matches!(written, Err(PageError::Poisoned(_))), "seed {seed}: it took a write");
        let read = run.fixture.runtime.block_on(run.volume().read(&file, 0, 6));
        assert_eq!(read.expect("it can still be read"), b"before", "seed {seed}");
        let power_cut = run.random.random();
        run.crash(power_cut);
        (0..20).for_each(|_| run.step());
        run.suspend();
    }
}

impl Run<'_> {
    /// The process dies, with `power_cut` the machine too; then the volume is opened again.
    pub fn crash(&mut self, power_cut: bool) {
        self.die(power_cut);
        self.open();
        self.check_after_crash(power_cut);
    }

    /// The process dies, with `power_cut` the machine too.
    pub fn die(&mut self, power_cut: bool) {
        self.tell(format_args!("crash, power cut: {power_cut}"));
        self.close();
        match power_cut {
            true => self.delta.cut_power(self.random.random()),
            false => self.delta.kill(),
        }
    }

    /// What was found at the opening after a [`Run::die`] is what it may be, and the model from here on.
    pub fn check_after_crash(&mut self, power_cut: bool) {
        let found = self.found_names();
        self.model.check_names_after_crash(&found, self.seed);
        for (path, named) in found.iter().filter(|(path, named)| !named.directory && !is_transient(path)) {
            let content = self.found_content(named.id);
            self.model.check_file_after_crash((path, named.id), &content, self.seed);
        }
        match power_cut {
            true => self.take_as_durable(),
            // A later power cut may still take back what the killed process had not synced.
            false => self.take_as_latest(found),
        }
    }

    fn take_as_latest(&mut self, found: Names) {
        for named in found.values().filter(|named| !named.directory) {
            let content = self.found_content(named.id);
            self.model.change_file(named.id, |latest| *latest = content);
        }
        self.model.change_names(|names| *names = found);
    }
}
