//! The cache's files for `pageserver::fuzzing`.

use super::disk::{HEADER, parse_header, summed_header};
use super::restart::{read_map, sum};

/// Reads `data` as a map and as a file's header, of the store at `url`, each as it is and behind a sum that fits.
pub(in crate::pageserver) fn read_any(data: &[u8], url: &str) -> bool {
    let summed_map = [data, &sum(url, data).to_le_bytes()].concat();
    let maps = [data, &summed_map].map(|map| {
        let found = read_map(map, url);
        // Twelve bytes are the least that an object takes.
        found.map(|found| assert!(found.len() <= data.len() / 12)).is_some()
    });
    let mut rest = data.to_vec();
    rest.resize(HEADER as usize - 12, 0);
    let headers = [data, &summed_header(&rest)].map(|header| {
        let found = parse_header(header, url);
        found.map(|(key, _)| assert!(key.len() <= data.len())).is_some()
    });
    maps.contains(&true) | headers.contains(&true)
}

/// A map and a header, and what stands behind the sum of each.
#[cfg(test)]
pub(in crate::pageserver) fn samples(url: &str) -> Vec<Vec<u8>> {
    let objects = vec![("v1/a".to_owned(), 1 << 20, vec![0b1010_1111]), ("v1/b".to_owned(), 1, vec![1])];
    let map = super::restart::encode_map(url, objects.into_iter());
    let header = super::disk::header(url, "v1/a", 1 << 20).expect("the key is short");
    let bare_header = header[12..200].to_vec();
    let bare_map = map[..map.len() - 4].to_vec();
    vec![map, bare_map, header, bare_header]
}
