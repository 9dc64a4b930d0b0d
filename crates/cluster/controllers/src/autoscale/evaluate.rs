//! What each metric of an autoscaler asks for (`computeReplicasForMetric`), with upstream's reasons and messages.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricIdentifier, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
    PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use kinit_apimachinery::quantity::Quantity;
use kinit_component_helpers::pod::{is_ready, phase};

use super::decide::pods::{Patience, Samples, group, requests};
use super::decide::replicas::{Proposal, Target, Tolerances, of_pods, of_shared, of_value};
use super::metrics::{Metrics, query};
use super::scale::Scales;
use crate::autoscale::selectors::described;

/// What is known when an autoscaler is looked at.
pub struct Evaluator<'a> {
    pub metrics: &'a Metrics,
    pub scales: &'a Scales,
    pub namespace: &'a str,
    /// The target's pods, as a query and as objects.
    pub selector: &'a str,
    pub pods: &'a [&'a Pod],
    pub patience: Patience,
    pub tolerances: Tolerances,
    /// Replicas by the scale's spec and by its status.
    pub wanted: i32,
    pub current: i32,
    pub now: Timestamp,
}

/// A metric that could be evaluated.
#[derive(Debug)]
pub struct Evaluated {
    /// Wanted replicas.
    pub replicas: i32,
    /// The metric, as messages name it.
    pub name: String,
    /// What it is now.
    pub status: MetricStatus,
}

/// One that could not.
#[derive(Debug)]
pub struct Failed {
    /// Reason of event and condition.
    pub reason: &'static str,
    /// What happened, for both.
    pub cause: String,
    /// The same within the reconciliation's error.
    pub error: String,
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

impl Evaluator<'_> {
    /// Evaluates one.
    pub async fn metric(&self, spec: &MetricSpec) -> Result<Evaluated, Failed> {
        let (reason, result) = match spec.type_.as_str() {
            "Resource" => ("FailedGetResourceMetric", self.resource(spec).await),
            "ContainerResource" => ("FailedGetContainerResourceMetric", self.container(spec).await),
            "Pods" => ("FailedGetPodsMetric", self.pods_metric(spec.pods.as_ref()).await),
            "Object" => ("FailedGetObjectMetric", self.object(spec.object.as_ref()).await),
            "External" => ("FailedGetExternalMetric", self.external(spec.external.as_ref()).await),
            other => ("InvalidMetricSourceType", Err(format!("unknown metric source type \"{other}\""))),
        };
        result.map_err(|cause| Failed { reason, error: within(spec, &cause), cause })
    }

    async fn resource(&self, spec: &MetricSpec) -> Result<Evaluated, String> {
        let source = spec.resource.as_ref().ok_or("the metric has no resource")?;
        let (replicas, name, current) = self.of_resource(&source.name, "", &source.target).await?;
        let status = ResourceMetricStatus { name: source.name.clone(), current };
        let status = MetricStatus { type_: spec.type_.clone(), resource: Some(status), ..Default::default() };
        Ok(Evaluated { replicas, name, status })
    }

    async fn container(&self, spec: &MetricSpec) -> Result<Evaluated, String> {
        let source = spec.container_resource.as_ref().ok_or("the metric has no containerResource")?;
        let (replicas, name, current) = self.of_resource(&source.name, &source.container, &source.target).await?;
        let (container, resource) = (source.container.clone(), source.name.clone());
        let status = ContainerResourceMetricStatus { container, name: resource, current };
        let status = MetricStatus { type_: spec.type_.clone(), container_resource: Some(status), ..Default::default() };
        Ok(Evaluated { replicas, name, status })
    }

    async fn of_resource(
        &self,
        resource: &str,
        container: &str,
        target: &MetricTarget,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let samples = async || {
            let samples = self.metrics.resource(self.namespace, self.selector, resource, container).await;
            samples.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))
        };
        let is_cpu = resource == "cpu";
        if let Some(average) = amount(target.average_value.as_ref()) {
            let proposal = async { self.of_pods(&Target::Average(average), samples().await?, is_cpu) }.await;
            let proposal = proposal.map_err(|why| format!("failed to get {resource} usage: {why}"))?;
            return Ok((proposal.replicas, format!("{resource} resource"), average_of(&proposal)));
        }
        let percent = target.average_utilization.ok_or(
            "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set",
        )?;
        let proposal = async {
            let samples = samples().await?;
            self.some_pods()?;
            let requests = requests(self.pods, container, resource)?;
            self.of_pods(&Target::Utilization(percent, requests), samples, is_cpu)
        };
        let proposal = proposal.await.map_err(|why| format!("failed to get {resource} utilization: {why}"))?;
        let status = MetricValueStatus { average_utilization: proposal.utilization, ..average_of(&proposal) };
        Ok((proposal.replicas, format!("{resource} resource utilization (percentage of request)"), status))
    }

    fn some_pods(&self) -> Result<(), String> {
        if self.pods.is_empty() { Err(NO_PODS.to_owned()) } else { Ok(()) }
    }

    fn of_pods(&self, target: &Target, samples: Samples, is_cpu: bool) -> Result<Proposal, String> {
        self.some_pods()?;
        let groups = group(self.pods, &samples, is_cpu, self.patience, self.now);
        of_pods(self.wanted, target, self.tolerances, samples, &groups)
    }

    async fn pods_metric(&self, source: Option<&PodsMetricSource>) -> Result<Evaluated, String> {
        let PodsMetricSource { metric, target } = source.ok_or("the metric has no pods")?;
        let selector = query(metric.selector.as_ref())?;
        let average = amount(target.average_value.as_ref()).ok_or("the metric has no averageValue")?;
        let samples = self.metrics.of_pods(self.namespace, self.selector, &metric.name, &selector).await;
        let samples = samples.map_err(|why| format!("unable to get metric {}: {why}", metric.name))?;
        let proposal = self.of_pods(&Target::Average(average), samples, false)?;
        let status = PodsMetricStatus { metric: metric.clone(), current: average_of(&proposal) };
        let status = MetricStatus { type_: "Pods".to_owned(), pods: Some(status), ..Default::default() };
        Ok(Evaluated { replicas: proposal.replicas, name: format!("pods metric {}", metric.name), status })
    }

    async fn object(&self, source: Option<&ObjectMetricSource>) -> Result<Evaluated, String> {
        let ObjectMetricSource { described_object: object, metric, target } =
            source.ok_or("the metric has no object")?;
        let selector = query(metric.selector.as_ref())?;
        let (group, kind) = (group_of(object.api_version.as_deref())?, object.kind.as_str());
        let value = async {
            // A namespace is its own, whatever the reference says.
            let resource = match (group, kind) {
                ("", "Namespace") => String::new(),
                _ => {
                    let found = self.scales.mappings(group, kind).await?.into_iter().next();
                    let found = found.ok_or("unrecognized resource")?;
                    found.qualified().trim_end_matches('.').to_owned()
                }
            };
            self.metrics.of_object(self.namespace, &resource, &object.name, &metric.name, &selector).await
        };
        let value = value.await.map_err(|why| {
            format!("unable to get metric {}: {kind} on {} {}/{why}", metric.name, self.namespace, object.name)
        });
        let (proposal, name, current) = match target.type_.as_str() {
            "Value" => {
                let target = amount(target.value.as_ref()).ok_or("the metric has no value")?;
                let proposal = self.of_value(value?, target)?;
                (proposal, format!("{kind} metric {}", metric.name), value_of(&proposal))
            }
            "AverageValue" => {
                let target = amount(target.average_value.as_ref()).ok_or("the metric has no averageValue")?;
                let value = value.map_err(|why| format!("failed to get {} object metric: {why}", metric.name))?;
                let proposal = of_shared(self.current, value, target, self.tolerances);
                (proposal, named("external", metric), average_of(&proposal))
            }
            _ => {
                return Err("invalid object metric source: neither a value target nor an average value target was set"
                    .to_owned());
            }
        };
        let status = ObjectMetricStatus { described_object: object.clone(), metric: metric.clone(), current };
        let status = MetricStatus { type_: "Object".to_owned(), object: Some(status), ..Default::default() };
        Ok(Evaluated { replicas: proposal.replicas, name, status })
    }

    async fn external(&self, source: Option<&ExternalMetricSource>) -> Result<Evaluated, String> {
        let ExternalMetricSource { metric, target } = source.ok_or("the metric has no external")?;
        let selector = query(metric.selector.as_ref())?;
        let (average, whole) = (amount(target.average_value.as_ref()), amount(target.value.as_ref()));
        if average.is_none() && whole.is_none() {
            return Err(
                "invalid external metric source: neither a value target nor an average value target was set".to_owned()
            );
        }
        let values = self.metrics.external(self.namespace, &metric.name, &selector).await.map_err(|why| {
            let labels = described(metric.selector.as_ref());
            format!("unable to get external metric {}/{}/{labels}: {why}", self.namespace, metric.name)
        })?;
        let value = values.iter().fold(0i64, |sum, v| sum.saturating_add(*v));
        let (proposal, current) = match (average, whole) {
            (Some(target), _) => {
                let proposal = of_shared(self.current, value, target, self.tolerances);
                (proposal, average_of(&proposal))
            }
            (None, target) => {
                let proposal = self.of_value(value, target.unwrap_or(0))?;
                (proposal, value_of(&proposal))
            }
        };
        let status = ExternalMetricStatus { metric: metric.clone(), current };
        let status = MetricStatus { type_: "External".to_owned(), external: Some(status), ..Default::default() };
        Ok(Evaluated { replicas: proposal.replicas, name: named("external", metric), status })
    }

    fn of_value(&self, value: i64, target: i64) -> Result<Proposal, String> {
        let ready = self.pods.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod)).count();
        let proposal = of_value(self.wanted, value, target, self.tolerances, ready);
        if self.pods.is_empty() && self.wanted != 0 && proposal.replicas != self.wanted {
            return Err(format!("unable to calculate ready pods: {NO_PODS}"));
        }
        Ok(proposal)
    }
}

/// The error as it stands in that of the whole.
fn within(spec: &MetricSpec, cause: &str) -> String {
    let name = |name: Option<&String>| name.cloned().unwrap_or_default();
    match spec.type_.as_str() {
        "Resource" => {
            format!("failed to get {} resource metric value: {cause}", name(spec.resource.as_ref().map(|r| &r.name)))
        }
        "ContainerResource" => {
            format!(
                "failed to get {} container metric value: {cause}",
                name(spec.container_resource.as_ref().map(|r| &r.name))
            )
        }
        "External" => {
            format!(
                "failed to get {} external metric value: {cause}",
                name(spec.external.as_ref().map(|e| &e.metric.name))
            )
        }
        "Object" => format!("failed to get object metric value: {cause}"),
        "Pods" => format!("failed to get pods metric value: {cause}"),
        _ => cause.to_owned(),
    }
}

fn named(what: &str, metric: &MetricIdentifier) -> String {
    format!("{what} metric {}({})", metric.name, described(metric.selector.as_ref()))
}

/// The group of an apiVersion (`schema.ParseGroupVersion`).
pub fn group_of(api_version: Option<&str>) -> Result<&str, String> {
    let text = api_version.unwrap_or("");
    match text.split_once('/') {
        None => Ok(""),
        Some((group, version)) if !version.contains('/') => Ok(group),
        Some(_) => Err(format!("unexpected GroupVersion string: {text}")),
    }
}

fn amount(value: Option<&Amount>) -> Option<i64> {
    Some(value?.0.parse::<Quantity>().ok()?.milli())
}

fn quantity(milli: i64) -> Option<Amount> {
    Some(Amount(Quantity::from_milli(milli).to_string()))
}

fn average_of(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus { average_value: quantity(proposal.value), ..Default::default() }
}

fn value_of(proposal: &Proposal) -> MetricValueStatus {
    MetricValueStatus { value: quantity(proposal.value), ..Default::default() }
}
