//! Whether a change fits, and what it costs (`CheckRequest`). Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec};
use kinit_apimachinery::quantity::Quantity;
use kinit_component_helpers::quota::Subject;
use kinit_component_helpers::requests::{Amounts, add, amounts};

/// A quota as the controller and earlier charges left it.
#[derive(Debug, Clone)]
pub struct Quota {
    /// `metadata.name`.
    pub name: String,
    /// Scopes.
    pub spec: ResourceQuotaSpec,
    /// `status.hard`: what is not here yet is not enforced.
    pub hard: Amounts,
    /// `status.used`.
    pub used: Amounts,
}

impl Quota {
    /// From the object.
    pub fn of(quota: ResourceQuota) -> Self {
        let status = quota.status.unwrap_or_default();
        Self {
            name: quota.metadata.name.unwrap_or_default(),
            spec: quota.spec.unwrap_or_default(),
            hard: amounts(status.hard.as_ref()),
            used: amounts(status.used.as_ref()),
        }
    }

    /// Whether it limits something of the object and its scopes hold for it (`generic.Matches`).
    fn matches(&self, subject: &Subject) -> bool {
        self.hard.keys().any(|name| subject.has(name)) && subject.is_in_scope(&self.spec)
    }
}

/// A write that quotas are asked about.
#[derive(Debug)]
pub struct QuotaWrite {
    /// What is to be.
    pub new: Subject,
    /// What was, for an update.
    pub old: Option<Subject>,
    /// Whether too much is refused, or only charged.
    pub enforced: bool,
    /// The time, by which pods on their way out end to count.
    pub now: Timestamp,
}

impl QuotaWrite {
    /// By name of a quota, the amounts of `status.used` that the write changes; upstream's words when it does not fit
    /// all of them.
    pub fn charges(&self, quotas: &[Quota]) -> Result<BTreeMap<String, Amounts>, String> {
        let concerned: Vec<&Quota> = quotas.iter().filter(|quota| quota.matches(&self.new)).collect();
        for quota in &concerned {
            self.precondition(quota)?;
        }
        let mut out = BTreeMap::new();
        if concerned.is_empty() {
            return Ok(out);
        }
        let usage = self.new.usage(self.now);
        let negative: Vec<&str> = usage.iter().filter(|(_, q)| q.is_negative()).map(|(n, _)| n.as_str()).collect();
        if !negative.is_empty() {
            return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
        }
        for quota in concerned {
            // What another scope held before comes in full.
            let before = self.old.as_ref().filter(|old| quota.matches(old)).map(|old| old.usage(self.now));
            let delta = more(&usage, &before.unwrap_or_default());
            let asked: Amounts = delta.into_iter().filter(|(name, _)| quota.hard.contains_key(name)).collect();
            if asked.is_empty() {
                continue;
            }
            let mut used = pick(&quota.used, asked.keys());
            add(&mut used, &asked);
            if self.enforced {
                exceeded(quota, &asked, &used)?;
            }
            out.insert(quota.name.clone(), used);
        }
        Ok(out)
    }

    /// What must hold before amounts are compared: the object says what the quota measures, and the quota has been
    /// counted.
    fn precondition(&self, quota: &Quota) -> Result<(), String> {
        let measured: BTreeSet<&str> = quota.hard.keys().map(String::as_str).filter(|n| self.new.has(n)).collect();
        if let Some(unsaid) = self.new.unsaid(&measured) {
            return Err(format!("failed quota: {}: {unsaid}", quota.name));
        }
        if measured.iter().any(|name| !quota.used.contains_key(*name)) {
            let names = measured.into_iter().collect::<Vec<_>>().join(",");
            return Err(format!("status unknown for quota: {}, resources: {names}", quota.name));
        }
        Ok(())
    }
}

/// What there is more of, above zero (`SubtractWithNonNegativeResult`, `RemoveZeros`).
fn more(new: &Amounts, old: &Amounts) -> Amounts {
    let delta = |(name, amount): (&String, &Quantity)| {
        let rest = old.get(name).map_or(*amount, |before| amount.minus(*before));
        (rest > Quantity::ZERO).then(|| (name.clone(), rest))
    };
    new.iter().filter_map(delta).collect()
}

fn pick<'a>(from: &Amounts, names: impl Iterator<Item = &'a String>) -> Amounts {
    names.filter_map(|name| Some((name.clone(), *from.get(name)?))).collect()
}

fn exceeded(quota: &Quota, asked: &Amounts, used: &Amounts) -> Result<(), String> {
    let over: Vec<&String> = used
        .iter()
        .filter(|(name, amount)| quota.hard.get(*name).is_some_and(|h| *amount > h))
        .map(|(n, _)| n)
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    let text = |from: &Amounts| {
        let pairs = pick(from, over.iter().copied()).into_iter().map(|(name, amount)| format!("{name}={amount}"));
        pairs.collect::<Vec<_>>().join(",")
    };
    Err(format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name,
        text(asked),
        text(&quota.used),
        text(&quota.hard)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn quota(name: &str, spec: Value, hard: Value, used: Value) -> Quota {
        let object = json!({"metadata": {"name": name}, "spec": spec, "status": {"hard": hard, "used": used}});
        Quota::of(serde_json::from_value(object).unwrap())
    }

    fn write(plural: &str, new: Value, old: Option<Value>) -> QuotaWrite {
        let of = |object: Value| Subject::of("", plural, &object).unwrap();
        QuotaWrite { new: of(new), old: old.map(of), enforced: true, now: Timestamp::UNIX_EPOCH }
    }

    /// The charges as text, or the refusal.
    fn answer(write: &QuotaWrite, quotas: &[Quota]) -> Value {
        match write.charges(quotas) {
            Err(text) => json!(text),
            Ok(charges) => charges
                .into_iter()
                .map(|(name, used)| {
                    let used: Value = used.into_iter().map(|(n, q)| (n, json!(q.to_string()))).collect();
                    (name, used)
                })
                .collect(),
        }
    }

    fn pod(requests: Value, limits: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c1", "resources": {"requests": requests, "limits": limits}}]}})
    }

    #[test]
    fn new_pods() {
        let small = pod(json!({"cpu": "500m", "memory": "1Gi"}), json!({}));
        let plain = |hard: Value, used: Value| quota("q", json!({}), hard, used);
        for (quota, expected) in [
            (plain(json!({"pods": "2"}), json!({"pods": "1"})), json!({"q": {"pods": "2"}})),
            (
                plain(json!({"pods": "2"}), json!({"pods": "2"})),
                json!("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
            ),
            (
                plain(
                    json!({"requests.memory": "1Gi", "cpu": "1", "pods": "9"}),
                    json!({"requests.memory": "512Mi", "cpu": "750m", "pods": "3"}),
                ),
                json!(
                    "exceeded quota: q, requested: cpu=500m,requests.memory=1Gi, used: cpu=750m,requests.memory=512Mi, \
                     limited: cpu=1,requests.memory=1Gi"
                ),
            ),
            (
                plain(json!({"limits.cpu": "1", "limits.memory": "1Gi"}), json!({})),
                json!("failed quota: q: must specify limits.cpu for: c1; limits.memory for: c1"),
            ),
            (
                plain(json!({"pods": "1", "cpu": "1"}), json!({"pods": "0"})),
                json!("status unknown for quota: q, resources: cpu,pods"),
            ),
            (plain(json!({}), json!({})), json!({})),
            (plain(json!({"services": "0"}), json!({"services": "0"})), json!({})),
            (quota("q", json!({"scopes": ["BestEffort"]}), json!({"pods": "0"}), json!({"pods": "0"})), json!({})),
            (
                quota("q", json!({"scopes": ["NotBestEffort"]}), json!({"pods": "0"}), json!({"pods": "0"})),
                json!("exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"),
            ),
        ] {
            assert_eq!(
                answer(&write("pods", small.clone(), None), std::slice::from_ref(&quota)),
                expected,
                "{quota:?}"
            );
        }
        let negative = write("pods", pod(json!({"cpu": "-1"}), json!({})), None);
        let quota = plain(json!({"cpu": "1"}), json!({"cpu": "0"}));
        assert_eq!(answer(&negative, &[quota]), json!("quota usage is negative for resource(s): cpu,requests.cpu"));
    }

    #[test]
    fn all_quotas_or_none() {
        let two = [
            quota("a", json!({}), json!({"pods": "5"}), json!({"pods": "0"})),
            quota("b", json!({}), json!({"count/pods": "1"}), json!({"count/pods": "1"})),
        ];
        let write = write("pods", pod(json!({}), json!({})), None);
        assert_eq!(
            answer(&write, &two),
            json!("exceeded quota: b, requested: count/pods=1, used: count/pods=1, limited: count/pods=1")
        );
        assert_eq!(answer(&write, &two[..1]), json!({"a": {"pods": "1"}}));
    }

    #[test]
    fn updates_cost_the_difference() {
        let service = |type_: &str| json!({"spec": {"type": type_, "ports": [{"port": 1}, {"port": 2}]}});
        let ports = |hard: &str| {
            quota(
                "q",
                json!({}),
                json!({"services": "1", "services.nodeports": hard}),
                json!({"services": "1", "services.nodeports": "0"}),
            )
        };
        for (new, old, hard, expected) in [
            ("NodePort", "ClusterIP", "2", json!({"q": {"services.nodeports": "2"}})),
            (
                "NodePort",
                "ClusterIP",
                "1",
                json!(
                    "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=0, limited: services.nodeports=1"
                ),
            ),
            ("ClusterIP", "NodePort", "0", json!({})),
            ("ClusterIP", "ClusterIP", "0", json!({})),
        ] {
            let got = answer(&write("services", service(new), Some(service(old))), &[ports(hard)]);
            assert_eq!(got, expected, "{old} to {new}");
        }
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let storage = quota("q", json!({}), json!({"requests.storage": "10Gi"}), json!({"requests.storage": "8Gi"}));
        let mut grown = write("persistentvolumeclaims", claim("7Gi"), Some(claim("4Gi")));
        assert_eq!(
            answer(&grown, std::slice::from_ref(&storage)),
            json!(
                "exceeded quota: q, requested: requests.storage=3Gi, used: requests.storage=8Gi, limited: requests.storage=10Gi"
            )
        );
        grown.enforced = false;
        assert_eq!(answer(&grown, &[storage]), json!({"q": {"requests.storage": "11Gi"}}));
    }
}
