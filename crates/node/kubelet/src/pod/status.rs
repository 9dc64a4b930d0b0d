//! The status a pod gets: a pure function of the pod, what runs, and what this process knows
//! (`kubelet_pods.go: generateAPIPodStatus`, `pkg/kubelet/status/generate.go`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container as Spec, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kinit_component_helpers::pod::is_over;
use kinit_component_helpers::qos;

use super::observe::{Container, Life, Observed, time};
use super::policy::{is_sidecar, restarts};

/// What the status is made from, beside the pod and what runs.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// Why containers wait.
    pub waiting: BTreeMap<String, (String, String)>,
    /// Ids of containers that passed their startup probe.
    pub started: BTreeSet<String>,
    /// Ids of containers whose readiness probe says yes (or that have none).
    pub ready: BTreeSet<String>,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// The pod is over: nothing runs or will.
    pub over: bool,
    /// Reason and message of a pod that was ended or refused by the kubelet; makes its phase Failed.
    pub verdict: Option<(String, String)>,
    /// Why a resize is not granted.
    pub pending_resize: Option<(String, String)>,
    /// Limits are being changed; inside, what is in the way.
    pub resizing: Option<Option<String>>,
    /// The node ends the pod: the message of `DisruptionTarget`.
    pub disruption: Option<String>,
    /// Ids of containers that were ended to be made anew.
    pub renewed: BTreeSet<String>,
    /// The status known so far.
    pub old: Option<&'a PodStatus>,
}

/// Conditions that are the kubelet's own.
pub const CONDITIONS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    RESIZE_PENDING,
    RESIZE_IN_PROGRESS,
];
/// A resize that is not granted.
pub const RESIZE_PENDING: &str = "PodResizePending";
/// A resize that is granted and not through.
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// Computes it.
pub fn status(pod: &Pod, seen: &Observed, facts: &Facts<'_>, now: Timestamp) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let inits = spec.init_containers.clone().unwrap_or_default();
    let initialized_once = spec.containers.iter().any(|c| seen.latest(&c.name).is_some());
    let default_wait = if inits.is_empty() || initialized_once { "ContainerCreating" } else { "PodInitializing" };
    let each = |list: &[Spec], wait: &str, init: bool| -> Vec<ContainerStatus> {
        list.iter().map(|c| container_status(c, seen, facts, wait, init)).collect()
    };
    let init_statuses = each(&inits, "PodInitializing", true);
    let statuses = each(&spec.containers, default_wait, false);
    let ephemeral_statuses = each(&super::ephemeral::of(pod), default_wait, false);
    let host_network = spec.host_network == Some(true);
    let old_ips = || facts.old.and_then(|o| o.pod_ips.clone()).unwrap_or_default();
    let ips: Vec<PodIP> = match seen.sandbox() {
        Some(_) if host_network => facts.host_ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect(),
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect(),
        _ => old_ips(),
    };
    let computed = phase(pod, seen, facts);
    // A pod that ended stays as it ended.
    let phase = match facts.old.and_then(|o| o.phase.as_deref()) {
        Some(end @ ("Succeeded" | "Failed")) => end,
        _ => computed,
    };
    let (reason, message) = facts.verdict.clone().map_or_else(
        || facts.old.filter(|_| phase == "Failed").map_or((None, None), |o| (o.reason.clone(), o.message.clone())),
        |(r, m)| (Some(r), Some(m)),
    );
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect())
            .filter(|l: &Vec<_>| !l.is_empty()),
        pod_ip: ips.first().map(|p| p.ip.clone()),
        pod_ips: Some(ips).filter(|l| !l.is_empty()),
        start_time: facts.old.and_then(|o| o.start_time.clone()).or(Some(Time(now))),
        resources: spec.resources.clone(),
        allocated_resources: spec.resources.as_ref().and_then(|r| r.requests.clone()),
        qos_class: Some(qos::of_pod(pod).name().to_owned()),
        container_statuses: Some(statuses),
        ephemeral_container_statuses: Some(ephemeral_statuses).filter(|l| !l.is_empty()),
        init_container_statuses: Some(init_statuses).filter(|l| !l.is_empty()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    };
    status.conditions = Some(conditions(pod, seen, &status, facts, now));
    status
}

fn phase(pod: &Pod, seen: &Observed, facts: &Facts<'_>) -> &'static str {
    if facts.verdict.is_some() {
        return "Failed";
    }
    let Some(spec) = &pod.spec else { return "Pending" };
    let inits = spec.init_containers.iter().flatten();
    let (mut pending_init, mut failed_init) = (false, false);
    for init in inits {
        match seen.latest(&init.name) {
            _ if is_sidecar(init) => {
                pending_init |=
                    seen.latest(&init.name).is_none_or(|s| !facts.started.contains(&s.id) && s.life != Life::Exited)
            }
            Some(s) if s.life == Life::Exited && s.exit_code == 0 => {}
            Some(s) if s.life == Life::Exited => {
                failed_init |= !restarts(pod, init, s.exit_code);
                pending_init = true;
            }
            _ => pending_init = true,
        }
    }
    let (mut running, mut waiting, mut stopped, mut failed) = (0, 0, 0, 0);
    for container in &spec.containers {
        match seen.latest(&container.name) {
            Some(s) if matches!(s.life, Life::Running | Life::Unknown) => running += 1,
            Some(s) if s.life == Life::Exited => {
                if !facts.over && (facts.renewed.contains(&s.id) || restarts(pod, container, s.exit_code)) {
                    // It ran and runs again.
                    running += 1;
                } else {
                    stopped += 1;
                    failed += usize::from(s.exit_code != 0);
                }
            }
            _ => waiting += 1,
        }
    }
    if failed_init && running == 0 {
        return "Failed";
    }
    if facts.over {
        // What never ran counts as failed: upstream reports it as ContainerStatusUnknown.
        return if waiting == 0 && failed == 0 && stopped > 0 { "Succeeded" } else { "Failed" };
    }
    let started_regular = spec.containers.iter().any(|c| seen.latest(&c.name).is_some());
    if pending_init && !started_regular {
        return "Pending";
    }
    match (waiting, running, stopped) {
        (w, _, _) if w > 0 => "Pending",
        (_, r, _) if r > 0 => "Running",
        (_, _, s) if s > 0 => {
            if failed == 0 {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        _ => "Pending",
    }
}

fn container_status(spec: &Spec, seen: &Observed, facts: &Facts<'_>, wait: &str, init: bool) -> ContainerStatus {
    let image = spec.image.clone().unwrap_or_default();
    let latest = seen.latest(&spec.name);
    let waiting = facts.waiting.get(&spec.name);
    let mut out = ContainerStatus { name: spec.name.clone(), image, ..ContainerStatus::default() };
    let Some(latest) = latest else {
        let (reason, message) = waiting.cloned().map_or((wait.to_owned(), None), |(r, m)| (r, Some(m)));
        out.state = Some(if facts.over { unknown_end() } else { waiting_state(reason, message) });
        out.started = Some(false);
        return out;
    };
    out.restart_count = i32::try_from(latest.attempt).unwrap_or(i32::MAX);
    out.container_id = Some(format!("containerd://{}", latest.id));
    out.image_id = latest.image_ref.clone();
    if !latest.image.is_empty() {
        out.image = latest.image.clone();
    }
    let kernel = latest.kernel.filter(|_| latest.life == Life::Running);
    out.resources = Some(super::resize::shown(spec, kernel));
    out.allocated_resources = spec.resources.as_ref().and_then(|r| r.requests.clone()).filter(|r| !r.is_empty());
    let previous = seen.previous(&spec.name).filter(|p| p.life == Life::Exited).map(ended);
    match latest.life {
        Life::Running => {
            let started_at = time(latest.started_at).map(Time);
            out.state =
                Some(ContainerState { running: Some(ContainerStateRunning { started_at }), ..Default::default() });
            out.started = Some(facts.started.contains(&latest.id));
            out.ready = out.started == Some(true) && facts.ready.contains(&latest.id);
            out.last_state = previous;
        }
        Life::Exited => {
            out.started = Some(false);
            match waiting {
                Some((reason, message)) if !facts.over => {
                    out.state = Some(waiting_state(reason.clone(), Some(message.clone())));
                    out.last_state = Some(ended(latest));
                }
                _ => {
                    out.state = Some(ended(latest));
                    out.last_state = previous;
                }
            }
            // A finished ordinary init container counts as ready.
            out.ready = init && latest.exit_code == 0 && !is_sidecar(spec);
        }
        Life::Created | Life::Unknown => {
            let (reason, message) = waiting.cloned().map_or((wait.to_owned(), None), |(r, m)| (r, Some(m)));
            out.state = Some(if facts.over { unknown_end() } else { waiting_state(reason, message) });
            out.started = Some(false);
            out.last_state = previous;
        }
    }
    out
}

fn waiting_state(reason: String, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason), message: message.filter(|m| !m.is_empty()) };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn unknown_end() -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..Default::default()
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn ended(container: &Container) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", container.id)),
        exit_code: container.exit_code,
        finished_at: time(container.finished_at).map(Time),
        message: Some(container.message.clone()).filter(|m| !m.is_empty()),
        reason: Some(if !container.reason.is_empty() {
            container.reason.clone()
        } else if container.exit_code == 0 {
            "Completed".to_owned()
        } else {
            "Error".to_owned()
        }),
        signal: None,
        started_at: time(container.started_at).map(Time),
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn conditions(pod: &Pod, seen: &Observed, status: &PodStatus, facts: &Facts<'_>, now: Timestamp) -> Vec<PodCondition> {
    let spec = pod.spec.clone().unwrap_or_default();
    let succeeded = status.phase.as_deref() == Some("Succeeded");
    let initialized = initialized(&spec, seen, succeeded, facts);
    let containers_ready = containers_ready(&spec, status);
    let gates = unmet_gates(pod, facts);
    let ready = if containers_ready.0 && !gates.is_empty() {
        (false, Some("ReadinessGatesNotReady".to_owned()), Some(gates))
    } else {
        containers_ready.clone()
    };
    let by_kubelet = || Some("TerminationByKubelet".to_owned());
    let resizes = [
        facts.disruption.clone().map(|message| ("DisruptionTarget", (true, by_kubelet(), Some(message)))),
        facts.pending_resize.clone().map(|(reason, message)| (RESIZE_PENDING, (true, Some(reason), Some(message)))),
        facts
            .resizing
            .clone()
            .map(|error| (RESIZE_IN_PROGRESS, (true, error.as_ref().map(|_| "Error".to_owned()), error))),
    ];
    let up = seen.sandbox().is_some_and(|s| spec.host_network == Some(true) || !s.ips.is_empty());
    [
        ("PodReadyToStartContainers", (up, None, None)),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", (true, None, None)),
    ]
    .into_iter()
    .chain(resizes.into_iter().flatten())
    .map(|(type_, (value, reason, message))| condition(type_, value, reason, message, pod, facts, now))
    .collect()
}

/// Whether a condition is true, its reason and its message.
type Finding = (bool, Option<String>, Option<String>);

/// `GeneratePodInitializedCondition`.
fn initialized(spec: &PodSpec, seen: &Observed, succeeded: bool, facts: &Facts<'_>) -> Finding {
    let incomplete: Vec<String> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| {
            let latest = seen.latest(&c.name);
            if is_sidecar(c) {
                latest.is_none_or(|s| !facts.started.contains(&s.id))
            } else {
                latest.is_none_or(|s| s.life != Life::Exited || s.exit_code != 0)
            }
        })
        .map(|c| c.name.clone())
        .collect();
    let has_run = spec.containers.iter().any(|c| seen.latest(&c.name).is_some());
    if incomplete.is_empty() || succeeded || has_run {
        (true, succeeded.then(|| "PodCompleted".to_owned()).filter(|_| spec.init_containers.is_some()), None)
    } else {
        (
            false,
            Some("ContainersNotInitialized".to_owned()),
            Some(format!("containers with incomplete status: [{}]", incomplete.join(" "))),
        )
    }
}

/// `GenerateContainersReadyCondition`.
fn containers_ready(spec: &PodSpec, status: &PodStatus) -> Finding {
    let ready_names = |list: Option<&Vec<ContainerStatus>>, only_sidecars: bool| -> Vec<String> {
        let sidecars: Vec<&str> =
            spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
        list.into_iter()
            .flatten()
            .filter(|c| !c.ready && (!only_sidecars || sidecars.contains(&c.name.as_str())))
            .map(|c| c.name.clone())
            .collect()
    };
    let mut unready = ready_names(status.init_container_statuses.as_ref(), true);
    unready.extend(ready_names(status.container_statuses.as_ref(), false));
    if is_over(Some(status)) {
        let reason = if status.phase.as_deref() == Some("Succeeded") { "PodCompleted" } else { "PodFailed" };
        (false, Some(reason.to_owned()), None)
    } else if unready.is_empty() {
        (true, None, None)
    } else {
        (
            false,
            Some("ContainersNotReady".to_owned()),
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        )
    }
}

fn condition(
    type_: &str,
    value: bool,
    reason: Option<String>,
    message: Option<String>,
    pod: &Pod,
    facts: &Facts<'_>,
    now: Timestamp,
) -> PodCondition {
    let text = if value { "True" } else { "False" };
    let old = facts.old.and_then(|o| o.conditions.as_ref()).and_then(|l| l.iter().find(|c| c.type_ == type_));
    let since = old.filter(|o| o.status == text).and_then(|o| o.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: text.to_owned(),
        reason,
        message,
        last_transition_time: since.or(Some(Time(now))),
        last_probe_time: None,
        observed_generation: pod.metadata.generation,
    }
}

fn unmet_gates(pod: &Pod, facts: &Facts<'_>) -> String {
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let conditions = facts.old.and_then(|o| o.conditions.as_ref());
    let unmet: Vec<String> = gates
        .filter_map(|gate| {
            let found = conditions.and_then(|l| l.iter().find(|c| c.type_ == gate.condition_type));
            match found {
                Some(c) if c.status == "True" => None,
                Some(_) => Some(format!(
                    "the status of pod readiness gate \"{}\" is not \"True\", but False",
                    gate.condition_type
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{}\" does not exist.",
                    gate.condition_type
                )),
            }
        })
        .collect();
    unmet.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::observe::Sandbox;

    fn container(name: &str, life: Life, exit_code: i32) -> Container {
        Container {
            id: name.into(),
            sandbox: "s".into(),
            name: name.into(),
            attempt: 2,
            life,
            created_at: 1,
            started_at: 1,
            finished_at: 1,
            exit_code,
            reason: String::new(),
            message: String::new(),
            image: "i".into(),
            image_ref: String::new(),
            kernel: None,
            hash: String::new(),
            log_path: String::new(),
            log_is_last_word: false,
        }
    }

    #[test]
    fn phases() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        for (policy, life, code, over, expected, ready) in [
            ("Always", Some(Life::Running), 0, false, "Running", true),
            ("Always", Some(Life::Exited), 1, false, "Running", false),
            ("OnFailure", Some(Life::Exited), 0, false, "Succeeded", false),
            ("Never", Some(Life::Exited), 3, false, "Failed", false),
            ("Always", Some(Life::Exited), 0, true, "Succeeded", false),
            ("Always", Some(Life::Exited), 137, true, "Failed", false),
            ("Always", None, 0, false, "Pending", false),
            ("Always", None, 0, true, "Failed", false),
        ] {
            let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "containers": [{"name": "a"}]}})).unwrap();
            let seen = Observed {
                sandboxes: vec![Sandbox {
                    id: "s".into(),
                    attempt: 0,
                    ready: true,
                    created_at: 1,
                    ips: vec!["10.0.0.2".into()],
                }],
                containers: life.into_iter().map(|l| container("a", l, code)).collect(),
            };
            let facts =
                Facts { started: ["a".to_owned()].into(), ready: ["a".to_owned()].into(), over, ..Facts::default() };
            let status = status(&pod, &seen, &facts, now);
            let is_ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            assert_eq!((status.phase.as_deref(), is_ready), (Some(expected), ready), "{policy} {life:?} {code} {over}");
        }
    }
}
