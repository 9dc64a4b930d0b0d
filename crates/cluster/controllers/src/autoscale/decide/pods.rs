//! Which of a target's pods count (`groupPods`), and what they request (`calculateRequests`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use kinit_apimachinery::quantity::Quantity;
use kinit_component_helpers::pod::{condition, phase};
use kube::ResourceExt;

/// What one pod uses, in thousandths of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When this was measured.
    pub time: Timestamp,
    /// Over which time.
    pub window: Duration,
    /// The value.
    pub milli: i64,
}

/// Samples by the pod's name.
pub type Samples = BTreeMap<String, Sample>;

/// How long a pod's CPU is not believed.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// `--horizontal-pod-autoscaler-cpu-initialization-period`.
    pub initialization: Duration,
    /// `--horizontal-pod-autoscaler-initial-readiness-delay`.
    pub readiness: Duration,
}

/// The pods, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// How many count.
    pub ready: usize,
    /// Those whose samples do not count yet.
    pub unready: BTreeSet<String>,
    /// Those without a sample.
    pub missing: BTreeSet<String>,
    /// Those that are ending.
    pub ignored: BTreeSet<String>,
}

/// Sorts pods; CPU is believed only of pods that are past their start.
pub fn group(pods: &[&Pod], samples: &Samples, is_cpu: bool, patience: Patience, now: Timestamp) -> Groups {
    let mut out = Groups::default();
    for pod in pods {
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
            out.ignored.insert(name);
        } else if phase(pod) == "Pending" {
            out.unready.insert(name);
        } else if let Some(sample) = samples.get(&name) {
            if is_cpu && is_starting(pod, sample, patience, now) {
                out.unready.insert(name);
            } else {
                out.ready += 1;
            }
        } else {
            out.missing.insert(name);
        }
    }
    out
}

fn is_starting(pod: &Pod, sample: &Sample, patience: Patience, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(ready), Some(started)) = (condition(pod, "Ready"), started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0);
    let is_unready = ready.status == "False";
    if later(started, patience.initialization) > now {
        // A whole window since it became ready has to be measured.
        return is_unready || sample.time < later(changed, sample.window);
    }
    // It never was ready.
    is_unready && later(started, patience.readiness) > changed
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// What pods request of a resource, in thousandths, by name; of one container or, with "", of the whole pod. The error
/// is upstream's.
pub fn requests(pods: &[&Pod], container: &str, resource: &str) -> Result<BTreeMap<String, i64>, String> {
    let of = |pod: &&Pod| Ok((pod.name_any(), requested(pod, container, resource)?));
    pods.iter().map(of).collect()
}

fn requested(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    let amount = |list: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        list?.get(resource)?.0.parse::<Quantity>().ok()
    };
    if container.is_empty()
        && let Some(whole) = amount(spec.resources.as_ref().and_then(|r| r.requests.as_ref()))
        && whole.milli() > 0
    {
        return Ok(whole.milli());
    }
    // Init containers that are always restarted run beside the others.
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = spec.containers.iter().chain(sidecars);
    let wanted = all.filter(|c: &&Container| container.is_empty() || c.name == container);
    let mut sum = 0i64;
    for c in wanted {
        let Some(request) = amount(c.resources.as_ref().and_then(|r| r.requests.as_ref())) else {
            return Err(format!("missing request for {resource} in container {} of Pod {}", c.name, pod.name_any()));
        };
        sum = sum.saturating_add(request.milli());
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOW + seconds).unwrap()
    }

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    /// A running pod that started and whose readiness changed so many seconds ago.
    fn running(started: i64, ready: &str, changed: i64) -> Pod {
        pod(json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "startTime": at(-started).to_string(),
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at(-changed).to_string()}]}}))
    }

    /// What becomes of a pod with a sample that is a second old, of a window of 60 s.
    fn reported(pod: &Pod, is_cpu: bool, sampled: bool) -> &'static str {
        let sample = Sample { time: at(-1), window: Duration::from_secs(60), milli: 1 };
        let samples: Samples = sampled.then(|| ("p".to_owned(), sample)).into_iter().collect();
        let s = Duration::from_secs;
        let groups = group(&[pod], &samples, is_cpu, Patience { initialization: s(300), readiness: s(30) }, at(0));
        match (groups.ready, groups.unready.len(), groups.missing.len(), groups.ignored.len()) {
            (1, 0, 0, 0) => "ready",
            (0, 1, 0, 0) => "unready",
            (0, 0, 1, 0) => "missing",
            (0, 0, 0, 1) => "ignored",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn which_pods_count() {
        let bare = |phase: &str| pod(json!({"metadata": {"name": "p"}, "status": {"phase": phase}}));
        let ending = pod(json!({"metadata": {"name": "p", "deletionTimestamp": at(0).to_string()}}));
        for (pod, is_cpu, sampled, expected) in [
            (bare("Failed"), true, true, "ignored"),
            (ending, false, true, "ignored"),
            (bare("Pending"), false, true, "unready"),
            (bare("Running"), false, false, "missing"),
            (bare("Running"), false, true, "ready"),
            (bare("Running"), true, true, "unready"),
            // Within the initialization period.
            (running(100, "True", 90), true, true, "ready"),
            (running(100, "True", 50), true, true, "unready"),
            (running(100, "False", 90), true, true, "unready"),
            (running(100, "False", 90), false, true, "ready"),
            // Past it.
            (running(1000, "True", 5), true, true, "ready"),
            (running(1000, "False", 990), true, true, "unready"),
            (running(1000, "False", 500), true, true, "ready"),
        ] {
            assert_eq!(reported(&pod, is_cpu, sampled), expected, "{:?} cpu {is_cpu} {sampled}", pod.status);
        }
    }

    #[test]
    fn what_is_requested() {
        let container = |name: &str, cpu: Value| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("s", "1".into());
        sidecar["restartPolicy"] = "Always".into();
        let spec = json!({"containers": [container("a", "100m".into()), container("b", "0.2".into())],
            "initContainers": [container("i", "9".into()), sidecar]});
        let mut whole = json!({"metadata": {"name": "p"}, "spec": spec});
        let of = |value: &Value, c: &str| requests(&[&pod(value.clone())], c, "cpu").map(|r| r["p"]);
        assert_eq!((of(&whole, ""), of(&whole, "b"), of(&whole, "s")), (Ok(1300), Ok(200), Ok(1000)));
        assert_eq!(
            requests(&[&pod(whole.clone())], "", "memory").unwrap_err(),
            "missing request for memory in container a of Pod p"
        );
        whole["spec"]["resources"] = json!({"requests": {"cpu": "3"}});
        assert_eq!((of(&whole, ""), of(&whole, "a")), (Ok(3000), Ok(100)));
    }
}
