//! Time and randomness, passed in (DESIGN.md, decision 11), so that lifecycle, leases and crash
//! recovery can run under a simulated clock and replay by seed. The only file that asks the system for either.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Wall-clock time in milliseconds since the Unix epoch, as stored in heads and manifests.
pub type UnixMs = u64;

/// Where the time of day comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's own.
    System,
    /// A test's: milliseconds since the Unix epoch.
    Simulated(Arc<AtomicU64>),
}

impl Clock {
    /// Now.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the system's clock")]
    pub fn now(&self) -> UnixMs {
        match self {
            Clock::System => SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map(|since| since.as_millis() as u64)
                .unwrap_or(0),
            Clock::Simulated(now) => now.load(Ordering::Relaxed),
        }
    }
}

/// Where random numbers come from: the operating system's generator, or a seed.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<StdRng>>);

impl Entropy {
    /// Seeded by the operating system; cryptographically strong.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the system's randomness")]
    pub fn system() -> Self {
        Entropy(Arc::new(Mutex::new(StdRng::from_rng(&mut rand::rng()))))
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Entropy(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).fill_bytes(bytes);
    }

    /// 128 random bits.
    pub fn bits(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

/// Both of them, as everything that lives longer than a request holds them.
#[derive(Clone)]
pub struct Ambient {
    pub clock: Clock,
    pub entropy: Entropy,
}

impl Ambient {
    /// The machine's own clock and randomness.
    pub fn system() -> Self {
        Ambient { clock: Clock::System, entropy: Entropy::system() }
    }
}
