//! What one API server's operations cost.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use super::Common;
use super::flood;
use super::floor::Floor;
use super::http::Http;
use super::setup::Setup;
use super::table::{Cost, heading, memory, repeat};
use super::watchers::Watchers;

const NAMESPACE: &str = "bench";
const PATH: &str = "/api/v1/namespaces/bench/configmaps";
/// Length of the text in each ConfigMap: with its metadata an object has about 1.1 KB.
const TEXT: usize = 800;
/// Objects with the same value of the label `shard` are one in so many.
const SHARDS: u32 = 100;
const WATCHERS: usize = 50;
/// Watchers whose memory is measured.
const IDLE: usize = 300;
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PAGE: u32 = 500;
/// How often lists are repeated: CPU time is known to 10 ms only.
const TIMES: u32 = 20;
/// How often etcd's ranges are.
const FLOOR_TIMES: u32 = 5;

/// How much is measured.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// ConfigMaps
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    objects: u32,
    /// Requests at a time, where not one at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100))]
    at_once: u32,
}

struct Bench {
    setup: Setup,
    http: Http,
    objects: u32,
    at_once: usize,
}

/// Measures and prints.
pub async fn run(args: &Args) -> Result<()> {
    let setup = Setup::start(&args.common).await?;
    let http = setup.http()?;
    let at_once = usize::try_from(args.at_once)?;
    let mut bench = Bench { setup, http, objects: args.objects, at_once };
    let namespace = json!({"metadata": {"name": NAMESPACE}}).to_string();
    bench.http.request(Method::POST, "/api/v1/namespaces", Some(namespace)).await?;
    let rest = bench.setup.resident().await?;
    heading();
    bench.create().await?;
    let created = bench.setup.resident().await?;
    bench.get().await?;
    bench.floor().await?;
    bench.lists().await?;
    bench.watch().await?;
    bench.update().await?;
    let updated = bench.setup.resident().await?;
    flood::run(&bench.setup, &bench.http, PATH).await?;
    let restarted = bench.restart().await?;
    let idle = bench.idle_watchers(restarted[0]).await?;
    bench.delete().await?;
    println!("\n{:<46} {:>9} {:>9}", "MiB resident", "server", "etcd");
    memory("at rest", rest);
    memory("after the creates", created);
    memory("after all but the deletes", updated);
    memory("another server on the same objects", restarted);
    let each = restarted[0].saturating_sub(rest[0]) / u64::from(bench.objects);
    println!("{:<46} {each:>9}", "bytes per cached object (that server - at rest)");
    println!("{:<46} {idle:>9}", "bytes per idle watcher, with its connection");
    Ok(())
}

impl Bench {
    async fn create(&self) -> Result<()> {
        let single = self.single();
        let create = |i| async move { self.ask(Method::POST, PATH, Some(object(i, 0))).await };
        Cost::of(&self.setup, single, repeat(single, 1, create)).await?.print("create, one at a time");
        let rest = self.objects - single;
        let create = |i| create(i + single);
        let cost = Cost::of(&self.setup, rest, repeat(rest, self.at_once, create)).await?;
        cost.print(&format!("create, {} at a time", self.at_once));
        Ok(())
    }

    async fn get(&self) -> Result<()> {
        let get = |i| async move { self.ask(Method::GET, &path(i), None).await };
        let single = self.single();
        Cost::of(&self.setup, single, repeat(single, 1, get)).await?.print("get, one at a time");
        let cost = Cost::of(&self.setup, self.objects, repeat(self.objects, self.at_once, get)).await?;
        cost.print(&format!("get, {} at a time", self.at_once));
        Ok(())
    }

    /// etcd without a server; its keys are gone afterwards.
    async fn floor(&self) -> Result<()> {
        let floor = Floor::new(&self.setup, &format!("/registry/configmaps/{NAMESPACE}/{}", name(0))).await?;
        let (single, at_once) = (self.single(), self.at_once);
        floor
            .put(&self.setup, single, 1)
            .await?
            .print(&format!("floor: put of {} bytes, one at a time", floor.bytes()));
        floor.put(&self.setup, self.objects, at_once).await?.print(&format!("floor: put, {at_once} at a time"));
        floor.get(&self.setup, single, 1).await?.print("floor: get, one at a time");
        floor.get(&self.setup, self.objects, at_once).await?.print(&format!("floor: get, {at_once} at a time"));
        let all = floor.range(&self.setup, self.objects, 0, FLOOR_TIMES).await?;
        all.print("floor: range over all, per key");
        let pages = floor.range(&self.setup, self.objects, PAGE, FLOOR_TIMES).await?;
        pages.print(&format!("floor: range limit={PAGE}, per key"));
        floor.delete(&self.setup, self.objects, at_once).await?.print(&format!("floor: delete, {at_once} at a time"));
        Ok(())
    }

    async fn lists(&self) -> Result<()> {
        let list: Value = serde_json::from_slice(&self.http.get(PATH).await?).context("read the list")?;
        // kube-root-ca.crt is made by a controller, and there is none.
        let seen = list["items"].as_array().map_or(0, Vec::len);
        ensure!(seen == self.objects as usize, "a list has {seen} objects, not {}", self.objects);
        let all = |_| async { self.ask(Method::GET, PATH, None).await };
        let objects = self.objects * TIMES;
        Cost::of(&self.setup, objects, repeat(TIMES, 1, all)).await?.print("list all, per object");
        let cached = format!("{PATH}?resourceVersion=0");
        let all = |_| async { self.ask(Method::GET, &cached, None).await };
        Cost::of(&self.setup, objects, repeat(TIMES, 1, all)).await?.print("list all, resourceVersion=0, per object");
        for (what, header) in [("protobuf", ("accept", PROTOBUF)), ("gzip", ("accept-encoding", "gzip"))] {
            let list = |_| async { self.http.get_with(&cached, header).await.map(drop) };
            let cost = Cost::of(&self.setup, objects, repeat(TIMES, 1, list)).await?;
            cost.print(&format!("list all, resourceVersion=0, {what}, per object"));
        }
        let paged = |_| self.pages();
        let cost = Cost::of(&self.setup, objects, repeat(TIMES, 1, paged)).await?;
        cost.print(&format!("list limit={PAGE}, per object"));
        let selected = format!("{PATH}?labelSelector=shard%3D7");
        let select = |_| async { self.ask(Method::GET, &selected, None).await };
        let cost = Cost::of(&self.setup, 100, repeat(100, 1, select)).await?;
        cost.print(&format!("list by label, 1 of {SHARDS} of {} objects", self.objects));
        Ok(())
    }

    async fn pages(&self) -> Result<()> {
        let mut token: Option<String> = None;
        let mut pages = 0;
        loop {
            let more = token.map(|token| format!("&continue={token}")).unwrap_or_default();
            let body = self.http.get(&format!("{PATH}?limit={PAGE}{more}")).await?;
            pages += 1;
            token = next(&body);
            if token.is_none() {
                break;
            }
        }
        let expected = self.objects.div_ceil(PAGE);
        ensure!(pages == expected, "{pages} pages, not {expected}");
        Ok(())
    }

    async fn watch(&self) -> Result<()> {
        let one: Value = serde_json::from_slice(&self.http.get(&format!("{PATH}?limit=1")).await?)?;
        let version = one["metadata"]["resourceVersion"].as_str().context("a list without resourceVersion")?;
        let events = self.single();
        let watchers = Watchers::start(&self.setup, WATCHERS, PATH, version).await?;
        let deliveries = events * u32::try_from(WATCHERS)?;
        let work = async {
            let mut reading = watchers.read(events);
            let update = |i| async move { self.ask(Method::PUT, &path(i), Some(object(i, 1))).await };
            repeat(events, self.at_once, update).await?;
            while let Some(read) = reading.join_next().await {
                read??;
            }
            Ok(())
        };
        let cost = Cost::of(&self.setup, deliveries, work).await?;
        cost.print(&format!("event to one of {WATCHERS} watchers, updates included"));
        Ok(())
    }

    async fn update(&self) -> Result<()> {
        let single = self.single();
        let update = |i| async move { self.ask(Method::PUT, &path(i), Some(object(i, 2))).await };
        Cost::of(&self.setup, single, repeat(single, 1, update)).await?.print("update, one at a time");
        let update = |i| async move { self.ask(Method::PUT, &path(i), Some(object(i, 3))).await };
        let cost = Cost::of(&self.setup, self.objects, repeat(self.objects, self.at_once, update)).await?;
        cost.print(&format!("update, {} at a time", self.at_once));
        Ok(())
    }

    /// Memory of a server that found the objects in etcd, without the traces of making them.
    async fn restart(&mut self) -> Result<[u64; 2]> {
        self.setup.restart().await?;
        self.http = self.setup.http()?;
        // Whatever is cached on first use is cached now.
        self.http.get(&format!("{PATH}?limit=1&resourceVersion=0")).await?;
        self.setup.resident().await
    }

    /// Bytes of memory for each watcher that has nothing to do.
    async fn idle_watchers(&self, before: u64) -> Result<u64> {
        let one: Value = serde_json::from_slice(&self.http.get(&format!("{PATH}?limit=1")).await?)?;
        let version = one["metadata"]["resourceVersion"].as_str().context("a list without resourceVersion")?;
        let _watchers = Watchers::start(&self.setup, IDLE, PATH, version).await?;
        let [after, _] = self.setup.resident().await?;
        Ok(after.saturating_sub(before) / IDLE as u64)
    }

    async fn delete(&self) -> Result<()> {
        let delete = |i| async move { self.ask(Method::DELETE, &path(i), None).await };
        let single = self.single();
        Cost::of(&self.setup, single, repeat(single, 1, delete)).await?.print("delete, one at a time");
        let rest = self.objects - single;
        let delete = |i| delete(i + single);
        let cost = Cost::of(&self.setup, rest, repeat(rest, self.at_once, delete)).await?;
        cost.print(&format!("delete, {} at a time", self.at_once));
        Ok(())
    }

    async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<()> {
        self.http.request(method, path, body).await.map(drop)
    }

    /// How many operations are done one at a time.
    fn single(&self) -> u32 {
        (self.objects / 10).max(1)
    }
}

fn name(i: u32) -> String {
    format!("cm-{i:06}")
}

fn path(i: u32) -> String {
    format!("{PATH}/{}", name(i))
}

/// A ConfigMap; another `round` is another text.
fn object(i: u32, round: u32) -> String {
    let text: String = format!("{i}.{round} ").chars().cycle().take(TEXT).collect();
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name(i), "namespace": NAMESPACE, "labels": {"app": "bench", "shard": (i % SHARDS).to_string()}},
        "data": {"text": text},
    })
    .to_string()
}

/// The `continue` of a list, which is in front of its items. Looked for in the bytes: a client that decodes 500 objects
/// would be measured instead of the server.
fn next(body: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&body[..body.len().min(1000)]);
    let (_, rest) = head.split_once("\"continue\":\"")?;
    rest.split_once('"').map(|(token, _)| token.to_owned()).filter(|token| !token.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn objects_differ_by_round_and_have_a_kilobyte() {
        assert_ne!(object(1, 0), object(1, 1));
        assert!((900..1100).contains(&object(1, 0).len()), "{}", object(1, 0).len());
    }

    #[test]
    fn the_next_page_is_found() {
        let page = br#"{"kind":"ConfigMapList","metadata":{"resourceVersion":"7","continue":"abc-_"},"items":[]}"#;
        assert_eq!(next(page).as_deref(), Some("abc-_"));
        assert_eq!(next(br#"{"metadata":{"continue":""},"items":[]}"#), None);
        assert_eq!(next(br#"{"metadata":{},"items":[]}"#), None);
    }
}
