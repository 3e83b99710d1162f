//! The secrets, in every form they are searched in, made ready for searching.
//!
//! Of a pattern only its secret, its form and its anchor are kept (12 bytes), besides its keys in a [`Finder`]. A hit is an exact match of
//! all of the pattern's bytes, made anew for the comparison; hashes only say where to look.
//!
//! An anchor is chosen for being rare: of the places it may have (64 at most, evenly spread) the one whose most common window is the least common,
//! counted over all patterns, so that `@example.com` is nobody's anchor where many have it, and windows of digits or of one byte
//! repeated count as common whatever the secrets.

use super::encodings::{Encoding, Form, SHORTEST, Source, Wrap, is_short_number};
use super::finder::{Candidate, Census, Finder, KEPT};
use super::sieve::{Keys, Places, STRETCH};
use std::ops::Range;

/// Longest value that is searched for whole, in bytes.
const WHOLE: usize = 256;
/// Bytes of the middle of a longer one.
const MIDDLE: usize = 128;
/// Bytes of the shortest pattern that every 8th position finds.
const LONG: usize = Finder::<8, 8>::ANCHOR;
/// Places of an anchor that are compared.
const PLACES: usize = 64;

/// What a secret is reported under; the caller knows what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelId(pub u32);

/// The type of a secret's column, as far as its bytes on disk depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    Text,
    /// Of so many bytes: 2, 4 or 8.
    Integer(u8),
    Numeric,
    Uuid,
    Inet,
    Date,
    Timestamp,
    /// Printed as `\x` and hex.
    Bytea,
    Float,
}

/// What became of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is searched for in so many forms.
    Taken { patterns: usize },
    /// It would be met everywhere by coincidence, and is not searched for: see the table of this module's parent.
    TooShort,
}

/// Collects secrets.
#[derive(Default)]
pub struct PatternsBuilder {
    secrets: Secrets,
    patterns: Vec<Pattern>,
}

/// Secrets, ready to be searched for. Its `Debug` shows none.
pub struct Patterns {
    secrets: Secrets,
    patterns: Vec<Pattern>,
    /// Keys of 8 bytes, at offsets divisible by 8, and the patterns they are of.
    long_keys: Keys,
    long: Finder<8, 8>,
    /// Keys of 4 bytes, at offsets divisible by 4.
    short_keys: Keys,
    short: Finder<4, 4>,
    /// Of patterns that lie at such offsets themselves.
    aligned: Finder<4, 1>,
    longest: usize,
}

#[derive(Default)]
struct Secrets {
    text: String,
    /// Of each: where its text ends.
    ends: Vec<usize>,
    labels: Vec<LabelId>,
}

impl Secrets {
    fn text(&self, secret: u32) -> &str {
        let secret = secret as usize;
        let start = if secret == 0 { 0 } else { self.ends[secret - 1] };
        &self.text[start..self.ends[secret]]
    }
}

#[derive(Clone, Copy)]
struct Pattern {
    secret: u32,
    /// Where its anchor begins, in bytes.
    anchor: u16,
    form: Form,
    class: Class,
}

/// Which finder a pattern is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Long,
    Short,
    Aligned,
}

impl Class {
    const ALL: [Class; 3] = [Class::Long, Class::Short, Class::Aligned];

    /// `None` if no finder would meet it. A long pattern of which most is zeros, as many an IPv6 address, has four bytes to go by.
    fn of(form: Form, bytes: &[u8]) -> Option<Class> {
        if form.source == Source::Integer4 {
            return Some(Class::Aligned);
        }
        let (census, short_census) = (Census::none(), Census::none());
        let has_anchor = |class: &Class| class.anchor(bytes, &census, &short_census).is_some();
        [Class::Long, Class::Short].into_iter().find(has_anchor)
    }

    /// The rarest of the anchor's places; `None` if there is none.
    fn anchor(self, bytes: &[u8], census: &Census<8>, short_census: &Census<4>) -> Option<u16> {
        match self {
            Class::Long if bytes.len() >= LONG => rarest(bytes, census, 8),
            Class::Short if bytes.len() >= SHORTEST => rarest(bytes, short_census, 4),
            Class::Aligned => Some(0),
            _ => None,
        }
    }
}

fn rarest<const WINDOW: usize>(bytes: &[u8], census: &Census<WINDOW>, windows: usize) -> Option<u16> {
    let places = bytes.len() + 2 - WINDOW - windows;
    let step = places.div_ceil(PLACES);
    if step > 1 {
        let of_place = |place: usize| most_common(place..place + windows, |at| census.commonness(bytes, at));
        return (0..places)
            .step_by(step)
            .filter_map(|place| Some((of_place(place)?, place)))
            .min()
            .map(|(_, at)| at as u16);
    }
    // Places overlap: each window is looked at once.
    let mut each = [None; PLACES + 8];
    for (at, commonness) in each.iter_mut().enumerate().take(places + windows - 1) {
        *commonness = census.commonness(bytes, at);
    }
    let of_place = |place: usize| most_common(place..place + windows, |at| each[at]);
    (0..places).filter_map(|place| Some((of_place(place)?, place))).min().map(|(_, at)| at as u16)
}

/// `None` if one of them is.
fn most_common(windows: Range<usize>, commonness: impl Fn(usize) -> Option<u32>) -> Option<u32> {
    windows.map(commonness).try_fold(0, |most, one| one.map(|one| most.max(one)))
}

impl PatternsBuilder {
    pub fn new() -> PatternsBuilder {
        PatternsBuilder::default()
    }

    /// Adds a secret: `value` as Postgres prints it under `DateStyle = ISO` and `bytea_output = hex`.
    pub fn add(&mut self, label: LabelId, kind: SecretKind, value: &str) -> Added {
        let value = middle(kind, value);
        let forms = searched_forms(kind, &value);
        if forms.is_empty() {
            return Added::TooShort;
        }
        let secret = self.secrets.labels.len() as u32;
        self.secrets.text.push_str(&value);
        self.secrets.ends.push(self.secrets.text.len());
        self.secrets.labels.push(label);
        self.patterns.extend(forms.iter().map(|(form, class)| Pattern {
            secret,
            anchor: 0,
            form: *form,
            class: *class,
        }));
        Added::Taken { patterns: forms.len() }
    }

    /// Chooses the anchors and builds the tables: of 100,000 e-mail addresses and the like 3 s, 100 MiB kept.
    pub fn build(mut self) -> Patterns {
        let longest = self.choose_anchors();
        let (secrets, patterns) = (self.secrets, self.patterns);
        let counts = Class::ALL.map(|class| count(&patterns, class));
        let [long, short, aligned] = counts;
        let [mut long_keys, mut short_keys] = Keys::pair(long * 8, short * 4 + aligned);
        Patterns {
            long: finder(&secrets, &patterns, (Class::Long, long), &mut long_keys),
            short: finder(&secrets, &patterns, (Class::Short, short), &mut short_keys),
            aligned: finder(&secrets, &patterns, (Class::Aligned, aligned), &mut short_keys),
            long_keys,
            short_keys,
            secrets,
            patterns,
            longest,
        }
    }

    /// Counts windows over all patterns, then gives each its rarest anchor. Returns the longest pattern's bytes.
    fn choose_anchors(&mut self) -> usize {
        let windows = self.patterns.len() * 24;
        let (mut census, mut short_census) = (Census::<8>::new(windows), Census::<4>::new(windows / 4));
        let mut longest = 0;
        each_pattern(&self.secrets, &self.patterns, &mut |_, class, bytes| {
            longest = longest.max(bytes.len());
            match class {
                Class::Long => (0..=bytes.len() - 8).for_each(|at| census.count(bytes, at)),
                Class::Short => (0..=bytes.len() - 4).for_each(|at| short_census.count(bytes, at)),
                Class::Aligned => {}
            }
        });
        let mut anchors = Vec::with_capacity(self.patterns.len());
        each_pattern(&self.secrets, &self.patterns, &mut |_, class, bytes| {
            let anchor = class.anchor(bytes, &census, &short_census);
            anchors.push(anchor.expect("a pattern without an anchor was not taken"));
        });
        for (pattern, anchor) in self.patterns.iter_mut().zip(anchors) {
            pattern.anchor = anchor;
        }
        longest
    }
}

/// Whether a value is long and rare enough to be searched for at all, and if so what of it is kept for that.
pub fn searchable(kind: SecretKind, value: &str) -> Option<String> {
    let value = middle(kind, value);
    (!searched_forms(kind, &value).is_empty()).then_some(value)
}

/// The forms of a value, or of its middle, that a finder can look for.
fn searched_forms(kind: SecretKind, value: &str) -> Vec<(Form, Class)> {
    let mut bytes = Vec::new();
    let class_of = |form: Form| {
        bytes.clear();
        form.encode(value, &mut bytes);
        Some((form, Class::of(form, &bytes)?))
    };
    Form::of(kind, value).into_iter().filter_map(class_of).collect()
}

/// Calls `each` with the number, class and bytes of every pattern.
fn each_pattern(secrets: &Secrets, patterns: &[Pattern], each: &mut dyn FnMut(u32, Class, &[u8])) {
    let mut bytes = Vec::new();
    for (number, pattern) in patterns.iter().enumerate() {
        bytes.clear();
        pattern.form.encode(secrets.text(pattern.secret), &mut bytes);
        each(number as u32, pattern.class, &bytes);
    }
}

fn count(patterns: &[Pattern], wanted: Class) -> usize {
    patterns.iter().filter(|pattern| pattern.class == wanted).count()
}

fn finder<const WINDOW: usize, const SHIFTS: usize>(
    secrets: &Secrets,
    patterns: &[Pattern],
    (wanted, count): (Class, usize),
    keys: &mut Keys,
) -> Finder<WINDOW, SHIFTS> {
    Finder::new(count, keys, |each| {
        each_pattern(secrets, patterns, &mut |number, class, bytes| {
            if class == wanted {
                let anchor = usize::from(patterns[number as usize].anchor);
                each(number, &bytes[anchor..anchor + Finder::<WINDOW, SHIFTS>::ANCHOR]);
            }
        });
    })
}

/// What of a value is searched for: all of it, or its middle.
fn middle(kind: SecretKind, value: &str) -> String {
    match kind {
        SecretKind::Text if value.len() > WHOLE => {
            let start = value.ceil_char_boundary((value.len() - MIDDLE) / 2);
            value[start..value.floor_char_boundary(start + MIDDLE)].to_owned()
        }
        SecretKind::Bytea if value.len() > 2 + 2 * WHOLE && value.is_ascii() => {
            let start = (value.len() / 2 - MIDDLE) & !1;
            format!("\\x{}", &value[start..start + 2 * MIDDLE])
        }
        _ => value.to_owned(),
    }
}

/// A match: never the value itself.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    pub label: LabelId,
    pub encoding: Encoding,
    /// Bytes in the data searched.
    pub range: Range<usize>,
}

impl Patterns {
    /// How many patterns: forms of all secrets.
    pub fn count(&self) -> usize {
        self.patterns.len()
    }

    /// Memory that they take, in bytes.
    #[cfg(test)]
    pub fn size_bytes(&self) -> usize {
        let secrets = self.secrets.text.len() + self.secrets.ends.len() * 8 + self.secrets.labels.len() * 4;
        let finders = self.long.size_bytes() + self.short.size_bytes() + self.aligned.size_bytes();
        let finders = finders + self.long_keys.size_bytes() + self.short_keys.size_bytes();
        secrets + self.patterns.len() * size_of::<Pattern>() + finders
    }

    /// Bytes to keep of what was searched, so that no match is lost between it and what follows. Divisible by 4.
    pub(super) fn overlap(&self) -> usize {
        self.longest.next_multiple_of(4)
    }

    /// Calls `found` for each match in the first `length` bytes of `data` that does not end within the first `old` ones. `PADDING` zeros follow
    /// the `length` bytes; they begin at an offset divisible by 4.
    pub(super) fn search(&self, data: &[u8], length: usize, old: usize, found: &mut dyn FnMut(Hit)) {
        let mut scratch = Vec::new();
        let mut verify = |candidate| {
            if let Some(hit) = self.verify(&data[..length], candidate, &mut scratch)
                && hit.range.end > old
            {
                found(hit);
            }
        };
        let (mut places, mut kept) = (Places::new(), [0; KEPT]);
        for start in (0..length).step_by(STRETCH) {
            places.sift(data, start..length.min(start + STRETCH), [&self.long_keys, &self.short_keys]);
            self.long.search(data, &places.long, &mut kept, &mut verify);
            self.short.search(data, &places.short, &mut kept, &mut verify);
            self.aligned.search(data, &places.short, &mut kept, &mut verify);
        }
    }

    fn verify(&self, data: &[u8], candidate: Candidate, scratch: &mut Vec<u8>) -> Option<Hit> {
        let pattern = &self.patterns[candidate.pattern as usize];
        let start = candidate.anchor.checked_sub(pattern.anchor.into())?;
        scratch.clear();
        pattern.form.encode(self.secrets.text(pattern.secret), scratch);
        let range = start..start + scratch.len();
        let met = data.get(range.clone())?;
        let exact = met == scratch.as_slice();
        let is_digit = |at: Option<usize>| at.and_then(|at| data.get(at)).is_some_and(u8::is_ascii_digit);
        let is_plain = pattern.form == Form { source: Source::Text, wrap: Wrap::AsIs };
        if is_plain
            && is_short_number(self.secrets.text(pattern.secret))
            && (is_digit(range.start.checked_sub(1)) || is_digit(Some(range.end)))
        {
            return None;
        }
        let encoding = pattern.form.encoding(exact);
        let label = self.secrets.labels[pattern.secret as usize];
        (exact || pattern.form.folds_case() && met.eq_ignore_ascii_case(scratch)).then_some(Hit {
            label,
            encoding,
            range,
        })
    }
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patterns").field("count", &self.count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
