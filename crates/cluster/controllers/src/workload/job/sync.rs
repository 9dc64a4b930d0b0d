//! Looks at one Job and does what the plan says.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kinit_client::informer::{Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::plan::{Plan, plan};
use super::{FINALIZER, INDEX};
use crate::context::Context;
use crate::object::owner::{claim_all, controller_of};
use crate::object::{ignore_gone, now, selector};
use crate::workload::expectations::Expectations;
use crate::workload::pods::{PodControl, brief, from_template, is_terminating, slow_start};

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("job-controller").await?;
    let (jobs, pods) = (ctx.store::<Job>(), ctx.store::<Pod>());
    let (queue, expectations) = (Queue::new(), Arc::new(Expectations::default()));
    let on_job = queue.clone();
    jobs.on_change(move |change| on_job.add(key_of(&**change.object())));
    let (on_pod, seen) = (queue.clone(), expectations.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let Some(owner) = controller_of(&**pod).filter(|o| o.kind == "Job") else { return };
        let key = format!("{}/{}", pod.namespace().unwrap_or_default(), owner.name);
        match change {
            Change::Added(_) => seen.created(&key),
            Change::Deleted(_) => seen.deleted(&key, pod.metadata.uid.as_deref().unwrap_or_default()),
            Change::Updated { .. } if pod.metadata.deletion_timestamp.is_some() => {
                seen.deleted(&key, pod.metadata.uid.as_deref().unwrap_or_default());
            }
            Change::Updated { .. } => {}
        }
        on_pod.add(key);
    });
    jobs.synced().await;
    pods.synced().await;
    let recorder = ctx.recorder(client.clone(), "job-controller");
    let control = PodControl { client: client.clone(), recorder };
    let work = Arc::new(Controller { client, jobs, pods, control, expectations });
    queue.run("job", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    client: Client,
    jobs: Arc<Store<Job>>,
    pods: Arc<Store<Pod>>,
    control: PodControl,
    expectations: Arc<Expectations>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(job) = self.jobs.get(&key) else {
            self.expectations.forget(&key);
            return Ok(None);
        };
        let managed = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
        if managed.is_some_and(|by| by != "kubernetes.io/job-controller") {
            return Ok(None);
        }
        let namespace = split_key(&key).0;
        let selector = selector::of_workload(job.spec.as_ref().and_then(|s| s.selector.as_ref()))?;
        let owners: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pods = claim_all(&owners, &*job, &selector, &api, &self.pods).await.context("claim pods")?;
        if job.metadata.deletion_timestamp.is_some() {
            for pod in &pods {
                untrack(&api, pod).await?;
            }
            return Ok(None);
        }
        if !self.expectations.satisfied(&key) {
            return Ok(None);
        }
        let plan = plan(&job, &pods, &now());
        if job.status.as_ref() != Some(&plan.status) {
            let wanted = Job { status: Some(plan.status.clone()), ..(*job).clone() };
            ignore_gone(owners.replace_status(&job.name_any(), &PostParams::default(), &wanted).await)
                .context("write the status")?;
        }
        for pod in &plan.counted {
            untrack(&api, pod).await?;
        }
        if let Some((kind, reason, message)) = &plan.ended {
            match *kind {
                "Normal" => self.control.recorder.normal(&*job, reason, message.clone()),
                _ => self.control.recorder.warning(&*job, reason, message.clone()),
            }
        }
        self.act(&key, &job, &plan).await?;
        Ok(plan.again.and_then(|d| Duration::try_from(d).ok()))
    }

    async fn act(&self, key: &str, job: &Job, plan: &Plan) -> Result<()> {
        for pod in &plan.delete {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            self.expectations.expect_deletion(key, uid);
            if let Err(error) = self.control.delete(job, pod).await {
                self.expectations.deleted(key, uid);
                return Err(error);
            }
        }
        if plan.create.is_empty() {
            return Ok(());
        }
        let wanted: Vec<Pod> = plan.create.iter().map(|index| pod_of(job, *index)).collect();
        self.expectations.expect_creations(key, wanted.len());
        let create = |i: usize| {
            let pod = wanted.get(i).cloned().unwrap_or_default();
            async move { self.control.create(job, &pod).await }
        };
        let (done, _, failure) = slow_start(wanted.len(), create).await;
        (done.len()..wanted.len()).for_each(|_| self.expectations.created(key));
        match failure.filter(|e| !is_terminating(e)) {
            Some(error) => {
                let text = brief(&error);
                Err(error).with_context(|| format!("create pods: {text}"))
            }
            None => Ok(()),
        }
    }
}

fn pod_of(job: &Job, index: Option<i32>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut pod = from_template(&template, job);
    pod.finalizers_mut().push(FINALIZER.to_owned());
    let Some(index) = index else { return pod };
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

async fn untrack(api: &Api<Pod>, pod: &Pod) -> Result<()> {
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
