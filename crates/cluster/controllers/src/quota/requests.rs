//! What all containers of a pod ask for together (`k8s.io/component-helpers/resource`). No IO.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kinit_apimachinery::quantity::Quantity;

/// Amounts by name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Which half of the requirements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// `requests`
    Requests,
    /// `limits`
    Limits,
}

/// As the API has it; text that is no quantity counts as nothing (the API server does not let it in).
pub fn amounts(map: Option<&BTreeMap<String, Text>>) -> Amounts {
    map.into_iter().flatten().map(|(name, text)| (name.clone(), text.0.parse().unwrap_or(Quantity::ZERO))).collect()
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.get(name).copied().unwrap_or(Quantity::ZERO).plus(*amount);
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if to.get(name).is_none_or(|have| have < amount) {
            to.insert(name.clone(), *amount);
        }
    }
}

/// The larger of all containers together and of each init container with the sidecars before it, plus overhead; what is given
/// for the pod as a whole takes the containers' place.
pub fn of_pod(spec: &PodSpec, half: Half) -> Amounts {
    let pick = |r: Option<&ResourceRequirements>| {
        amounts(r.and_then(|r| if half == Half::Requests { r.requests.as_ref() } else { r.limits.as_ref() }))
    };
    let mut sum = Amounts::new();
    spec.containers.iter().for_each(|c| add(&mut sum, &pick(c.resources.as_ref())));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut own = pick(container.resources.as_ref());
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut peak, &own);
    }
    add(&mut sum, &sidecars);
    raise(&mut sum, &peak);
    let whole = spec.resources.as_ref();
    let whole = whole.and_then(|r| if half == Half::Requests { r.requests.as_ref() } else { r.limits.as_ref() });
    sum.extend(amounts(whole));
    let overhead = amounts(spec.overhead.as_ref());
    // As upstream: overhead is added to a limit only where there is one.
    let counts = |name: &String| half == Half::Requests || sum.contains_key(name);
    let overhead = overhead.into_iter().filter(|(name, _)| counts(name)).collect();
    add(&mut sum, &overhead);
    sum
}
