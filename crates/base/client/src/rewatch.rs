//! How soon a broken watch is tried again.

use std::time::Duration;

use kube::runtime::utils::Backoff;

/// Pauses of a broken watch: 0.2 s to 2 s, for `WatchStreamExt::backoff`. kube's default goes up to 30 s; who was cut
/// off must hear sooner what became of the world.
#[derive(Debug)]
pub struct Rewatch(Duration);

impl Rewatch {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(2);
}

impl Default for Rewatch {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Rewatch {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        // Clients that lost the same server do not come back all at once.
        Some(pause.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl Backoff for Rewatch {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}
