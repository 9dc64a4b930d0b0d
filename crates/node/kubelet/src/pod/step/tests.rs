use super::*;
use crate::pod::memory::Verdict;
use crate::pod::observe::Sandbox;

const T: i64 = 1_700_000_000;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn container(name: &str, life: Life, exit_code: i32) -> Container {
    Container {
        id: format!("{name}-id"),
        sandbox: "s".into(),
        name: name.into(),
        attempt: 0,
        life,
        created_at: T,
        started_at: T * 1_000_000_000,
        finished_at: if life == Life::Exited { T * 1_000_000_000 } else { 0 },
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        kernel: None,
        hash: String::new(),
        log_path: String::new(),
        log_is_last_word: false,
    }
}

fn seen(ready: bool, containers: Vec<Container>) -> Observed {
    let sandbox = Sandbox { id: "s".into(), attempt: 0, ready, created_at: 1, ips: vec![] };
    Observed { sandboxes: vec![sandbox], containers }
}

fn memory() -> Memory {
    Memory { volumes_ready: true, ..Memory::new(std::time::Duration::from_secs(300)) }
}

fn words(step: &Step) -> Vec<String> {
    step.actions
        .iter()
        .map(|a| match a {
            Action::MountVolumes => "mount".into(),
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::StopSandbox { id } => format!("stop {id}"),
            Action::Start { container, attempt } => format!("start {container} {attempt}"),
            Action::Resize(resize) => format!("resize {}", resize.changes.len()),
            Action::Kill { container, grace, .. } => format!("kill {container} {grace}"),
        })
        .collect()
}

#[test]
fn a_pod_comes_up_in_order() {
    let p = pod(
        serde_json::json!({"initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "a"}, {"name": "b"}]}),
    );
    let now = Timestamp::from_second(T + 1).unwrap();
    let mut m = memory();
    m.volumes_ready = false;
    let go = |seen: &Observed, m: &Memory| words(&step(&p, seen, m, &Intent::Run, now));
    assert_eq!(go(&Observed::default(), &m), ["mount"]);
    m.volumes_ready = true;
    assert_eq!(go(&Observed::default(), &m), ["sandbox 0"]);
    assert_eq!(go(&seen(true, vec![]), &m), ["start i 0"]);
    let i_run = container("i", Life::Running, 0);
    assert!(go(&seen(true, vec![i_run]), &m).is_empty());
    let i = container("i", Life::Exited, 0);
    assert_eq!(go(&seen(true, vec![i.clone()]), &m), ["start side 0"]);
    let side = container("side", Life::Running, 0);
    assert!(
        go(&seen(true, vec![side.clone(), i.clone()]), &m).is_empty(),
        "the sidecar has not passed its startup probe"
    );
    m.started.insert("side-id".into());
    assert_eq!(go(&seen(true, vec![side.clone(), i.clone()]), &m), ["start a 0"]);
    let a = container("a", Life::Running, 0);
    assert_eq!(go(&seen(true, vec![a, side, i]), &m), ["start b 0"]);
    assert_eq!(go(&seen(false, vec![]), &m), ["sandbox 1"]);
}

#[test]
fn restarts_follow_the_policy_and_the_pause() {
    let now = Timestamp::from_second(T + 1).unwrap();
    for (policy, code, expected, finished) in [
        ("Always", 0, vec!["start a 1"], false),
        ("OnFailure", 1, vec!["start a 1"], false),
        ("OnFailure", 0, vec!["stop s"], false),
        ("Never", 1, vec!["stop s"], false),
    ] {
        let p = pod(serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let s = step(&p, &seen(true, vec![container("a", Life::Exited, code)]), &memory(), &Intent::Run, now);
        assert_eq!(
            (words(&s), s.finished),
            (expected.iter().map(ToString::to_string).collect(), finished),
            "{policy} {code}"
        );
    }
    let p = pod(serde_json::json!({"containers": [{"name": "a"}]}));
    let mut m = memory();
    m.backoff.next("a", now);
    let s = step(&p, &seen(true, vec![container("a", Life::Exited, 1)]), &m, &Intent::Run, now);
    assert_eq!((s.actions.len(), s.waiting["a"].0.as_str()), (0, "CrashLoopBackOff"));
    assert_eq!(s.wake, Some(Timestamp::from_second(T + 10).unwrap()));
}

#[test]
fn termination_kills_sidecars_last_and_ends_with_the_sandbox() {
    let p = pod(
        serde_json::json!({"initContainers": [{"name": "side", "restartPolicy": "Always"}], "containers": [{"name": "a"}]}),
    );
    let now = Timestamp::from_second(T + 1).unwrap();
    let end = Intent::Terminate { grace: 5 };
    let (a, side) = (container("a", Life::Running, 0), container("side", Life::Running, 0));
    let mut m = memory();
    assert_eq!(words(&step(&p, &seen(true, vec![a.clone(), side.clone()]), &m, &end, now)), ["kill a 5"]);
    m.killing.insert("a-id".into(), 5);
    assert!(step(&p, &seen(true, vec![a.clone(), side.clone()]), &m, &end, now).actions.is_empty());
    assert_eq!(
        words(&step(&p, &seen(true, vec![a, side.clone()]), &m, &Intent::Terminate { grace: 0 }, now)),
        ["kill a 0"],
        "a shorter grace is passed on"
    );
    m.killing.clear();
    let gone = container("a", Life::Exited, 0);
    assert_eq!(words(&step(&p, &seen(true, vec![gone.clone(), side]), &m, &end, now)), ["kill side 5"]);
    let all = vec![gone, container("side", Life::Exited, 0)];
    assert_eq!(words(&step(&p, &seen(true, all.clone()), &m, &end, now)), ["stop s"]);
    assert!(step(&p, &seen(false, all), &m, &end, now).finished);
}

#[test]
fn a_condemned_container_is_killed_once() {
    let p = pod(serde_json::json!({"terminationGracePeriodSeconds": 7, "containers": [{"name": "a"}]}));
    let mut m = memory();
    m.condemned.insert("a-id".into(), Verdict { message: "x".into(), grace: None });
    let running = seen(true, vec![container("a", Life::Running, 0)]);
    let now = Timestamp::from_second(T).unwrap();
    assert_eq!(words(&step(&p, &running, &m, &Intent::Run, now)), ["kill a 7"]);
    m.killing.insert("a-id".into(), 7);
    assert!(step(&p, &running, &m, &Intent::Run, now).actions.is_empty());
}
