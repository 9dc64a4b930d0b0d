//! Looks at one Deployment and does what the pure parts say.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kinit_client::events::Recorder;
use kinit_client::informer::{Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::is_terminal;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};

use super::history::{REVISION, find_new, forgettable, new_set, next_revision, revision, set_annotations};
use super::plan::{self, Scale, desired, is_rolling, is_scaling_event, new_set_replicas, replicas};
use super::status::{self, condition, counts, deadline, is_complete, set_condition};
use crate::context::Context;
use crate::object::owner::{claim_all, controller_of};
use crate::object::{ignore_gone, is_status, now, selector};
use crate::workload::pods::{brief, is_terminating};
use crate::workload::written::Written;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("deployment-controller").await?;
    let (deployments, sets, pods) = (ctx.store::<Deployment>(), ctx.store::<ReplicaSet>(), ctx.store::<Pod>());
    let queue = Queue::new();
    let (on_deployment, on_set, on_pod) = (queue.clone(), queue.clone(), queue.clone());
    deployments.on_change(move |change| on_deployment.add(key_of(&**change.object())));
    let all = deployments.clone();
    sets.on_change(move |change| {
        for set in change.old().into_iter().chain([change.object()]) {
            let namespace = set.namespace().unwrap_or_default();
            match controller_of(&**set) {
                Some(owner) if owner.kind == "Deployment" => on_set.add(format!("{namespace}/{}", owner.name)),
                Some(_) => {}
                None => all.in_namespace(&namespace).iter().for_each(|d| on_set.add(key_of(&**d))),
            }
        }
    });
    let (of_pod, recreated) = (sets.clone(), deployments.clone());
    pods.on_change(move |change| {
        // Recreate waits for the last old pod.
        if let Change::Deleted(pod) = change
            && let Some(owner) = controller_of(&**pod).filter(|o| o.kind == "ReplicaSet")
            && let Some(set) = of_pod.get(&format!("{}/{}", pod.namespace().unwrap_or_default(), owner.name))
            && let Some(owner) = controller_of(&*set)
        {
            let key = format!("{}/{}", set.namespace().unwrap_or_default(), owner.name);
            if recreated.get(&key).is_some_and(|d| !is_rolling(&d)) {
                on_pod.add(key);
            }
        }
    });
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    let recorder = ctx.recorder(client.clone(), "deployment-controller");
    let work = Arc::new(Controller { client, deployments, sets, pods, recorder, written: Written::default() });
    queue.run("deployment", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    client: Client,
    deployments: Arc<Store<Deployment>>,
    sets: Arc<Store<ReplicaSet>>,
    pods: Arc<Store<Pod>>,
    recorder: Recorder,
    /// What was written last, by key: a pass that comes before the store shows it goes on from there.
    written: Written<Deployment>,
}

impl Controller {
    fn api(&self, namespace: &str) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn sets_api(&self, deployment: &Deployment) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default())
    }

    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(deployment) = self.written.or_newer(&key, self.deployments.get(&key)) else { return Ok(None) };
        let namespace = split_key(&key).0;
        let selector = selector::of_workload(deployment.spec.as_ref().map(|s| &s.selector))?;
        let mut sets =
            claim_all(&self.api(namespace), &*deployment, &selector, &self.sets_api(&deployment), &self.sets).await?;
        let new = find_new(&deployment, &sets);
        let old: Vec<Arc<ReplicaSet>> =
            sets.iter().filter(|s| new.as_ref().is_none_or(|n| n.metadata.uid != s.metadata.uid)).cloned().collect();
        if deployment.metadata.deletion_timestamp.is_some() {
            return self.finish(&deployment, new.as_deref(), &old, false).await;
        }
        let paused = deployment.spec.as_ref().and_then(|s| s.paused) == Some(true);
        if let Some(status) = pause_condition(&deployment, paused) {
            self.write_status(&deployment, status).await?;
            return Ok(None);
        }
        let refs: Vec<&ReplicaSet> = old.iter().map(|s| &**s).collect();
        let active: Vec<&ReplicaSet> = refs.iter().copied().chain(new.as_deref()).filter(|s| replicas(s) > 0).collect();
        if paused || is_scaling_event(&deployment, &active) {
            let scales = plan::proportional(&deployment, new.as_deref(), &refs);
            self.scale(&deployment, &mut sets, scales).await?;
            let deployment = self.refresh_annotations(&deployment, &mut sets, new.as_deref(), &old).await?;
            return self.finish(&deployment, new.as_deref(), &old, false).await;
        }
        self.roll(&deployment, new, &old, &mut sets).await
    }

    async fn roll(
        &self,
        deployment: &Deployment,
        new: Option<Arc<ReplicaSet>>,
        old: &[Arc<ReplicaSet>],
        sets: &mut [Arc<ReplicaSet>],
    ) -> Result<Option<Duration>> {
        let refs: Vec<&ReplicaSet> = old.iter().map(|s| &**s).collect();
        if !is_rolling(deployment) {
            let downs: Vec<Scale> = refs.iter().filter(|s| replicas(s) > 0).map(|s| (s.name_any(), 0)).collect();
            if !downs.is_empty() {
                self.scale(deployment, sets, downs).await?;
                return self.finish(deployment, new.as_deref(), old, true).await;
            }
            if old.iter().any(|s| self.has_running_pods(s)) {
                return self.finish(deployment, new.as_deref(), old, true).await;
            }
        }
        let Some(new) = new else {
            // Its creation comes back as an event.
            return self.create_new(deployment, &refs).await;
        };
        let deployment = &*self.refresh_annotations(deployment, sets, Some(&new), old).await?;
        let scales = if is_rolling(deployment) {
            plan::rolling(deployment, &new, &refs)
        } else if replicas(&new) != desired(deployment) {
            vec![(new.name_any(), desired(deployment))]
        } else {
            Vec::new()
        };
        self.scale(deployment, sets, scales).await?;
        if is_complete(deployment, &counts(deployment, Some(&new), &all(Some(&new), old), &now())) {
            self.forget(deployment, old).await?;
        }
        self.finish(deployment, Some(&new), old, true).await
    }

    fn has_running_pods(&self, set: &ReplicaSet) -> bool {
        self.pods.controlled_by(set.metadata.uid.as_deref().unwrap_or_default()).iter().any(|p| !is_terminal(p))
    }

    async fn create_new(&self, deployment: &Deployment, old: &[&ReplicaSet]) -> Result<Option<Duration>> {
        let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
        let count = new_set_replicas(deployment, old, 0);
        let set = new_set(deployment, collisions, next_revision(old.iter().copied()), count);
        let name = set.name_any();
        let mut status = deployment.status.clone().unwrap_or_default();
        match self.sets_api(deployment).create(&PostParams::default(), &set).await {
            Ok(_) => {
                let deployment = &*self.set_revision(deployment, revision(set.annotations())).await?;
                if count > 0 {
                    let note = format!("Scaled up replica set {name} from 0 to {count}");
                    self.recorder.normal(deployment, "ScalingReplicaSet", note);
                }
                if deadline(deployment).is_some() {
                    let message = format!("Created new replica set {name:?}");
                    set_condition(&mut status, "Progressing", "True", "NewReplicaSetCreated", message, &now());
                    self.write_status(deployment, status).await?;
                }
                Ok(None)
            }
            Err(error) if is_status(&error, 409) => {
                let existing = self.sets_api(deployment).get_opt(&name).await?;
                let ours = existing.as_ref().is_some_and(|s| {
                    controller_of(s).is_some_and(|o| Some(&o.uid) == deployment.metadata.uid.as_ref())
                        && find_new(deployment, &[Arc::new(s.clone())]).is_some()
                });
                if ours {
                    // The store will show it soon.
                    return Ok(Some(Duration::from_millis(200)));
                }
                status.collision_count = Some(collisions.unwrap_or(0) + 1);
                self.write_status(deployment, status).await?;
                Ok(Some(Duration::from_millis(50)))
            }
            Err(error) if is_terminating(&error) => Ok(None),
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {}", brief(&error));
                self.recorder.warning(deployment, "ReplicaSetCreateError", message.clone());
                set_condition(&mut status, "Progressing", "False", "ReplicaSetCreateError", message, &now());
                self.write_status(deployment, status).await?;
                Err(error).with_context(|| format!("create replica set {name}"))
            }
        }
    }

    /// Writes the sizes; `sets` has then what was written, for the writes that follow.
    async fn scale(&self, deployment: &Deployment, sets: &mut [Arc<ReplicaSet>], scales: Vec<Scale>) -> Result<()> {
        for (name, count) in scales {
            let Some(set) = sets.iter_mut().find(|s| s.name_any() == name) else { continue };
            let mut wanted = (**set).clone();
            let before = replicas(set);
            wanted.spec.get_or_insert_default().replicas = Some(count);
            wanted.metadata.annotations = Some(set_annotations(deployment, set.annotations(), None, true));
            let scaled = ignore_gone(self.sets_api(deployment).replace(&name, &PostParams::default(), &wanted).await);
            if let Some(scaled) = scaled.with_context(|| format!("scale replica set {name} to {count}"))? {
                *set = Arc::new(scaled);
            }
            let way = if count > before { "up" } else { "down" };
            let note = format!("Scaled {way} replica set {name} from {before} to {count}");
            self.recorder.normal(deployment, "ScalingReplicaSet", note);
        }
        Ok(())
    }

    /// Revision and copied annotations of the new set, sizes of all: written only where they differ. `sets` and the
    /// answer have then what was written, for the writes that follow.
    async fn refresh_annotations<'a>(
        &self,
        deployment: &'a Deployment,
        sets: &mut [Arc<ReplicaSet>],
        new: Option<&ReplicaSet>,
        old: &[Arc<ReplicaSet>],
    ) -> Result<Cow<'a, Deployment>> {
        let number = next_revision(old.iter().map(|s| &**s));
        for set in sets.iter_mut() {
            let is_new = new.is_some_and(|n| n.metadata.uid == set.metadata.uid);
            let current = set.annotations();
            let wanted = set_annotations(deployment, current, is_new.then_some(number), is_new || replicas(set) > 0);
            let min_ready = deployment.spec.as_ref().and_then(|s| s.min_ready_seconds);
            let ready_differs = is_new && set.spec.as_ref().and_then(|s| s.min_ready_seconds) != min_ready;
            if wanted == *current && !ready_differs {
                continue;
            }
            let mut wanted_set = (**set).clone();
            wanted_set.metadata.annotations = Some(wanted);
            if is_new {
                wanted_set.spec.get_or_insert_default().min_ready_seconds = min_ready;
            }
            match self.sets_api(deployment).replace(&set.name_any(), &PostParams::default(), &wanted_set).await {
                Ok(annotated) => *set = Arc::new(annotated),
                // Changed by another, or gone: the next pass sees its newest version.
                Err(error) if is_status(&error, 409) || is_status(&error, 404) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("annotate replica set {}", set.name_any()));
                }
            }
        }
        match new {
            Some(new) => self.set_revision(deployment, revision(new.annotations()).max(number)).await,
            None => Ok(Cow::Borrowed(deployment)),
        }
    }

    /// Writes the revision's number; the Deployment as it is stored then, for the writes that follow. Its role may
    /// update Deployments, not patch them.
    async fn set_revision<'a>(&self, deployment: &'a Deployment, number: i64) -> Result<Cow<'a, Deployment>> {
        if revision(deployment.annotations()) == number {
            return Ok(Cow::Borrowed(deployment));
        }
        let api = self.api(&deployment.namespace().unwrap_or_default());
        let mut wanted = deployment.clone();
        wanted.annotations_mut().insert(REVISION.into(), number.to_string());
        let written = ignore_gone(api.replace(&deployment.name_any(), &PostParams::default(), &wanted).await);
        let written = written.context("write the revision")?;
        Ok(written.map_or(Cow::Borrowed(deployment), |written| {
            self.written.note(written.clone());
            Cow::Owned(written)
        }))
    }

    async fn forget(&self, deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Result<()> {
        for set in forgettable(deployment, old) {
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: set.uid(), resource_version: None }),
                ..DeleteParams::background()
            };
            ignore_gone(self.sets_api(deployment).delete(&set.name_any(), &params).await)
                .with_context(|| format!("delete old replica set {}", set.name_any()))?;
        }
        Ok(())
    }

    async fn finish(
        &self,
        deployment: &Deployment,
        new: Option<&ReplicaSet>,
        old: &[Arc<ReplicaSet>],
        rolling: bool,
    ) -> Result<Option<Duration>> {
        let all = all(new, old);
        let status = if rolling {
            status::rollout(deployment, new, &all, &now())
        } else {
            counts(deployment, new, &all, &now())
        };
        let again = rolling.then(|| recheck(deployment, &status)).flatten();
        self.write_status(deployment, status).await?;
        Ok(again)
    }

    async fn write_status(&self, deployment: &Deployment, status: DeploymentStatus) -> Result<()> {
        let empty = status.conditions.as_ref().is_some_and(Vec::is_empty);
        let status = if empty { DeploymentStatus { conditions: None, ..status } } else { status };
        if deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = self.api(&deployment.namespace().unwrap_or_default());
        let mut wanted = deployment.clone();
        wanted.status = Some(status);
        let written = ignore_gone(api.replace_status(&deployment.name_any(), &PostParams::default(), &wanted).await);
        if let Some(written) = written.context("write the status")? {
            self.written.note(written);
        }
        Ok(())
    }
}

fn all<'a>(new: Option<&'a ReplicaSet>, old: &'a [Arc<ReplicaSet>]) -> Vec<&'a ReplicaSet> {
    old.iter().map(|s| &**s).chain(new).collect()
}

/// The status with `Progressing` saying that the Deployment was paused or resumed; `None` when it says so.
fn pause_condition(deployment: &Deployment, paused: bool) -> Option<DeploymentStatus> {
    deadline(deployment)?;
    let mut status = deployment.status.clone().unwrap_or_default();
    let progress = condition(&status, "Progressing");
    let reason = progress.and_then(|c| c.reason.as_deref());
    if reason == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let said = reason == Some("DeploymentPaused");
    let (reason, message) = match (paused, said) {
        (true, false) => ("DeploymentPaused", "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return None,
    };
    set_condition(&mut status, "Progressing", "Unknown", reason, message.into(), &now());
    Some(status)
}

/// When to look again whether the rollout is stuck.
fn recheck(deployment: &Deployment, status: &DeploymentStatus) -> Option<Duration> {
    let limit = deadline(deployment)?;
    let progress = condition(status, "Progressing")?;
    if is_complete(deployment, status)
        || matches!(progress.reason.as_deref(), Some("ProgressDeadlineExceeded" | "NewReplicaSetAvailable"))
    {
        return None;
    }
    let due =
        progress.last_update_time.as_ref()?.0.checked_add(jiff::SignedDuration::from_secs(i64::from(limit))).ok()?;
    let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
    Some(left + Duration::from_secs(1))
}
