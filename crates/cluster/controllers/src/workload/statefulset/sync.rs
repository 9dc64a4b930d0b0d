//! Looks at one StatefulSet and takes its next steps.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kinit_client::informer::{Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::identity::{claims, pod};
use super::plan::{Step, status, steps};
use crate::context::Context;
use crate::object::owner::{claim_all, controller_of};
use crate::object::{ignore_gone, is_status, selector};
use crate::workload::expectations::Expectations;
use crate::workload::pods::{PodControl, brief, is_terminating};
use crate::workload::replicaset::next_available;
use crate::workload::revisions;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("statefulset-controller").await?;
    let (sets, pods) = (ctx.store::<StatefulSet>(), ctx.store::<Pod>());
    let history = ctx.store::<ControllerRevision>();
    let (queue, expectations) = (Queue::new(), Arc::new(Expectations::default()));
    let on_set = queue.clone();
    sets.on_change(move |change| on_set.add(key_of(&**change.object())));
    let (on_pod, seen) = (queue.clone(), expectations.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let Some(owner) = controller_of(&**pod).filter(|o| o.kind == "StatefulSet") else { return };
        let key = format!("{}/{}", pod.namespace().unwrap_or_default(), owner.name);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match change {
            Change::Added(_) => seen.created(&key),
            Change::Deleted(_) => seen.deleted(&key, uid),
            Change::Updated { .. } if pod.metadata.deletion_timestamp.is_some() => seen.deleted(&key, uid),
            Change::Updated { .. } => {}
        }
        on_pod.add(key);
    });
    sets.synced().await;
    pods.synced().await;
    history.synced().await;
    let recorder = ctx.recorder(client.clone(), "statefulset-controller");
    let control = PodControl { client: client.clone(), recorder };
    let work = Arc::new(Controller { client, sets, pods, history, control, expectations });
    queue.run("statefulset", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    client: Client,
    sets: Arc<Store<StatefulSet>>,
    pods: Arc<Store<Pod>>,
    history: Arc<Store<ControllerRevision>>,
    control: PodControl,
    expectations: Arc<Expectations>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(set) = self.sets.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let Some(spec) = set.spec.clone().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let namespace = split_key(&key).0;
        let selector = selector::of_workload(Some(&spec.selector))?;
        let owners: Api<StatefulSet> = Api::namespaced(self.client.clone(), namespace);
        let objects: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods = claim_all(&owners, &*set, &selector, &objects, &self.pods).await.context("claim pods")?;
        let mut known = revisions::of_owner(&self.history, set.metadata.uid.as_deref().unwrap_or_default());
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let labels = spec.selector.match_labels.clone();
        let update = revisions::current(&self.client, &*set, labels, &spec.template, &known, collisions).await?;
        let named = set.status.as_ref().and_then(|s| s.current_revision.clone());
        let current = known.iter().find(|r| Some(r.name_any()) == named).cloned().unwrap_or_else(|| update.clone());
        let (current_hash, update_hash) = (revisions::hash_of(&current), revisions::hash_of(&update));
        let now = Timestamp::now();
        let mut failure = None;
        if self.expectations.satisfied(&key) {
            for step in steps(&set, &pods, &update_hash, now) {
                let revision = if matches!(step, Step::Create { current: true, .. }) { &current } else { &update };
                if let Err(error) = self.take(&key, &set, &pods, &step, revision).await {
                    failure = Some(error);
                    break;
                }
            }
        }
        let (current_name, update_name) = (current.name_any(), update.name_any());
        let status = status(&set, &pods, (&current_name, &current_hash), (&update_name, &update_hash), now);
        if set.status.as_ref() != Some(&status) {
            let wanted = StatefulSet { status: Some(status), ..(*set).clone() };
            ignore_gone(owners.replace_status(&set.name_any(), &PostParams::default(), &wanted).await)
                .context("write the status")?;
        }
        known.retain(|r| r.metadata.uid != update.metadata.uid && r.metadata.uid != current.metadata.uid);
        let in_use: Vec<String> = pods.iter().filter_map(|p| p.labels().get(revisions::HASH).cloned()).collect();
        let limit = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(10);
        revisions::forget(&self.client, namespace, &known, &in_use, limit).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(next_available(&pods, spec.min_ready_seconds.unwrap_or(0), now)),
        }
    }

    async fn take(
        &self,
        key: &str,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        step: &Step,
        revision: &ControllerRevision,
    ) -> Result<()> {
        match step {
            Step::Delete(name) => {
                let Some(found) = pods.iter().find(|p| p.name_any() == *name) else { return Ok(()) };
                let uid = found.metadata.uid.as_deref().unwrap_or_default();
                self.expectations.expect_deletion(key, uid);
                let deleted = self.control.delete(set, found).await;
                if deleted.is_err() {
                    self.expectations.deleted(key, uid);
                }
                deleted
            }
            Step::Create { ordinal, .. } => {
                self.claims(set, *ordinal).await?;
                let template = revisions::template_of(revision).context("read a revision's template")?;
                let wanted = pod(set, &template, &revisions::hash_of(revision), *ordinal);
                self.expectations.expect_creations(key, 1);
                let created = self.control.create(set, &wanted).await;
                match created {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        self.expectations.created(key);
                        if is_terminating(&error) {
                            return Ok(());
                        }
                        let text = brief(&error);
                        Err(error).with_context(|| format!("create pod {}: {text}", wanted.name_any()))
                    }
                }
            }
        }
    }

    async fn claims(&self, set: &StatefulSet, ordinal: i32) -> Result<()> {
        let namespace = set.namespace().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        for (_, claim) in claims(set, ordinal) {
            let name = claim.name_any();
            if api.get_opt(&name).await.with_context(|| format!("look for claim {name}"))?.is_some() {
                continue;
            }
            match api.create(&PostParams::default(), &claim).await {
                Err(error) if is_status(&error, 409) => {}
                created => {
                    created.with_context(|| format!("create claim {name}"))?;
                    let note = format!(
                        "create Claim {name} Pod {}-{ordinal} in StatefulSet {} success",
                        set.name_any(),
                        set.name_any()
                    );
                    self.control.recorder.normal(set, "SuccessfulCreate", note);
                }
            }
        }
        Ok(())
    }
}
