//! Rows of figures.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};

use super::setup::Setup;

/// What an operation cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// How often it was done.
    pub count: u32,
    /// Time on the clock, of all.
    pub wall: Duration,
    /// CPU time of the API server and of etcd, of all.
    pub cpu: [Duration; 2],
}

impl Cost {
    /// Measures `work`, which does something `count` times.
    pub async fn of(setup: &Setup, count: u32, work: impl Future<Output = Result<()>>) -> Result<Self> {
        let before = setup.cpu()?;
        let started = Instant::now();
        work.await?;
        let wall = started.elapsed();
        let after = setup.cpu()?;
        Ok(Self { count, wall, cpu: [after[0].saturating_sub(before[0]), after[1].saturating_sub(before[1])] })
    }

    /// Microseconds of each, per operation.
    fn each(&self) -> [f64; 3] {
        [self.wall, self.cpu[0], self.cpu[1]].map(|time| time.as_secs_f64() * 1e6 / f64::from(self.count.max(1)))
    }

    /// Prints the row.
    pub fn print(&self, what: &str) {
        println!("{}", self.row(what));
    }

    fn row(&self, what: &str) -> String {
        let [wall, server, etcd] = self.each();
        format!("{what:<46} {:>7} {wall:>9.1} {server:>9.1} {etcd:>9.1}", self.count)
    }
}

/// Prints the heading of such rows.
pub fn heading() {
    println!("{:<46} {:>7} {:>9} {:>9} {:>9}", "", "", "wall", "server", "etcd");
    println!("{:<46} {:>7} {:>9} {:>9} {:>9}", "microseconds per one", "number", "clock", "CPU", "CPU");
}

/// Prints a line of memory, in MiB.
pub fn memory(what: &str, bytes: [u64; 2]) {
    println!("{what:<46} {:>9.1} {:>9.1}", mib(bytes[0]), mib(bytes[1]));
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Does `work` for 0 to `count`, `at_once` of them at a time.
pub async fn repeat<F, Fut>(count: u32, at_once: usize, work: F) -> Result<()>
where
    F: Fn(u32) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    stream::iter((0..count).map(work)).buffer_unordered(at_once.max(1)).try_for_each(|()| async { Ok(()) }).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_row_is_per_operation() {
        let cost = Cost {
            count: 4,
            wall: Duration::from_millis(8),
            cpu: [Duration::from_millis(4), Duration::from_micros(2)],
        };
        let row = cost.row("get");
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["get", "4", "2000.0", "1000.0", "0.5"]);
    }

    #[tokio::test]
    async fn work_is_repeated_and_its_failure_is_told() {
        let sum = Cell::new(0);
        let add = |i| {
            sum.set(sum.get() + i);
            std::future::ready(Ok(()))
        };
        repeat(5, 2, add).await.unwrap();
        assert_eq!(sum.get(), 10);
        let fail = |i| std::future::ready(if i == 3 { Err(anyhow::anyhow!("three")) } else { Ok(()) });
        assert_eq!(repeat(5, 2, fail).await.unwrap_err().to_string(), "three");
    }
}
