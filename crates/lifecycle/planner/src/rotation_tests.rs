use kinit_resource::RotationStage::{New, Old, Published, Signing};

use super::*;

fn cluster() -> Cluster {
    kinit_config::load(kinit_config::example()).unwrap()
}

fn shown(stage: RotationStage) -> String {
    format!("{stage:?}")
}

fn record() -> RotationRecord {
    record_of(false)
}

fn record_of(was_new: bool) -> RotationRecord {
    RotationRecord { id: "r".into(), stages: RotationStage::ALL.map(shown), signing_since: None, was_new }
}

fn host(stage: RotationStage, keeps: bool) -> RotationSeen {
    RotationSeen { current: Some(shown(stage)), whole: true, halves: 1, record: keeps.then(record) }
}

/// Three control planes at these stages, two workers and a balancer at the last one's.
fn seen(goal: RotationStage, stages: [(RotationStage, bool); 3]) -> Rotating {
    let hosts = ["cp1", "cp2", "cp3"].iter().zip(stages);
    let hosts = hosts.map(|(name, (stage, keeps))| ((*name).to_owned(), host(stage, keeps))).collect();
    let public = ["lb1", "w1", "w2"].map(|name| (name.to_owned(), Some(shown(stages[2].0)))).into();
    Rotating { shared: Shared::CLUSTER, goal, hosts, public, others: BTreeSet::new(), settled: None }
}

fn next(seen: &Rotating) -> Next {
    rotation(&cluster(), seen).unwrap()
}

/// Carries a plan out on what was seen.
fn carry_out(seen: &mut Rotating, plan: &Plan) {
    for step in plan.steps() {
        let name = step.host.clone().unwrap();
        match &step.action {
            Action::BeginRotation(_) | Action::ShareRotation { .. } => {
                seen.hosts.get_mut(&name).unwrap().record = Some(record());
            }
            Action::SetRotation { stage, .. } => {
                let own = seen.hosts.get_mut(&name).unwrap();
                assert!(own.record.is_some(), "{name} is told what it does not know");
                own.current = Some(shown(*stage));
                own.whole = true;
            }
            Action::Copy { from, .. } => drop(seen.public.insert(name, seen.hosts[from].current.clone())),
            Action::EndRotation(_) => seen.hosts.get_mut(&name).unwrap().record = None,
            other => panic!("{other:?}"),
        }
    }
}

/// Goes on until nothing is left to do; the stages in the order in which they were settled.
fn run(mut seen: Rotating) -> (Vec<RotationStage>, Rotating) {
    let mut settled = Vec::new();
    for _ in 0..20 {
        match next(&seen) {
            Next::Turn { plan, .. } => {
                assert!(plan.changes() > 0);
                seen.settled = None;
                carry_out(&mut seen, &plan);
            }
            Next::Settle(stage) => {
                settled.push(stage);
                seen.settled = Some(stage);
            }
            Next::Finish(plan) => {
                carry_out(&mut seen, &plan);
                return (settled, seen);
            }
            Next::Done(_) => return (settled, seen),
        }
    }
    panic!("it does not end: {seen:?}")
}

#[test]
fn every_stage_is_settled_before_the_next() {
    let (settled, end) = run(seen(New, [(Old, false); 3]));
    assert_eq!(settled, [Old, Published, Signing, New]);
    assert!(end.hosts.values().all(|own| *own == host(New, false)), "{end:?}");
    assert!(end.public.values().all(|own| own.as_deref() == Some("New")), "{end:?}");
    // To a stage, and on from there by another run.
    let (settled, middle) = run(seen(Published, [(Old, false); 3]));
    assert_eq!(settled, [Old, Published]);
    let (settled, _) = run(Rotating { goal: New, settled: None, ..middle });
    assert_eq!(settled, [Published, Signing, New]);
}

#[test]
fn a_run_that_was_killed_anywhere_is_finished_and_taken_back() {
    let cases = [
        [(Old, true), (Old, false), (Old, false)],
        [(Published, true), (Old, true), (Old, true)],
        [(Published, true), (Published, true), (Old, true)],
        [(Published, true), (Signing, true), (Published, true)],
        [(Signing, true); 3],
        [(Signing, true), (New, true), (New, true)],
        [(New, true), (New, false), (New, false)],
    ];
    for stages in cases {
        let (settled, end) = run(seen(New, stages));
        assert_eq!(settled.last(), Some(&New), "{stages:?}");
        assert!(end.hosts.values().all(|own| *own == host(New, false)), "{stages:?}: {end:?}");
        let (settled, end) = run(seen(Old, stages));
        assert_eq!(settled.last(), Some(&Old), "{stages:?}");
        assert!(settled.windows(2).all(|pair| pair[0] > pair[1]), "{settled:?}");
        let before = stages.iter().any(|(stage, _)| *stage == Old);
        assert!(settled.ends_with(&[Published, Old]) || before, "{stages:?}: {settled:?}");
        assert!(end.hosts.values().all(|own| *own == host(Old, false)), "{stages:?}: {end:?}");
    }
}

/// What the new one cannot do must not stand in the way of the old one; what has forgotten the old one must.
#[test]
fn the_way_back_waits_for_what_it_needs_alone() {
    let mut all = seen(Old, [(Signing, true); 3]);
    assert!(matches!(next(&all), Next::Turn { stage: Published, .. }), "{:?}", next(&all));
    all.hosts.get_mut("cp3").unwrap().record = Some(record_of(true));
    assert_eq!(next(&all), Next::Settle(Signing));
}

#[test]
fn a_file_and_its_key_that_were_torn_apart_are_set_again() {
    let mut torn = seen(New, [(Signing, true); 3]);
    torn.hosts.get_mut("cp2").unwrap().whole = false;
    let Next::Turn { stage: Signing, plan } = next(&torn) else { panic!("{:?}", next(&torn)) };
    assert_eq!(plan.to_string(), "certs\n  cp2        change ca: trust both, sign with the new one\n1 change\n");
}

/// A control plane and a worker that joined while the rotation stood at a stage.
#[test]
fn hosts_that_joined_meanwhile_are_brought_along() {
    let mut joined = seen(New, [(Published, true), (Published, true), (Published, false)]);
    joined.public.insert("w2".into(), None);
    let Next::Turn { stage: Published, plan } = next(&joined) else { panic!("{:?}", next(&joined)) };
    let text = plan.to_string();
    assert!(text.contains("cp3        copy the successor of ca from cp1"), "{text}");
    assert!(text.contains("w2         replace ca.crt from cp1") && plan.changes() == 2, "{text}");
}

#[test]
fn what_is_no_state_of_one_rotation_is_refused() {
    let refused = |seen: &Rotating| rotation(&cluster(), seen).unwrap_err().to_string();
    let with = |change: &dyn Fn(&mut Rotating)| {
        let mut all = seen(New, [(Published, true); 3]);
        change(&mut all);
        refused(&all)
    };
    let own = |all: &mut Rotating, change: &dyn Fn(&mut RotationSeen)| change(all.hosts.get_mut("cp2").unwrap());
    type Change<'a> = &'a dyn Fn(&mut Rotating);
    let cases: [(Change<'_>, &str); 5] = [
        (&|all| all.others.extend([Shared::ServiceAccountKey]), "a rotation of sa is under way"),
        (
            &|all| own(all, &|own| own.record = Some(RotationRecord { id: "x".into(), ..record() })),
            "cp1 and cp2 keep different",
        ),
        (&|all| own(all, &|own| own.current = Some("x".into())), "ca of cp2 is neither"),
        (&|all| own(all, &|own| own.current = Some(shown(New))), "at stage Published on one host and at New"),
        (&|all| all.hosts.values_mut().for_each(|own| own.current = Some(shown(Signing))), "at stage Signing already"),
    ];
    for (change, words) in cases {
        let goal = if words.contains("already") { Published } else { New };
        let error = with(&|all| {
            all.goal = goal;
            change(all);
        });
        assert!(error.contains(words), "{error}");
    }
    assert!(refused(&seen(Old, [(Old, false); 3])).contains("no rotation of ca is under way"));
    let mut several = seen(New, [(Old, false); 3]);
    several.hosts.get_mut("cp2").unwrap().halves = 2;
    assert!(refused(&several).contains("ca of cp2 holds several"), "{}", refused(&several));
    let mut keyless = seen(New, [(Old, false); 3]);
    keyless.hosts.get_mut("cp3").unwrap().whole = false;
    assert!(refused(&keyless).contains("cp3 has no ca.key"), "{}", refused(&keyless));
}
