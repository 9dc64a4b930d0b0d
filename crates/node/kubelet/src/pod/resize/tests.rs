use super::*;
use crate::pod::step::{Intent, step};
use std::time::Duration;

fn pod(resources: serde_json::Value, policy: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "OnFailure",
        "containers": [{"name": "a", "resources": resources, "resizePolicy": policy}]}}))
    .unwrap()
}

fn status(life: Life, kernel: Kernel) -> Container {
    Container {
        id: "id".into(),
        sandbox: "s".into(),
        name: "a".into(),
        attempt: 0,
        life,
        created_at: 1,
        started_at: 1,
        finished_at: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        kernel: Some(kernel),
        hash: String::new(),
        log_path: String::new(),
        log_is_last_word: false,
    }
}

fn seen(life: Life, kernel: Kernel) -> Observed {
    let sandbox = crate::pod::observe::Sandbox { id: "s".into(), attempt: 0, ready: true, created_at: 1, ips: vec![] };
    Observed { sandboxes: vec![sandbox], containers: vec![status(life, kernel)] }
}

fn memory(limits: PodLimits) -> Memory {
    Memory { volumes_ready: true, limits: Some(limits), ..Memory::new(Duration::from_secs(300)) }
}

#[test]
fn limits_follow_the_allocation() {
    let small = serde_json::json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m", "memory": "64Mi"}});
    let large = serde_json::json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "400m", "memory": "128Mi"}});
    let cpu_only = serde_json::json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "400m", "memory": "64Mi"}});
    let none = serde_json::json!([]);
    let restart = serde_json::json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let now = Timestamp::from_second(1000).unwrap();
    for (from, to, policy, expected) in [
        (&small, &small, &none, ""),
        (&small, &large, &none, "resize lowers=false settle=true"),
        (&large, &small, &none, "resize lowers=true settle=true"),
        // The pod gets room first; the container is ended and made anew with its new limits.
        (&small, &large, &restart, "resize settle=false, kill renew=true"),
        (&small, &cpu_only, &restart, "resize lowers=false settle=true"),
        // Not while the old container, which has more, is there.
        (&large, &small, &restart, "kill renew=true"),
    ] {
        let before = pod(from.clone(), policy.clone());
        let after = pod(to.clone(), policy.clone());
        let has = Kernel::wanted(&before.spec.as_ref().unwrap().containers[0]);
        let memory = memory(resources::pod(&before));
        let out = step(&after, &seen(Life::Running, has), &memory, &Intent::Run, now);
        let words: Vec<String> = out
            .actions
            .iter()
            .map(|a| match a {
                Action::Resize(r) => {
                    let lowers: String = r.changes.iter().map(|c| format!("lowers={} ", c.lowers_memory)).collect();
                    format!("resize {lowers}settle={}", r.settle.is_some())
                }
                Action::Kill { renew, .. } => format!("kill renew={renew}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(words.join(", "), expected, "{from} -> {to} {policy}");
    }
}

#[test]
fn what_was_ended_for_a_resize_starts_again_whatever_its_policy_says() {
    let p = pod(serde_json::json!({}), serde_json::json!([]));
    let kernel = Kernel::wanted(&p.spec.as_ref().unwrap().containers[0]);
    let (seen, now) = (seen(Life::Exited, kernel), Timestamp::from_second(1000).unwrap());
    let mut memory = memory(resources::pod(&p));
    let starts = |m: &Memory| {
        let out = step(&p, &seen, m, &Intent::Run, now);
        out.actions.iter().any(|a| matches!(a, Action::Start { attempt: 1, .. }))
    };
    assert!(!starts(&memory), "OnFailure and exit code 0");
    memory.renewed.insert("id".into());
    assert!(starts(&memory));
}

#[test]
fn a_runtime_that_shows_no_change_is_not_asked_for_ever() {
    let p = pod(serde_json::json!({"limits": {"cpu": "1"}}), serde_json::json!([]));
    let to = Kernel::wanted(&p.spec.as_ref().unwrap().containers[0]);
    let has = Kernel { shares: 2, quota: None, memory: None };
    let mut memory = memory(resources::pod(&p));
    assert!(in_progress(&p, &seen(Life::Running, has), &memory));
    memory.given.insert("id".into(), to);
    assert!(!in_progress(&p, &seen(Life::Running, has), &memory));
}

#[test]
fn the_status_shows_what_is_enforced() {
    let p = pod(
        serde_json::json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1Gi"}}),
        serde_json::json!([]),
    );
    let container = &p.spec.as_ref().unwrap().containers[0];
    let shown = shown(container, Some(Kernel { shares: 512, quota: Some(150_000), memory: Some(1 << 20) }));
    let text = |l: Option<&BTreeMap<String, _>>| serde_json::to_value(l).unwrap().to_string();
    assert_eq!(text(shown.limits.as_ref()), r#"{"cpu":"1500m","memory":"1048576"}"#);
    assert_eq!(text(shown.requests.as_ref()), r#"{"cpu":"500m"}"#);
    assert_eq!(super::shown(container, Some(Kernel::wanted(container))), container.resources.clone().unwrap());
}

#[test]
fn allocations_are_put_in_the_place_of_what_is_asked_for() {
    let asked = pod(serde_json::json!({"limits": {"cpu": "2"}}), serde_json::json!([]));
    let granted = pod(serde_json::json!({"limits": {"cpu": "1"}}), serde_json::json!([]));
    assert_eq!(of(&with(&asked, &of(&granted))), of(&granted));
}
