use super::sink::Sink;
use crate::pageserver::WriteError;
use std::collections::BTreeMap;
use std::io::Read;
#[derive(Default)]
pub(super) struct MemorySink {
    pub files: BTreeMap<String, (u32, Vec<u8>)>,
    pub directories: BTreeMap<String, u32>,
}
impl Sink for MemorySink {
    fn directory(&mut self, path: &str, mode: u32) -> Result<(), WriteError> {
        self.directories.insert(path.to_owned(), mode);
        Ok(())
    }
    fn symlink(&mut self, path: &str, _target: &str) -> Result<(), WriteError> {
        panic!("{path} is a symlink");
    }
    fn file(&mut self, path: &str, mode: u32, content: &mut dyn Read) -> Result<(), WriteError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(WriteError::Source)?;
        self.files.insert(path.to_owned(), (mode, bytes));
        Ok(())
    }
}
