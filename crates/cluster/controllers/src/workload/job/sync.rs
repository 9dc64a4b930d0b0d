//! Looks at one Job and does what the plan says.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kinit_client::queue::Queue;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::orphans::Orphans;
use super::per_index::{FAILURES, IGNORED};
use super::plan::{NewPod, plan};
use super::{FINALIZER, INDEX};
use crate::context::Context;
use crate::object::{ignore_gone, now};
use crate::workload::owned::{PodLoop, PodOwner};
use crate::workload::pods::from_template;

impl PodOwner for Job {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().and_then(|s| s.selector.clone())
    }
}

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let work = Arc::new(Controller(PodLoop::<Job>::start(&ctx, "job-controller", "job-controller").await?));
    let (client, jobs, pods) = (work.0.client.clone(), work.0.owners.clone(), work.0.pods.clone());
    let (orphans, orphaned) = (Arc::new(Orphans { client, jobs, pods }), Queue::new());
    orphans.watch(&orphaned);
    let letting_go = orphaned.run("job_orphan_pod", 1, ctx.shutdown(), move |key| orphans.clone().sync(key));
    let queue = work.0.queue.clone();
    let working = queue.run("job", 5, ctx.shutdown(), move |key| work.clone().sync(key));
    tokio::join!(letting_go, working);
    Ok(())
}

struct Controller(PodLoop<Job>);

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(job) = self.0.owner(&key) else { return Ok(None) };
        let managed = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if managed.is_some_and(|by| by != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        let api: Api<Pod> = self.0.api(&job);
        let pods = self.0.claim(&job).await?;
        if job.metadata.deletion_timestamp.is_some() {
            for pod in &pods {
                untrack(&api, pod).await?;
            }
            return Ok(None);
        }
        if !self.0.settled(&key) {
            return Ok(None);
        }
        let plan = plan(&job, &pods, &now());
        if job.status.as_ref() != Some(&plan.status) {
            self.0.write_status(&Job { status: Some(plan.status.clone()), ..(*job).clone() }).await?;
        }
        for pod in &plan.counted {
            untrack(&api, pod).await?;
        }
        if let Some((kind, reason, message)) = &plan.ended {
            match *kind {
                "Normal" => self.0.control.recorder.normal(&*job, reason, message.clone()),
                _ => self.0.control.recorder.warning(&*job, reason, message.clone()),
            }
        }
        if plan.uncounted {
            for pod in &plan.delete {
                untrack(&api, pod).await?;
            }
        }
        self.0.delete(&key, &job, &plan.delete).await?;
        let wanted: Vec<Pod> = plan.create.iter().map(|new| pod_of(&job, new)).collect();
        self.0.create(&key, &job, &wanted).await?;
        Ok(plan.again.and_then(|d| Duration::try_from(d).ok()))
    }
}

fn pod_of(job: &Job, new: &NewPod) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = from_template(&template, job);
    pod.finalizers_mut().push(FINALIZER.to_owned());
    if let Some((counted, ignored)) = new.failures {
        pod.annotations_mut().insert(FAILURES.into(), counted.to_string());
        if ignored > 0 {
            pod.annotations_mut().insert(IGNORED.into(), ignored.to_string());
        }
    }
    let Some(index) = new.index else { return pod };
    let index = index.to_string();
    let mut prefix = format!("{}-{index}", job.name_any());
    prefix.truncate(57);
    pod.metadata.generate_name = Some(format!("{prefix}-"));
    pod.annotations_mut().insert(INDEX.into(), index.clone());
    pod.labels_mut().insert(INDEX.into(), index.clone());
    if let Some(spec) = pod.spec.as_mut() {
        spec.hostname = Some(format!("{}-{index}", job.name_any()));
        let all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for container in all {
            let env = container.env.get_or_insert_default();
            if env.iter().all(|e| e.name != "JOB_COMPLETION_INDEX") {
                env.push(index_variable());
            }
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field_path = format!("metadata.labels['{INDEX}']");
    EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: Some("v1".into()), field_path }),
            ..Default::default()
        }),
    }
}

/// Takes the finalizer from a pod that has it.
pub async fn untrack(api: &Api<Pod>, pod: &Pod) -> Result<()> {
    let all: Vec<&String> = pod.metadata.finalizers.iter().flatten().collect();
    let kept: Vec<&&String> = all.iter().filter(|f| **f != FINALIZER).collect();
    if kept.len() == all.len() {
        return Ok(());
    }
    let patch = json!({"metadata": {"uid": pod.uid(), "resourceVersion": pod.resource_version(), "finalizers": kept}});
    ignore_gone(api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await)
        .with_context(|| format!("take the finalizer from pod {}", pod.name_any()))?;
    Ok(())
}
