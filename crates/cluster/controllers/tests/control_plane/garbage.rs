//! The garbage collector, killed in the middle of its work, and what it costs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PropagationPolicy};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};

use crate::harness::{Cluster, PATIENCE, Says, eventually, template};

const COLLECTOR: &str = "garbage-collector-controller";
/// So often the collector is killed; the moments are spread over the time that letting go takes.
const KILLS: u64 = 100;
const DEPENDENTS: usize = 6;

fn dependent(name: &str, owner: &ConfigMap) -> Value {
    json!({"metadata": {"name": name, "labels": {"of": owner.name_any()}, "ownerReferences": [{"apiVersion": "v1",
        "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid().unwrap(), "blockOwnerDeletion": true}]}})
}

/// Names and uids of what belonged to an owner, in two resources.
async fn belongings(cluster: &Cluster, owner: &str) -> BTreeMap<String, (Option<String>, usize)> {
    let params = ListParams::default().labels(&format!("of={owner}"));
    let maps = cluster.api::<ConfigMap>().list(&params).await.unwrap().items;
    let secrets = cluster.api::<Secret>().list(&params).await.unwrap().items;
    let of = |name: String, uid, owners: usize| (name, (uid, owners));
    let maps = maps.iter().map(|o| of(o.name_any(), o.uid(), o.owner_references().len()));
    maps.chain(secrets.iter().map(|o| of(o.name_any(), o.uid(), o.owner_references().len()))).collect()
}

async fn family(cluster: &Cluster, name: &str) -> ConfigMap {
    let owner: ConfigMap = cluster.create(json!({"metadata": {"name": name}})).await;
    for i in 0..DEPENDENTS / 2 {
        cluster.create::<ConfigMap>(dependent(&format!("{name}-m{i}"), &owner)).await;
        cluster.create::<Secret>(dependent(&format!("{name}-s{i}"), &owner)).await;
    }
    owner
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_collector_is_killed_while_it_lets_go() {
    let mut cluster = Cluster::start(COLLECTOR).await;
    for round in 0..KILLS {
        let name = format!("owner{round}");
        family(&cluster, &name).await;
        let before = belongings(&cluster, &name).await;
        assert_eq!(before.len(), DEPENDENTS);
        let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
        cluster.api::<ConfigMap>().delete(&name, &orphan).await.unwrap();
        tokio::time::sleep(Duration::from_millis(round % 25)).await;
        cluster.kill_controllers();
        cluster.restart_controllers(COLLECTOR);
        eventually("no owner", async || {
            cluster.api::<ConfigMap>().get_opt(&name).await.unwrap().is_none().then_some(())
        })
        .await;
        let after = belongings(&cluster, &name).await;
        let kept = |all: &BTreeMap<String, (Option<String>, usize)>| -> Vec<(String, Option<String>)> {
            all.iter().map(|(name, (uid, _))| (name.clone(), uid.clone())).collect()
        };
        assert_eq!(kept(&after), kept(&before), "round {round}");
        assert!(after.values().all(|(_, owners)| *owners == 0), "round {round}: {after:?}");
    }
    // The last collector has nothing to collect among what was let go.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all = cluster.api::<Secret>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(all.len(), usize::try_from(KILLS).unwrap() * DEPENDENTS / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreground_owner_goes_last_although_the_collector_is_killed() {
    let mut cluster = Cluster::start(COLLECTOR).await;
    for round in 0..10 {
        let name = format!("owner{round}");
        family(&cluster, &name).await;
        cluster.api::<ConfigMap>().delete(&name, &DeleteParams::foreground()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(round * 3)).await;
        cluster.kill_controllers();
        if cluster.api::<ConfigMap>().get_opt(&name).await.unwrap().is_none() {
            assert!(belongings(&cluster, &name).await.is_empty(), "round {round}: the owner went before them");
        }
        cluster.restart_controllers(COLLECTOR);
        eventually("no owner", async || {
            cluster.api::<ConfigMap>().get_opt(&name).await.unwrap().is_none().then_some(())
        })
        .await;
        assert!(belongings(&cluster, &name).await.is_empty(), "round {round}: the owner went before them");
    }
}

/// etcd's own counters: puts, deletes, ranges.
async fn etcd(cluster: &Cluster) -> [u64; 3] {
    let url = format!("{}/metrics", cluster.server.etcd_endpoint());
    let text = reqwest::Client::new().get(url).send().await.unwrap().text().await.unwrap();
    let value = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64
    };
    ["etcd_mvcc_put_total", "etcd_mvcc_delete_total", "etcd_mvcc_range_total"].map(value)
}

/// Puts, deletes and ranges in etcd for each of the pods of a ReplicaSet that is deleted, by whoever runs in the
/// cluster.
async fn cost(cluster: &Cluster, pods: usize, are_there: impl Fn(&Pod) -> bool) -> [f64; 3] {
    cluster
        .create::<ReplicaSet>(json!({"metadata": {"name": "r"}, "spec": {"replicas": pods, "template": template("r"),
            "selector": {"matchLabels": {"app": "r"}}}}))
        .await;
    eventually("all pods", async || {
        let all = cluster.pods("r").await;
        (all.len() == pods && all.iter().all(&are_there)).then_some(())
    })
    .await;
    // Events of their creation are still being written.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, started) = (etcd(cluster).await, Instant::now());
    cluster.api::<ReplicaSet>().delete("r", &DeleteParams::background()).await.unwrap();
    // Not asked again and again: that would be counted too.

    let mut events = std::pin::pin!(watcher::watcher(cluster.api::<Pod>(), watcher::Config::default()));
    let empty = async {
        let (mut left, mut present) = (pods, 0);
        while let Some(event) = events.next().await {
            match event.unwrap() {
                Event::InitApply(_) => present += 1,
                Event::InitDone => left = present,
                Event::Delete(_) => left -= 1,
                _ => {}
            }
            if left == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.unwrap();
    let (after, took) = (etcd(cluster).await, started.elapsed());
    let each = [0, 1, 2].map(|i| (after[i] - before[i]) as f64 / pods as f64);
    println!("per pod: {:.2} puts, {:.2} deletes, {:.2} ranges; {pods} pods in {took:?}", each[0], each[1], each[2]);
    each
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collected_pod_costs_one_write() {
    let cluster = Cluster::start(&format!("{COLLECTOR},replicaset-controller")).await;
    let [puts, deletes, ranges] = cost(&cluster, 200, |_| true).await;
    // The one range is the comparison of the delete itself.
    assert!(puts < 0.1 && (1.0..1.1).contains(&deletes) && ranges < 1.3, "{puts} {deletes} {ranges}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collected_running_pod_costs_no_more_than_its_kubelet_asks_for() {
    let cluster = Cluster::start("*").await.with_scheduler();
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let runs = |p: &Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    let [puts, deletes, _] = cost(&cluster, 100, runs).await;
    // The deletion begins, the kubelet writes the last status and confirms; leases and the like are a few for all.
    assert!(puts < 2.5 && deletes < 1.2, "{puts} {deletes}");
}

/// A resource that cannot be listed may hold dependents: an owner that waits for them goes on waiting, others go.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_waits_for_what_cannot_be_listed() {
    let mut cluster = Cluster::start("").await;
    let owner: ConfigMap = cluster.create(json!({"metadata": {"name": "owner"}})).await;
    cluster.create::<Secret>(dependent("held", &owner)).await;
    let mut lost = dependent("lost", &owner);
    lost["metadata"]["ownerReferences"][0]["uid"] = "gone".into();
    cluster.create::<ConfigMap>(lost).await;
    let foreground = DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..Default::default() };
    cluster.api::<ConfigMap>().delete("owner", &foreground).await.unwrap();
    let endpoint = [cluster.server.etcd_endpoint().to_owned()];
    let mut etcd = kinit_etcd_connect::etcd_client::Client::connect(endpoint, None).await.unwrap();
    etcd.put("/registry/secrets/default/spoilt", "garbage", None).await.unwrap();
    cluster.restart_controllers(COLLECTOR);
    let maps = cluster.api::<ConfigMap>();
    let collected = async {
        // The collector begins without secrets after half a minute.
        while maps.get_opt("lost").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 3, collected).await.expect("what has no owner is collected");
    assert!(maps.get_opt("owner").await.unwrap().is_some(), "the owner went before its secret");
    etcd.delete("/registry/secrets/default/spoilt", None).await.unwrap();
    eventually("no owner", async || maps.get_opt("owner").await.unwrap().is_none().then_some(())).await;
    assert!(cluster.api::<Secret>().get_opt("held").await.unwrap().is_none(), "its secret went before");
}
