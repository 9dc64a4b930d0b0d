//! One look at one autoscaler (`reconcileAutoscaler`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscaler as Autoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus,
    MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::selector::LabelSelector;
use kinit_client::events::Recorder;
use kinit_client::informer::{Store, split_key};
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;

use super::conditions::{self, ABLE, ACTIVE, LIMITED};
use super::decide::history::History;
use super::decide::limits::{Bounds, complete, longest_period, plain, with_behavior};
use super::decide::pods::Patience;
use super::decide::replicas::Tolerances;
use super::evaluate::{Evaluator, group_of};
use super::metrics::Metrics;
use super::scale::{Scales, Target};
use super::selectors::{Selectors, selects};
use crate::args::{Args, AutoscalerArgs};
use crate::object::is_status;
use crate::workload::pods::brief;

/// What looks share.
pub struct Controller {
    client: Client,
    recorder: Recorder,
    autoscalers: Arc<Store<Autoscaler>>,
    pods: Arc<Store<Pod>>,
    metrics: Metrics,
    scales: Scales,
    selectors: Selectors,
    histories: Mutex<HashMap<String, History>>,
    settings: AutoscalerArgs,
}

/// One look: the object as it was read, and its status as it becomes.
struct Look<'a> {
    key: &'a str,
    object: &'a Autoscaler,
    spec: &'a HorizontalPodAutoscalerSpec,
    status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

/// What the metrics ask for together.
struct Wanted {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
    /// What is wrong with some of them.
    partly: Option<String>,
}

impl Look<'_> {
    fn set(&mut self, type_: &str, status: bool, reason: &str, message: &str) {
        let list = self.status.conditions.get_or_insert_default();
        conditions::set(list, type_, status, reason, message, &self.now.into_time());
    }
}

trait IntoTime {
    fn into_time(self) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
}

impl IntoTime for Timestamp {
    fn into_time(self) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self)
    }
}

impl Controller {
    /// `client` acts as the controller, `root` discovers.
    pub fn new(
        client: Client,
        root: Client,
        recorder: Recorder,
        autoscalers: Arc<Store<Autoscaler>>,
        pods: Arc<Store<Pod>>,
        args: &Args,
    ) -> Self {
        Self {
            metrics: Metrics::new(client.clone()),
            scales: Scales::new(root, client.clone()),
            selectors: Selectors::default(),
            histories: Mutex::default(),
            settings: args.autoscaler.clone(),
            client,
            recorder,
            autoscalers,
            pods,
        }
    }

    /// Forgets one that is gone.
    pub fn forget(&self, key: &str) {
        self.histories.lock().remove(key);
        self.selectors.forget(key);
    }

    /// Looks at one; false when it is gone.
    pub async fn reconcile(&self, key: &str) -> Result<bool> {
        let Some(object) = self.autoscalers.get(key) else { return Ok(false) };
        let status = object.status.clone().unwrap_or_default();
        let mut look = Look { key, object: &object, spec: &object.spec, status, now: Timestamp::now() };
        let result = self.look(&mut look).await;
        if look.status != object.status.clone().unwrap_or_default() {
            self.write(&look).await?;
        }
        result.map(|()| true)
    }

    async fn look(&self, look: &mut Look<'_>) -> Result<()> {
        let reference = &look.spec.scale_target_ref;
        let namespace = split_key(look.key).0;
        let found = match group_of(reference.api_version.as_deref()) {
            Ok(group) => self.scales.get(namespace, group, &reference.kind, &reference.name).await,
            Err(why) => Err(why),
        };
        let (target, scale) = found.map_err(|why| {
            self.recorder.warning(look.object, "FailedGetScale", &why);
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            look.set(ABLE, false, "FailedGetScale", &message);
            anyhow!("failed to query scale subresource for {}/{namespace}/{}: {why}", reference.kind, reference.name)
        })?;
        let message = "the HPA controller was able to get the target's current scale";
        look.set(ABLE, true, "SucceededGetScale", message);
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        self.histories.lock().entry(look.key.to_owned()).or_default().begin(current, look.now);

        let (min, max) = (look.spec.min_replicas.unwrap_or(1), look.spec.max_replicas);
        if current == 0 && min != 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            look.set(ACTIVE, false, "ScalingDisabled", message);
            self.settle(look, current, 0, Vec::new(), false);
            return Ok(());
        }
        if current > max {
            let why = "Current number of replicas above Spec.MaxReplicas";
            return self.scale(look, target, scale, (current, max), why, Vec::new()).await;
        }
        if current < min {
            let why = "Current number of replicas below Spec.MinReplicas";
            return self.scale(look, target, scale, (current, min), why, Vec::new()).await;
        }
        self.by_metrics(look, target, scale, Bounds { min, max, current }).await
    }

    async fn by_metrics(&self, look: &mut Look<'_>, target: Target, scale: Scale, bounds: Bounds) -> Result<()> {
        let (current, reference) = (bounds.current, &look.spec.scale_target_ref);
        let wanted = match self.wanted(look, &scale).await {
            Ok(wanted) => wanted,
            Err((statuses, error)) => {
                let desired = look.status.desired_replicas;
                self.settle(look, current, desired, statuses, false);
                self.recorder.warning(look.object, "FailedComputeMetricsReplicas", &error);
                let what = format!("{}/{}", reference.kind, reference.name);
                return Err(anyhow!(
                    "failed to compute desired number of replicas based on listed metrics for {what}: {error}"
                ));
            }
        };
        let why = match wanted.replicas {
            more if more > current => format!("{} above target", wanted.metric),
            less if less < current => "All metrics below target".to_owned(),
            _ => String::new(),
        };
        let limited = {
            let mut histories = self.histories.lock();
            let history = histories.entry(look.key.to_owned()).or_default();
            let window = self.settings.horizontal_pod_autoscaler_downscale_stabilization;
            match &look.spec.behavior {
                None => plain(bounds, wanted.replicas, window, history, look.now),
                Some(given) => with_behavior(bounds, wanted.replicas, &complete(given, window), history, look.now),
            }
        };
        look.set(ABLE, true, limited.able.0, limited.able.1);
        let (is_limited, reason, message) = limited.limited;
        look.set(LIMITED, is_limited, reason, message);
        if limited.replicas == current {
            self.settle(look, current, current, wanted.statuses, false);
        } else {
            let (replicas, statuses) = (limited.replicas, wanted.statuses);
            self.scale(look, target, scale, (current, replicas), &why, statuses).await?;
        }
        wanted.partly.map_or(Ok(()), |error| Err(anyhow!(error)))
    }

    /// Writes the scale, and tells of it.
    async fn scale(
        &self,
        look: &mut Look<'_>,
        target: Target,
        scale: Scale,
        (current, wanted): (i32, i32),
        why: &str,
        statuses: Vec<MetricStatus>,
    ) -> Result<()> {
        if let Err(error) = target.set(scale, wanted).await {
            let text = format!("New size: {wanted}; reason: {why}; error: {error}");
            self.recorder.warning(look.object, "FailedRescale", text);
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            look.set(ABLE, false, "FailedUpdateScale", &message);
            let desired = look.status.desired_replicas;
            let statuses = look.status.current_metrics.clone().unwrap_or_default();
            self.settle(look, current, desired, statuses, false);
            return Err(anyhow!("failed to rescale {}: {error}", look.spec.scale_target_ref.name));
        }
        let message = format!("the HPA controller was able to update the target scale to {wanted}");
        look.set(ABLE, true, "SucceededRescale", &message);
        self.recorder.normal(look.object, "SuccessfulRescale", format!("New size: {wanted}; reason: {why}"));
        tracing::info!(autoscaler = look.key, from = current, to = wanted, why, "scaled");
        if let Some(behavior) = &look.spec.behavior {
            let behavior = complete(behavior, Duration::ZERO);
            let rules = [behavior.scale_up.as_ref(), behavior.scale_down.as_ref()];
            let longest = rules.map(longest_period).into_iter().max().unwrap_or_default();
            let mut histories = self.histories.lock();
            histories.entry(look.key.to_owned()).or_default().scaled(current, wanted, longest, look.now);
        }
        self.settle(look, current, wanted, statuses, true);
        Ok(())
    }

    /// What all metrics ask for; an error with the statuses of those that could be had
    /// (`computeReplicasForMetrics`).
    async fn wanted(&self, look: &mut Look<'_>, scale: &Scale) -> Result<Wanted, (Vec<MetricStatus>, String)> {
        let namespace = split_key(look.key).0;
        let text = scale.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        let all = self.pods.in_namespace(namespace);
        let (selector, pods) = self.selected(look, &text, &all).map_err(|error| (Vec::new(), error))?;
        let evaluator = Evaluator {
            metrics: &self.metrics,
            scales: &self.scales,
            namespace,
            selector,
            pods: &pods,
            patience: Patience {
                initialization: self.settings.horizontal_pod_autoscaler_cpu_initialization_period,
                readiness: self.settings.horizontal_pod_autoscaler_initial_readiness_delay,
            },
            tolerances: self.tolerances(look.spec),
            wanted: scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0),
            current: scale.status.as_ref().map_or(0, |s| s.replicas),
            now: look.now,
        };
        let metrics = look.spec.metrics.as_deref().unwrap_or_default();
        let mut out = Wanted { replicas: 0, metric: String::new(), statuses: Vec::new(), partly: None };
        let (mut first, mut invalid) = (None, 0);
        for spec in metrics {
            match evaluator.metric(spec).await {
                Ok(evaluated) => {
                    if out.replicas == 0 || evaluated.replicas > out.replicas {
                        (out.replicas, out.metric) = (evaluated.replicas, evaluated.name);
                    }
                    out.statuses.push(evaluated.status);
                }
                Err(failed) => {
                    self.recorder.warning(look.object, failed.reason, &failed.cause);
                    // Each status has its metric's place.
                    out.statuses.push(MetricStatus::default());
                    invalid += 1;
                    first.get_or_insert(failed);
                }
            }
        }
        if let Some(failed) = first {
            let (count, error) = (metrics.len(), failed.error);
            let error = format!("invalid metrics ({invalid} invalid out of {count}), first error is: {error}");
            // What is unknown may be why there are so many: nothing is taken away.
            if invalid == count || out.replicas < evaluator.wanted {
                let message = format!("the HPA was unable to compute the replica count: {}", failed.cause);
                look.set(ACTIVE, false, failed.reason, &message);
                return Err((out.statuses, error));
            }
            out.partly = Some(error);
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {}", out.metric);
        look.set(ACTIVE, true, "ValidMetricFound", &message);
        Ok(out)
    }

    /// The pods that the scale selects, if no other autoscaler selects any of them (`validateAndParseSelector`).
    fn selected<'p>(
        &self,
        look: &mut Look<'_>,
        text: &'p str,
        all: &'p [Arc<Pod>],
    ) -> Result<(&'p str, Vec<&'p Pod>), String> {
        let (namespace, key) = (split_key(look.key).0, look.key);
        let mut refuse = |reason: &str, event: &str, message: String, error: String| {
            self.recorder.warning(look.object, event, &error);
            look.set(ACTIVE, false, reason, &message);
            Err(error)
        };
        if text.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            return refuse("InvalidSelector", "SelectorRequired", message, "selector is required".to_owned());
        }
        let selector = match LabelSelector::parse(text) {
            Ok(selector) => selector,
            Err(error) => {
                let error = format!("couldn't convert selector into a corresponding internal selector object: {error}");
                return refuse("InvalidSelector", "InvalidSelector", error.clone(), error);
            }
        };
        let pods: Vec<&Pod> = all.iter().map(|pod| &**pod).filter(|pod| selects(&selector, pod)).collect();
        self.selectors.put(key, selector);
        let rivals = self.selectors.rivals(namespace, &pods);
        if rivals.len() > 1 {
            let names: Vec<&str> = rivals.iter().map(String::as_str).collect();
            let error = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", names.join(" "));
            return refuse("AmbiguousSelector", "AmbiguousSelector", error.clone(), error);
        }
        Ok((text, pods))
    }

    /// A behavior may have tolerances of its own.
    fn tolerances(&self, spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
        let usual = self.settings.horizontal_pod_autoscaler_tolerance;
        let own = |rules: Option<&HPAScalingRules>| {
            let quantity: Option<Quantity> = rules.and_then(|r| r.tolerance.as_ref()).and_then(|q| q.0.parse().ok());
            quantity.map_or(usual, |q| q.milli() as f64 / 1000.0)
        };
        let behavior = spec.behavior.as_ref();
        Tolerances {
            down: own(behavior.and_then(|b| b.scale_down.as_ref())),
            up: own(behavior.and_then(|b| b.scale_up.as_ref())),
        }
    }

    fn settle(&self, look: &mut Look<'_>, current: i32, desired: i32, metrics: Vec<MetricStatus>, rescaled: bool) {
        look.status.current_replicas = Some(current);
        look.status.desired_replicas = desired;
        look.status.current_metrics = (!metrics.is_empty()).then_some(metrics);
        if rescaled {
            look.status.last_scale_time = Some(look.now.into_time());
        }
    }

    async fn write(&self, look: &Look<'_>) -> Result<()> {
        let (namespace, name) = split_key(look.key);
        let api: Api<Autoscaler> = Api::namespaced(self.client.clone(), namespace);
        let with_status = |mut object: Autoscaler| {
            object.status = Some(look.status.clone());
            object
        };
        let params = PostParams::default();
        let mut result = api.replace_status(name, &params, &with_status(look.object.clone())).await;
        if matches!(&result, Err(error) if is_status(error, 409)) {
            // Somebody changed the object meanwhile; what was seen and done is true all the same.
            result = match api.get(name).await {
                Ok(fresh) if fresh.metadata.uid == look.object.metadata.uid => {
                    api.replace_status(name, &params, &with_status(fresh)).await
                }
                Ok(_) => return Ok(()),
                Err(error) => Err(error),
            };
        }
        match result {
            Ok(_) => Ok(()),
            Err(error) if is_status(&error, 404) => Ok(()),
            Err(error) => {
                self.recorder.warning(look.object, "FailedUpdateStatus", brief(&error));
                Err(error).with_context(|| format!("update the status of {}", look.key))
            }
        }
    }
}
