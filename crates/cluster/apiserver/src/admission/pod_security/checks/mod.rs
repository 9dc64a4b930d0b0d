//! The Pod Security Standards as a table of pure checks (`pod-security-admission/policy`), as of v1.36.

mod app_armor;
mod capabilities;
mod host;
mod privileges;
mod probes;
mod proc_mount;
mod seccomp;
mod selinux;
mod sysctls;
mod users;
mod volumes;

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::policy::{Level, Standard, Version};
pub use seccomp::{CONTAINER as SECCOMP_CONTAINER, POD as SECCOMP_POD};

/// What is wrong with a pod in the eyes of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In a few words, for many pods at once.
    pub reason: String,
    /// With the names of what is wrong, for one pod.
    pub detail: String,
}

impl Finding {
    fn new(reason: &str, detail: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), detail: detail.into() }
    }
}

/// A pod or the template of one.
#[derive(Clone, Copy)]
pub struct Pod<'a> {
    object: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// From an object with `metadata` and `spec`.
    pub fn of(object: &'a Value) -> Self {
        Self { object, spec: object.get("spec").unwrap_or(&Value::Null) }
    }

    /// All containers: those that start the pod, its own, and those added for debugging.
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| self.items(list))
    }

    fn items(self, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.spec.get(list).and_then(Value::as_array).into_iter().flatten()
    }

    /// Something of the pod's own security context.
    fn context(self, path: &[&str]) -> Option<&'a Value> {
        self.spec.get("securityContext")?.at(path)
    }

    fn is_windows(self) -> bool {
        self.spec.str_at(&["os", "name"]) == "windows"
    }

    /// Whether root of the pod is nobody on the host (`relaxPolicyForUserNamespacePod`).
    fn has_own_users(self) -> bool {
        self.spec.get("hostUsers") == Some(&Value::Bool(false))
    }
}

/// Something of a container's security context.
fn context<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    container.get("securityContext")?.at(path)
}

fn is_true(value: Option<&Value>) -> bool {
    value == Some(&Value::Bool(true))
}

/// Names of the containers that something holds for.
fn names<'a>(pod: Pod<'a>, bad: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
    pod.containers().filter(|c| bad(c)).map(|c| c.str_at(&["name"])).collect()
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `"a", "b"`.
fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who set something bad. `None` when nobody did.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".into()),
        (false, false) => Some(containers(names)),
        (true, false) => Some(format!("pod and {}", containers(names))),
    }
}

type CheckPod = fn(Pod<'_>) -> Option<Finding>;

struct Check {
    id: &'static str,
    level: Level,
    /// From which v1.x on which function counts, oldest first.
    versions: &'static [(i64, CheckPod)],
    /// A check of the baseline that this one takes the place of, wherever it counts itself.
    instead_of: Option<&'static str>,
}

const fn baseline(id: &'static str, versions: &'static [(i64, CheckPod)]) -> Check {
    Check { id, level: Level::Baseline, versions, instead_of: None }
}

const fn restricted(id: &'static str, versions: &'static [(i64, CheckPod)], instead_of: Option<&'static str>) -> Check {
    Check { id, level: Level::Restricted, versions, instead_of }
}

/// All checks, in the order in which messages name their findings: by level, then by name.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, app_armor::profile)]),
    baseline("capabilities_baseline", &[(0, capabilities::baseline)]),
    baseline("hostNamespaces", &[(0, host::namespaces)]),
    baseline("hostPathVolumes", &[(0, host::paths)]),
    baseline("hostPorts", &[(0, host::ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, probes::hosts)]),
    baseline("privileged", &[(0, privileges::privileged)]),
    baseline("procMount", &[(0, proc_mount::always), (35, proc_mount::unless_own_users)]),
    baseline("seLinuxOptions", &[(0, selinux::options), (31, selinux::options_with_engine)]),
    baseline("seccompProfile_baseline", &[(0, seccomp::annotations), (19, seccomp::baseline)]),
    baseline("sysctls", &[(0, sysctls::v0), (27, sysctls::v27), (29, sysctls::v29), (32, sysctls::v32)]),
    baseline("windowsHostProcess", &[(0, privileges::host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        &[(8, privileges::escalation), (25, privileges::escalation_but_windows)],
        None,
    ),
    restricted(
        "capabilities_restricted",
        &[(22, capabilities::restricted), (25, capabilities::restricted_but_windows)],
        Some("capabilities_baseline"),
    ),
    restricted("procMount_restricted", &[(35, proc_mount::always)], Some("procMount")),
    restricted("restrictedVolumes", &[(0, volumes::types)], Some("hostPathVolumes")),
    restricted("runAsNonRoot", &[(0, users::non_root), (35, users::non_root_unless_own_users)], None),
    restricted("runAsUser", &[(23, users::not_zero), (35, users::not_zero_unless_own_users)], None),
    restricted(
        "seccompProfile_restricted",
        &[(19, seccomp::restricted), (25, seccomp::restricted_but_windows)],
        Some("seccompProfile_baseline"),
    ),
];

/// Runs the checks of a standard (`checkRegistry.EvaluatePod`).
pub fn evaluate(standard: Standard, pod: Pod<'_>) -> Vec<Finding> {
    let active = |check: &Check| {
        let counts = |(since, _): &&(i64, CheckPod)| Version::Minor(*since) <= standard.version;
        (check.level <= standard.level).then(|| check.versions.iter().rev().find(counts).map(|(_, run)| *run))?
    };
    let replaced = |id: &str| CHECKS.iter().any(|c| c.instead_of == Some(id) && active(c).is_some());
    CHECKS.iter().filter(|c| !replaced(c.id)).filter_map(active).filter_map(|run| run(pod)).collect()
}

/// `host namespaces, privileged`.
pub fn reasons(findings: &[Finding]) -> String {
    findings.iter().map(|f| f.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// `host namespaces (hostNetwork=true), privileged (container "a" must not ...)`.
pub fn details(findings: &[Finding]) -> String {
    let texts = findings.iter().map(|f| format!("{} ({})", f.reason, f.detail));
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Runs one function on a spec: `reason (detail)`, "" for nothing found.
    pub fn run(check: CheckPod, spec: &Value) -> String {
        let object = json!({"spec": spec});
        details(&check(Pod::of(&object)).into_iter().collect::<Vec<_>>())
    }

    fn standard(level: Level, version: Version) -> Standard {
        Standard { level, version }
    }

    #[test]
    fn the_table_is_in_the_order_of_messages() {
        let keys: Vec<_> = CHECKS.iter().map(|c| (c.level, c.id)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        for check in CHECKS {
            assert!(check.versions.is_sorted_by_key(|(since, _)| *since), "{}", check.id);
            assert!(check.instead_of.is_none_or(|id| CHECKS.iter().any(|c| c.id == id && c.level == Level::Baseline)));
        }
    }

    #[test]
    fn what_kubectl_run_makes_violates_four_rules() {
        let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c"}]}});
        let findings = evaluate(standard(Level::Restricted, Version::Latest), Pod::of(&pod));
        assert_eq!(
            details(&findings),
            concat!(
                r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), "#,
                r#"unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), "#,
                r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), "#,
                r#"seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#,
            )
        );
        assert_eq!(
            reasons(&findings),
            "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile"
        );
        assert!(evaluate(standard(Level::Baseline, Version::Latest), Pod::of(&pod)).is_empty());
    }

    #[test]
    fn a_hardened_pod_passes_whatever_the_version() {
        let pod = json!({"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext":
                {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
        }});
        for version in (0..60).map(Version::Minor).chain([Version::Latest]) {
            assert_eq!(evaluate(standard(Level::Restricted, version), Pod::of(&pod)), [], "{version:?}");
        }
    }

    #[test]
    fn privileged_checks_nothing() {
        let pod =
            json!({"spec": {"hostPID": true, "containers": [{"name": "c", "securityContext": {"privileged": true}}]}});
        assert!(evaluate(Standard::PRIVILEGED, Pod::of(&pod)).is_empty());
        let findings = evaluate(standard(Level::Baseline, Version::Latest), Pod::of(&pod));
        assert_eq!(reasons(&findings), "host namespaces, privileged");
    }

    #[test]
    fn versions_choose_the_rules_and_what_replaces_them() {
        let pod = json!({"spec": {
            "hostUsers": false,
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [{"name": "c", "securityContext": {
                "procMount": "Unmasked", "capabilities": {"add": ["NET_RAW"]}, "seccompProfile": {"type": "Unconfined"}}}],
        }});
        for (level, version, want) in [
            (Level::Baseline, Version::Minor(18), "non-default capabilities, hostPath volumes, procMount"),
            (
                Level::Baseline,
                Version::Minor(34),
                "non-default capabilities, hostPath volumes, procMount, seccompProfile",
            ),
            (Level::Baseline, Version::Minor(35), "non-default capabilities, hostPath volumes, seccompProfile"),
            (
                Level::Restricted,
                Version::Minor(7),
                "non-default capabilities, procMount, restricted volume types, runAsNonRoot != true",
            ),
            (
                Level::Restricted,
                Version::Minor(34),
                "procMount, allowPrivilegeEscalation != false, unrestricted capabilities, restricted volume types, runAsNonRoot != true, seccompProfile",
            ),
            (
                Level::Restricted,
                Version::Latest,
                "allowPrivilegeEscalation != false, unrestricted capabilities, procMount, restricted volume types, seccompProfile",
            ),
        ] {
            assert_eq!(reasons(&evaluate(standard(level, version), Pod::of(&pod))), want, "{level:?} {version:?}");
        }
    }
}
