//! What etcd was asked for, from its own counters.

use std::ops::Sub;

use anyhow::{Context, Result};

/// Operations in etcd's store since it started.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operations {
    /// Keys written.
    pub puts: f64,
    /// Keys deleted.
    pub deletes: f64,
    /// Ranges read.
    pub ranges: f64,
}

impl Operations {
    /// Asks the etcd at `endpoint` (`http://ADDRESS:PORT`).
    pub async fn of(endpoint: &str) -> Result<Self> {
        let text = reqwest::get(format!("{endpoint}/metrics")).await?.error_for_status()?.text().await;
        Self::read(&text.context("read etcd's metrics")?)
    }

    fn read(text: &str) -> Result<Self> {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("etcd has no metric {name}"))
        };
        Ok(Self {
            puts: value("etcd_mvcc_put_total")?,
            deletes: value("etcd_mvcc_delete_total")?,
            ranges: value("etcd_mvcc_range_total")?,
        })
    }
}

impl Sub for Operations {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            puts: self.puts - earlier.puts,
            deletes: self.deletes - earlier.deletes,
            ranges: self.ranges - earlier.ranges,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_their_whole_name() {
        let text = "# TYPE etcd_mvcc_put_total counter\netcd_mvcc_put_total_x 9\netcd_mvcc_put_total 1.2e+03\n\
                    etcd_mvcc_delete_total 2\netcd_mvcc_range_total 3\n";
        assert_eq!(Operations::read(text).unwrap(), Operations { puts: 1200.0, deletes: 2.0, ranges: 3.0 });
        assert!(Operations::read("etcd_mvcc_put_total 1\n").is_err());
    }
}
