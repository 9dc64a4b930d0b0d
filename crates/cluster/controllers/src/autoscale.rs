//! HorizontalPodAutoscalers (`pkg/controller/podautoscaler`).
//!
//! ```text
//! every 15 s, for each autoscaler:
//!   scale subresource of the target (scale) ─┐
//!   metrics APIs (metrics) ─ samples ────────┼─▶ evaluate: a proposal for each metric ─▶ the highest
//!   the target's pods ───────────────────────┘      └ decide::replicas (pure)             │
//!   history of recommendations and of scaling ─▶ decide::limits (pure) ◀──────────────────┘
//!   ─▶ scale subresource, status, conditions, events
//! ```
//!
//! Decisions read no clock and do no IO: `decide` holds them, tables test them.

mod conditions;
mod decide;
mod evaluate;
mod metrics;
mod scale;
mod selectors;
mod sync;

use std::sync::Arc;

use anyhow::Result;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kinit_client::informer::{Change, key_of};
use kinit_client::queue::Queue;

use crate::context::Context;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("horizontal-pod-autoscaler").await?;
    let recorder = ctx.recorder(client.clone(), "horizontal-pod-autoscaler");
    let (autoscalers, pods) = (ctx.store::<HorizontalPodAutoscaler>(), ctx.store::<Pod>());
    let controller =
        Arc::new(sync::Controller::new(client, ctx.root(), recorder, autoscalers.clone(), pods.clone(), ctx.args()));
    let queue = Queue::new();
    let (handler, forgetting) = (queue.clone(), controller.clone());
    autoscalers.on_change(move |change| match change {
        Change::Added(object) => handler.add(key_of(&**object)),
        // Its own writes do not make it look again: the next look comes with the clock.
        Change::Updated { old, new } if old.spec != new.spec || old.metadata.uid != new.metadata.uid => {
            handler.add(key_of(&**new));
        }
        Change::Updated { .. } => {}
        Change::Deleted(object) => forgetting.forget(&key_of(&**object)),
    });
    autoscalers.synced().await;
    pods.synced().await;
    let (workers, period) =
        (ctx.args().autoscaler.workers(), ctx.args().autoscaler.horizontal_pod_autoscaler_sync_period);
    let work = move |key: String| {
        let controller = controller.clone();
        async move {
            let there = controller.reconcile(&key).await;
            if let Err(error) = &there {
                // Not sooner because of it: metrics that are missing now are missing in a moment, too.
                tracing::warn!(autoscaler = key, error = format!("{error:#}"), "autoscale");
            }
            Ok(there.unwrap_or(true).then_some(period))
        }
    };
    queue.run("horizontalpodautoscaler", workers, ctx.shutdown(), work).await;
    Ok(())
}
