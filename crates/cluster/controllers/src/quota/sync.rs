//! Looks at one ResourceQuota and writes what is used.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kinit_apimachinery::quantity::Quantity;
use kinit_client::informer::{Change, Store, key_of, spawn};
use kinit_client::queue::Queue;
use kinit_component_helpers::quota::{
    counted, has_scopes, of_claim, of_pod, of_service, speaks_of_claim, speaks_of_pod,
};
use kinit_component_helpers::requests::{Amounts, add, amounts};
use kube::api::{Api, PostParams};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::Config;
use kube::{Client, Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::settle::Charges;
use crate::context::Context;
use crate::discovery::discover;
use crate::object::{ignore_gone, is_status};

type Metadata = PartialObjectMeta<DynamicObject>;
/// Plural and group.
type Counted = (String, String);

/// Every quota is looked at this often even without an event: a pod that should be gone stops counting by the clock.
const RESYNC: Duration = Duration::from_mins(5);

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("resourcequota-controller").await?;
    let quotas = ctx.store::<ResourceQuota>();
    let (pods, services, claims) = (ctx.store::<Pod>(), ctx.store::<Service>(), ctx.store::<PersistentVolumeClaim>());
    quotas.synced().await;
    pods.synced().await;
    services.synced().await;
    claims.synced().await;
    let queue = Queue::new();
    let charges = Arc::new(Charges::default());
    let (on_quota, seen) = (queue.clone(), charges.clone());
    quotas.on_change(move |change| {
        seen.see(change);
        on_quota.add(key_of(&**change.object()));
    });
    watch(&pods, &quotas, &queue, |pod| of_pod(pod, Timestamp::now()));
    watch(&services, &quotas, &queue, of_service);
    watch(&claims, &quotas, &queue, of_claim);
    let work = Arc::new(Controller {
        ctx: ctx.clone(),
        client,
        queue: queue.clone(),
        quotas,
        pods,
        services,
        claims,
        charges,
        counted: Mutex::default(),
    });
    queue.run("resourcequota", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

/// Makes the quotas of a namespace due when what an object of it uses has changed.
fn watch<K: Resource + Clone + Send + Sync + 'static>(
    store: &Arc<Store<K>>,
    quotas: &Arc<Store<ResourceQuota>>,
    queue: &Arc<Queue<String>>,
    usage: impl Fn(&K) -> Amounts + Send + Sync + 'static,
) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    store.on_change(move |change| {
        let object = change.object();
        let due = quotas.in_namespace(&object.meta().namespace.clone().unwrap_or_default());
        if due.is_empty() {
            return;
        }
        if let Change::Updated { old, new } = change
            && usage(old) == usage(new)
        {
            return;
        }
        due.iter().for_each(|quota| queue.add(key_of(&**quota)));
    });
}

struct Controller {
    ctx: Context,
    client: Client,
    queue: Arc<Queue<String>>,
    quotas: Arc<Store<ResourceQuota>>,
    pods: Arc<Store<Pod>>,
    services: Arc<Store<Service>>,
    claims: Arc<Store<PersistentVolumeClaim>>,
    /// When admission last charged a quota.
    charges: Arc<Charges>,
    /// Objects that quotas count, by plural and group.
    counted: Mutex<HashMap<Counted, Arc<Store<Metadata>>>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(quota) = self.quotas.get(&key).filter(|q| q.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let spec = quota.spec.clone().unwrap_or_default();
        let hard = spec.hard.clone().unwrap_or_default();
        let mut used = self.worked_out(&quota);
        for name in hard.keys() {
            if let Some((plural, group)) = counted(name) {
                let count = if has_scopes(&spec) { Some(0) } else { self.count(&quota, plural, group).await? };
                if let Some(count) = count {
                    used.insert(name.clone(), Quantity::from_milli(count.saturating_mul(1000)));
                }
            }
        }
        let before = amounts(quota.status.as_ref().and_then(|s| s.used.as_ref()));
        let wait = self.charges.settle(&key, Instant::now(), &before, &mut used);
        let status = status(&hard, &used);
        if !same(quota.status.as_ref(), &status) {
            let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &quota.namespace().unwrap_or_default());
            let wanted = ResourceQuota { status: Some(status), ..(*quota).clone() };
            match api.replace_status(&quota.name_any(), &PostParams::default(), &wanted).await {
                // Admission was faster: the quota that it wrote is on its way here and makes this due again.
                Err(error) if is_status(&error, 409) => {}
                written => {
                    ignore_gone(written).context("write the status")?;
                }
            }
        }
        Ok(Some(wait.unwrap_or(RESYNC)))
    }

    /// What pods, Services and claims use.
    fn worked_out(&self, quota: &ResourceQuota) -> Amounts {
        let (namespace, now) = (quota.namespace().unwrap_or_default(), Timestamp::now());
        let mut used = Amounts::new();
        let spec = quota.spec.clone().unwrap_or_default();
        for pod in self.pods.in_namespace(&namespace).iter().filter(|p| speaks_of_pod(&spec, p)) {
            add(&mut used, &of_pod(pod, now));
        }
        for claim in self.claims.in_namespace(&namespace).iter().filter(|c| speaks_of_claim(&spec, c)) {
            add(&mut used, &of_claim(claim));
        }
        if !has_scopes(&spec) {
            self.services.in_namespace(&namespace).iter().for_each(|s| add(&mut used, &of_service(s)));
        }
        used
    }

    /// How many objects of a resource the quota's namespace has; `None` for a resource that the API server does not
    /// have.
    async fn count(&self, quota: &ResourceQuota, plural: &str, group: &str) -> Result<Option<i64>> {
        let key = (plural.to_owned(), group.to_owned());
        let known = self.counted.lock().get(&key).cloned();
        let store = match known {
            Some(store) => store,
            None => {
                let found = discover(&self.ctx.root()).await.context("look for resources to count")?;
                let resource = found.resources.into_iter().find(|r| r.plural == plural && r.group == group);
                let Some(resource) = resource.filter(|r| r.namespaced && r.can("watch")) else { return Ok(None) };
                let mut all = self.counted.lock();
                all.entry(key).or_insert_with(|| self.watch_resource(&resource.kube())).clone()
            }
        };
        store.synced().await;
        let count = store.in_namespace(&quota.namespace().unwrap_or_default()).len();
        Ok(Some(i64::try_from(count).unwrap_or(i64::MAX)))
    }

    fn watch_resource(&self, resource: &kube::core::ApiResource) -> Arc<Store<Metadata>> {
        let api: Api<Metadata> = Api::all_with(self.ctx.root(), resource);
        let store = spawn(api, Config::default(), &self.ctx.shutdown());
        let (quotas, queue) = (self.quotas.clone(), self.queue.clone());
        store.on_change(move |change| {
            if !matches!(change, Change::Updated { .. }) {
                let due = quotas.in_namespace(&change.object().namespace().unwrap_or_default());
                due.iter().for_each(|quota| queue.add(key_of(&**quota)));
            }
        });
        store
    }
}

/// What is used of what is limited; nothing of it yet is 0, so that each limit is seen with its use.
fn status(hard: &BTreeMap<String, Text>, used: &Amounts) -> ResourceQuotaStatus {
    let of = |name: &String| Text(used.get(name).copied().unwrap_or(Quantity::ZERO).to_string());
    let used = hard.keys().map(|name| (name.clone(), of(name))).collect();
    ResourceQuotaStatus { hard: Some(hard.clone()), used: Some(used) }
}

/// Compared as amounts: `1` and `1000m` are the same.
fn same(a: Option<&ResourceQuotaStatus>, b: &ResourceQuotaStatus) -> bool {
    let of = |s: Option<&ResourceQuotaStatus>| {
        (amounts(s.and_then(|s| s.hard.as_ref())), amounts(s.and_then(|s| s.used.as_ref())))
    };
    of(a) == of(Some(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_with_its_use() {
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, Text> {
            pairs.iter().map(|(n, q)| ((*n).to_owned(), Text((*q).to_owned()))).collect()
        };
        let hard = text(&[("cpu", "2"), ("pods", "10")]);
        let used = amounts(Some(&text(&[("cpu", "500m"), ("memory", "1Gi")])));
        let got = status(&hard, &used);
        assert_eq!(got.used, Some(text(&[("cpu", "500m"), ("pods", "0")])));
        let other =
            ResourceQuotaStatus { hard: Some(text(&[("cpu", "2000m"), ("pods", "10")])), used: got.used.clone() };
        assert!(same(Some(&other), &got) && !same(None, &got));
    }
}
