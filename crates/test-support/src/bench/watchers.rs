//! Watchers, each with a connection of its own.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use reqwest::{Method, Response};
use tokio::task::JoinSet;

use super::setup::Setup;

/// Watches that have been answered and not been read from.
pub struct Watchers(Vec<Response>);

impl Watchers {
    /// Starts `count` watches of the objects at `path` from `version` on.
    pub async fn start(setup: &Setup, count: usize, path: &str, version: &str) -> Result<Self> {
        let path = format!("{path}?watch=1&resourceVersion={version}");
        let start = |_| async { setup.http()?.send(Method::GET, &path, None).await };
        Ok(Self(try_join_all((0..count).map(start)).await?))
    }

    /// Reads `events` of each in tasks; done when all have them.
    pub fn read(self, events: u32) -> JoinSet<Result<()>> {
        self.0.into_iter().map(|watch| read(watch, events)).collect()
    }
}

/// Every event is a line.
async fn read(mut watch: Response, events: u32) -> Result<()> {
    let mut seen = 0;
    while seen < events as usize {
        let chunk = watch.chunk().await.context("read a watch")?.context("the watch ended early")?;
        seen += chunk.iter().filter(|byte| **byte == b'\n').count();
    }
    Ok(())
}
