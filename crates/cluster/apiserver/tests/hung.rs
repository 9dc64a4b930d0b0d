//! Reads from a member of etcd that takes connections and never answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kinit_etcd_connect::{Etcd, Options};
use kinit_storage::{Reading, ResourceSpec, Store};
use kinit_test_support::TestEtcd;
use tokio::net::TcpListener;

/// A store whose current member hangs, and whose other one answers.
async fn store(hung: &TcpListener, good: &str) -> Store {
    let endpoints = vec![format!("http://{}", hung.local_addr().unwrap()), good.to_owned()];
    let etcd = Etcd::connect(Options { endpoints, ..Options::default() }).await.unwrap();
    let things = ResourceSpec { prefix: "things/".into(), reading: Reading::default(), crypt: Arc::default() };
    Store::new(etcd, vec![things])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_moves_on_from_a_member_that_hangs() {
    let etcd = TestEtcd::start().unwrap();
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let writer = store(&hung, &etcd.endpoint).await;
    let object = serde_json::json!({"metadata": {"name": "a"}});
    writer.create("things/", "a", &object, None).await.unwrap();
    for read in ["object", "revision", "raw"] {
        let (store, begun) = (store(&hung, &etcd.endpoint).await, Instant::now());
        match read {
            "object" => assert!(store.get("things/", "a").await.unwrap().is_some()),
            "revision" => assert!(store.current_revision().await.unwrap() > 0),
            _ => assert!(store.raw_get("things/a").await.unwrap().0.is_some()),
        }
        let taken = begun.elapsed();
        assert!(taken < Duration::from_secs(4), "{read}: {taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_nobody_answers_ends() {
    let listeners = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let store = store(&listeners[0], &format!("http://{}", listeners[1].local_addr().unwrap())).await;
    let begun = Instant::now();
    let error = store.current_revision().await.unwrap_err().to_string();
    let taken = begun.elapsed();
    assert!(error.starts_with("etcd is unavailable") && taken < Duration::from_secs(12), "{error} after {taken:?}");
}
