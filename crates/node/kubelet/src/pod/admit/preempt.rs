//! Which pods make room for a critical one (`pkg/kubelet/preemption`): as few as can be, best-effort ones before
//! burstable ones before guaranteed ones. Pure.

use kinit_component_helpers::qos::Qos;

use super::claim::Claim;
use super::fit::Reason;

/// What is still missing: resource and amount.
type Missing = Vec<(String, i128)>;
/// A pod and what it has.
type Candidate<'a> = (&'a str, &'a Claim);

/// Uids of the pods to end, or what no set of pods would free.
pub fn victims<'a>(
    pod: &Claim,
    others: impl Iterator<Item = Candidate<'a>>,
    reasons: &[Reason],
) -> Result<Vec<String>, String> {
    let missing: Missing = reasons
        .iter()
        .filter_map(|reason| match reason {
            Reason::Insufficient { resource, requested, used, capacity } => {
                Some((resource.clone(), requested - (capacity - used)))
            }
            Reason::Misfit(_) => None,
        })
        .collect();
    let candidates: Vec<Candidate<'_>> = others.filter(|(_, other)| may_preempt(pod, other)).collect();
    let of = |class| candidates.iter().copied().filter(|(_, c)| c.qos == class).collect::<Vec<_>>();
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let left = without(&missing, candidates.iter());
    if !left.is_empty() {
        return Err(format!("no set of running pods found to reclaim resources: {}", show(&left)));
    }
    // Each class gives what the cheaper ones, ended altogether, would leave missing.
    let dear = nearest(guaranteed, without(&missing, best_effort.iter().chain(&burstable)));
    let middle = nearest(burstable, without(&missing, best_effort.iter().chain(&dear)));
    let cheap = nearest(best_effort, without(&missing, middle.iter().chain(&dear)));
    Ok(cheap.iter().chain(&middle).chain(&dear).map(|(uid, _)| (*uid).to_owned()).collect())
}

/// `kubetypes.Preemptable`.
fn may_preempt(pod: &Claim, other: &Claim) -> bool {
    (pod.critical && !other.critical) || pod.priority.zip(other.priority).is_some_and(|(mine, theirs)| mine > theirs)
}

fn without<'a>(missing: &Missing, pods: impl Iterator<Item = &'a Candidate<'a>> + Clone) -> Missing {
    let left = missing.iter().map(|(name, amount)| {
        let freed: i128 = pods.clone().map(|(_, claim)| claim.amount(name)).sum();
        (name.clone(), amount - freed)
    });
    left.filter(|(_, amount)| *amount > 0).collect()
}

/// Takes the pod that comes nearest to what is missing, again and again.
fn nearest<'a>(mut pods: Vec<Candidate<'a>>, mut missing: Missing) -> Vec<Candidate<'a>> {
    let mut out = Vec::new();
    while !missing.is_empty() {
        let best = pods.iter().enumerate().min_by(|(_, a), (_, b)| {
            let size = |c: &Claim| (c.asked.memory, c.asked.cpu);
            distance(&missing, a.1).total_cmp(&distance(&missing, b.1)).then(size(a.1).cmp(&size(b.1)))
        });
        let Some((index, _)) = best else { break };
        let chosen = pods.swap_remove(index);
        missing = without(&missing, std::iter::once(&chosen));
        out.push(chosen);
    }
    out
}

/// What a pod would leave missing, each resource weighing the same.
fn distance(missing: &Missing, claim: &Claim) -> f64 {
    let part = |(name, amount): &(String, i128)| {
        let left = amount - claim.amount(name);
        if left > 0 { (left as f64 / *amount as f64).powi(2) } else { 0.0 }
    };
    missing.iter().map(part).sum()
}

fn show(missing: &Missing) -> String {
    let parts: Vec<String> = missing.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    format!("[{}]", parts.concat())
}
