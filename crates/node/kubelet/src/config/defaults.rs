//! Fields of upstream's KubeletConfiguration that are known here but not honoured: accepted where they say what happens
//! anyway.

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

/// Removes known fields whose values ask for nothing this kubelet does not do; refuses the others by name.
pub(super) fn strip(fields: &mut Map<String, Value>) -> Result<()> {
    for (name, accepted) in table() {
        let Some(value) = fields.get(name) else { continue };
        if !empty(value) && !accepted.contains(value) {
            let allowed: Vec<String> = accepted.iter().map(Value::to_string).collect();
            bail!(
                "{name}: {value} is not implemented (allowed: unset{}{})",
                if allowed.is_empty() { "" } else { ", " },
                allowed.join(", ")
            );
        }
        fields.remove(name);
    }
    Ok(())
}

/// Whether a value says nothing: null, "", 0, a zero duration, or an object or list of such.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == "0s" || s == "0",
        Value::Array(items) => items.iter().all(empty),
        Value::Object(fields) => fields.values().all(empty),
    }
}

type Known = Vec<(&'static str, Vec<Value>)>;

/// Fields with the values that are accepted of each beside nothing.
fn table() -> Known {
    let mut all = machine();
    all.extend(others());
    all
}

/// What becomes of the machine and its resources.
fn machine() -> Known {
    vec![
        ("syncFrequency", vec![json!("1m0s"), json!("1m")]),
        ("fileCheckFrequency", vec![json!("20s")]),
        ("httpCheckFrequency", vec![json!("20s")]),
        ("staticPodURL", vec![]),
        ("staticPodURLHeader", vec![]),
        ("readOnlyPort", vec![]),
        ("tlsCurvePreferences", vec![]),
        ("imagePullCredentialsVerificationPolicy", vec![]),
        ("preloadedImagesVerificationAllowlist", vec![]),
        ("volumeStatsAggPeriod", vec![json!("1m0s"), json!("1m")]),
        ("kubeletCgroups", vec![]),
        ("systemCgroups", vec![]),
        ("cgroupsPerQOS", vec![json!(true)]),
        ("cpuManagerPolicy", vec![json!("none")]),
        ("cpuManagerPolicyOptions", vec![]),
        ("cpuManagerReconcilePeriod", vec![json!("10s")]),
        ("memoryManagerPolicy", vec![json!("None")]),
        ("topologyManagerPolicy", vec![json!("none")]),
        ("topologyManagerScope", vec![json!("container")]),
        ("topologyManagerPolicyOptions", vec![]),
        ("qosReserved", vec![]),
        ("runtimeRequestTimeout", vec![json!("2m0s"), json!("2m")]),
        ("hairpinMode", vec![json!("none")]),
        ("podCIDR", vec![]),
        ("runOnce", vec![json!(false)]),
        ("cpuCFSQuota", vec![json!(true)]),
        ("cpuCFSQuotaPeriod", vec![json!("100ms")]),
    ]
}

fn others() -> Known {
    vec![
        ("nodeStatusMaxImages", vec![json!(50)]),
        ("contentType", vec![json!("application/json")]),
        ("kubeAPIQPS", vec![json!(50)]),
        ("kubeAPIBurst", vec![json!(100)]),
        ("evictionSoft", vec![]),
        ("evictionSoftGracePeriod", vec![]),
        ("evictionMaxPodGracePeriod", vec![]),
        ("evictionMinimumReclaim", vec![]),
        ("mergeDefaultEvictionSettings", vec![json!(false)]),
        ("podsPerCore", vec![]),
        ("enableControllerAttachDetach", vec![json!(true)]),
        ("protectKernelDefaults", vec![json!(false)]),
        ("makeIPTablesUtilChains", vec![json!(false)]),
        ("iptablesMasqueradeBit", vec![]),
        ("iptablesDropBit", vec![]),
        ("featureGates", vec![]),
        ("memorySwap", vec![json!({"swapBehavior": "NoSwap"})]),
        ("containerLogMaxWorkers", vec![json!(1)]),
        ("containerLogMonitorInterval", vec![json!("10s")]),
        ("configMapAndSecretChangeDetectionStrategy", vec![json!("Watch")]),
        ("systemReservedCgroup", vec![]),
        ("kubeReservedCgroup", vec![]),
        ("allowedUnsafeSysctls", vec![]),
        ("volumePluginDir", vec![json!("/usr/libexec/kubernetes/kubelet-plugins/volume/exec/")]),
        ("providerID", vec![]),
        ("kernelMemcgNotification", vec![json!(false)]),
        ("logging", vec![json!({"format": "text"})]),
        ("enableSystemLogHandler", vec![json!(false)]),
        ("enableSystemLogQuery", vec![json!(false)]),
        ("shutdownGracePeriod", vec![]),
        ("shutdownGracePeriodCriticalPods", vec![]),
        ("shutdownGracePeriodByPodPriority", vec![]),
        ("reservedMemory", vec![]),
        ("reservedSystemCPUs", vec![]),
        ("enableProfilingHandler", vec![json!(false)]),
        ("enableDebugFlagsHandler", vec![json!(false)]),
        ("memoryThrottlingFactor", vec![json!(0.9)]),
        ("tracing", vec![]),
        ("localStorageCapacityIsolation", vec![json!(true)]),
        ("imageServiceEndpoint", vec![]),
        ("singleProcessOOMKill", vec![json!(false)]),
        ("showHiddenMetricsForVersion", vec![]),
        ("userNamespaces", vec![]),
    ]
}
