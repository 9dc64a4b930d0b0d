//! Random choices that can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64*: enough to pick moments, and the same everywhere.
pub struct Dice(u64);

impl Dice {
    /// From `KINIT_SEED`, or the clock; prints the seed, so that a run that failed can be repeated as far as machines
    /// repeat themselves.
    ///
    /// # Panics
    ///
    /// When `KINIT_SEED` is no number.
    #[must_use]
    #[allow(clippy::panic, reason = "a part of tests, which fail by panics")]
    pub fn from_environment() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
        let given = std::env::var("KINIT_SEED").ok();
        let seed = given.map_or_else(clock, |seed| match seed.parse() {
            Ok(seed) => seed,
            Err(_) => panic!("KINIT_SEED is no number: {seed}"),
        });
        println!("KINIT_SEED={seed}");
        Self(seed)
    }

    /// In [0, 1).
    pub fn roll(&mut self) -> f64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of 0 to `end` - 1; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.roll() * end as f64) as usize).min(end.saturating_sub(1))
    }
}
