//! `ttl-after-finished`: finished Jobs go when their time is over (`pkg/controller/ttlafterfinished`).

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kinit_client::informer::{Change, key_of, split_key};
use kinit_client::queue::Queue;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Preconditions, PropagationPolicy};

use crate::context::Context;
use crate::object::ignore_gone;
use crate::workload::job::is_finished;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("ttl-after-finished-controller").await?;
    let jobs = ctx.store::<Job>();
    let queue = Queue::new();
    let handler = queue.clone();
    jobs.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) && due(change.object()).is_some() {
            handler.add(key_of(&**change.object()));
        }
    });
    let work = move |key: String| {
        let (client, job) = (client.clone(), jobs.get(&key));
        async move {
            let Some((job, at)) = job.and_then(|j| due(&j).map(|at| (j, at))) else { return Ok(None) };
            let left = at.duration_since(Timestamp::now());
            if left.is_positive() {
                return Ok(Duration::try_from(left).ok().map(|d| d + Duration::from_millis(10)));
            }
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Foreground),
                preconditions: Some(Preconditions { uid: job.uid(), resource_version: None }),
                ..Default::default()
            };
            let api: Api<Job> = Api::namespaced(client, split_key(&key).0);
            ignore_gone(api.delete(&job.name_any(), &params).await).context("delete a finished job")?;
            tracing::info!(job = key, "its time is over");
            Ok(None)
        }
    };
    queue.run("ttl-after-finished", 2, ctx.shutdown(), work).await;
    Ok(())
}

/// When a finished Job is to go.
fn due(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if !is_finished(job) || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.as_ref()?.conditions.iter().flatten();
    let mut ends = conditions.filter(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True");
    let end = ends.next()?.last_transition_time.as_ref()?.0;
    end.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
}
