//! Looks at one StatefulSet and takes its next steps.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kinit_client::informer::{Store, key_of};
use kube::ResourceExt;
use kube::api::{Api, PostParams};

use super::identity::{claim_owners, claims, is_stale, ordinal, pod};
use super::plan::{Step, bounds, status, steps};
use crate::context::Context;
use crate::object::{ignore_gone, is_status};
use crate::workload::owned::{PodLoop, PodOwner};
use crate::workload::replicaset::next_available;
use crate::workload::revisions::{self, Scheme};

const SCHEME: Scheme = Scheme::StatefulSet;

impl PodOwner for StatefulSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|s| s.selector.clone())
    }
}

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let base = PodLoop::<StatefulSet>::start(&ctx, "statefulset-controller", "statefulset-controller").await?;
    let history = ctx.store::<ControllerRevision>();
    let claims = ctx.store::<PersistentVolumeClaim>();
    history.synced().await;
    claims.synced().await;
    let queue = base.queue.clone();
    let work = Arc::new(Controller { base, history, claims });
    queue.run("statefulset", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    base: PodLoop<StatefulSet>,
    history: Arc<Store<ControllerRevision>>,
    claims: Arc<Store<PersistentVolumeClaim>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(set) = self.base.owner(&key).filter(|s| s.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let Some(spec) = set.spec.clone() else { return Ok(None) };
        let (client, pods) = (&self.base.client, self.base.claim(&set).await?);
        let mut known = revisions::of_owner(&self.history, set.metadata.uid.as_deref().unwrap_or_default());
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let update = revisions::current(client, &*set, SCHEME, &spec.template, &known, collisions).await?;
        let named = set.status.as_ref().and_then(|s| s.current_revision.clone());
        let current = known.iter().find(|r| Some(r.name_any()) == named).cloned().unwrap_or_else(|| update.clone());
        let (current_name, update_name) = (current.name_any(), update.name_any());
        let now = Timestamp::now();
        let mut failure = None;
        if self.base.settled(&key) {
            self.own_claims(&set, &pods).await?;
            let steps = steps(&set, &pods, &update_name, now);
            failure = self.take(&key, &set, &pods, &steps, (&current, &update)).await.err();
        }
        let status = status(&set, &pods, &current_name, &update_name, now);
        if set.status.as_ref() != Some(&status) {
            self.base.write_status(&StatefulSet { status: Some(status), ..(*set).clone() }).await?;
        }
        known.retain(|r| r.metadata.uid != update.metadata.uid && r.metadata.uid != current.metadata.uid);
        revisions::forget_unused(client, &*set, SCHEME, &known, &pods, spec.revision_history_limit).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok(next_available(&pods, spec.min_ready_seconds.unwrap_or(0), now)),
        }
    }

    /// Takes the steps; pods that are created are of the `current` or the `update` revision.
    async fn take(
        &self,
        key: &str,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        steps: &[Step],
        (current, update): (&ControllerRevision, &ControllerRevision),
    ) -> Result<()> {
        let goes = |p: &Arc<Pod>| steps.contains(&Step::Delete(p.name_any()));
        let doomed: Vec<Arc<Pod>> = pods.iter().filter(|p| goes(p)).cloned().collect();
        self.base.delete(key, set, &doomed).await?;
        let mut wanted = Vec::new();
        for step in steps {
            let Step::Create { ordinal, current: old } = step else { continue };
            self.claims(set, *ordinal).await?;
            let revision = if *old { current } else { update };
            let template = revisions::template_of(revision).context("read a revision's template")?;
            wanted.push(pod(set, &template, &revision.name_any(), *ordinal));
        }
        self.base.create(key, set, &wanted).await
    }

    /// Makes the claims of an ordinal that are missing.
    async fn claims(&self, set: &StatefulSet, ordinal: i32) -> Result<()> {
        let api: Api<PersistentVolumeClaim> = self.base.api(set);
        let pod = format!("{}-{ordinal}", set.name_any());
        for (_, mut claim) in claims(set, ordinal) {
            let name = claim.name_any();
            if let Some(found) = api.get_opt(&name).await.with_context(|| format!("look for claim {name}"))? {
                anyhow::ensure!(!is_stale(&found, &pod), "claim {name} of an earlier pod is being deleted");
                continue;
            }
            claim.metadata.owner_references = claim_owners(set, None, &claim, false);
            match api.create(&PostParams::default(), &claim).await {
                Err(error) if is_status(&error, 409) => {}
                created => {
                    created.with_context(|| format!("create claim {name}"))?;
                    let set_name = set.name_any();
                    let note = format!("create Claim {name} Pod {pod} in StatefulSet {set_name} success");
                    self.base.control.recorder.normal(set, "SuccessfulCreate", note);
                }
            }
        }
        Ok(())
    }

    /// Makes claims belong to whom the retention policy says, before any pod goes.
    async fn own_claims(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<()> {
        let api: Api<PersistentVolumeClaim> = self.base.api(set);
        let (first, end) = bounds(set);
        for pod in pods {
            let Some(ordinal) = ordinal(set, pod) else { continue };
            for (_, claim) in claims(set, ordinal) {
                let Some(found) = self.claims.get(&key_of(&claim)) else { continue };
                let away = ordinal < first || ordinal >= end;
                let Some(owners) = claim_owners(set, Some(pod), &found, away) else { continue };
                let mut wanted = (*found).clone();
                wanted.metadata.owner_references = Some(owners);
                ignore_gone(api.replace(&found.name_any(), &PostParams::default(), &wanted).await)
                    .with_context(|| format!("change the owners of claim {}", found.name_any()))?;
            }
        }
        Ok(())
    }
}
