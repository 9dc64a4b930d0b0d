//! The floor of reads and writes: etcd alone, with the bytes that the server stored.

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, DeleteOptions, GetOptions};

use super::setup::Setup;
use super::table::{Cost, repeat};

/// Keys of the floor, beside those of the server.
const PREFIX: &str = "/floor/";

/// etcd without a server before it.
pub struct Floor {
    client: Client,
    value: Vec<u8>,
}

impl Floor {
    /// Takes the bytes of one stored object.
    pub async fn new(setup: &Setup, stored: &str) -> Result<Self> {
        let mut client = Client::connect([&setup.etcd.endpoint], None).await.context("connect to etcd")?;
        let answer = client.get(stored, None).await.with_context(|| format!("read {stored}"))?;
        let value = answer.kvs().first().with_context(|| format!("{stored} is not in etcd"))?.value().to_vec();
        Ok(Self { client, value })
    }

    /// Length of the value.
    pub fn bytes(&self) -> usize {
        self.value.len()
    }

    /// Puts `count` keys, `at_once` at a time.
    pub async fn put(&self, setup: &Setup, count: u32, at_once: usize) -> Result<Cost> {
        let put = |i| async move {
            self.client.clone().put(key(i), self.value.clone(), None).await.context("put")?;
            Ok(())
        };
        Cost::of(setup, count, repeat(count, at_once, put)).await
    }

    /// Gets them, `at_once` at a time.
    pub async fn get(&self, setup: &Setup, count: u32, at_once: usize) -> Result<Cost> {
        let get = |i| async move {
            let answer = self.client.clone().get(key(i), None).await.context("get")?;
            ensure!(answer.kvs().len() == 1, "{} is not in etcd", key(i));
            Ok(())
        };
        Cost::of(setup, count, repeat(count, at_once, get)).await
    }

    /// Reads all of them, `limit` at a time, `times` times; the cost is per key.
    pub async fn range(&self, setup: &Setup, count: u32, limit: u32, times: u32) -> Result<Cost> {
        let all = |_| async move {
            // A single answer is longer than the 4 MiB that a client takes by default.
            let mut client = self.client.kv_client().max_decoding_message_size(usize::MAX);
            let (mut from, mut seen) = (PREFIX.as_bytes().to_vec(), 0);
            // '0' follows '/': the end of the prefix.
            let end = "/floor0";
            loop {
                let options = GetOptions::new().with_range(end).with_limit(i64::from(limit));
                let answer = client.get(from, Some(options)).await.context("range")?;
                seen += answer.kvs().len();
                match answer.kvs().last() {
                    Some(last) if answer.more() => from = [last.key(), &[0]].concat(),
                    _ => break,
                }
            }
            ensure!(seen == count as usize, "etcd has {seen} keys of the floor, not {count}");
            Ok(())
        };
        Cost::of(setup, count * times, repeat(times, 1, all)).await
    }

    /// Deletes them, `at_once` at a time.
    pub async fn delete(&self, setup: &Setup, count: u32, at_once: usize) -> Result<Cost> {
        let delete = |i| async move {
            self.client.clone().delete(key(i), Some(DeleteOptions::new())).await.context("delete")?;
            Ok(())
        };
        Cost::of(setup, count, repeat(count, at_once, delete)).await
    }
}

fn key(i: u32) -> String {
    format!("{PREFIX}{i:06}")
}
