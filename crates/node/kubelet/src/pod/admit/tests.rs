//! Every field of a pod: who honours it, or how it is refused. A field that a new version of the API adds does not
//! compile until it has its line here.

use super::*;
use k8s_openapi::api::core::v1::{
    Container, EnvVarSource, PodSecurityContext, Probe, SecurityContext, VolumeMount as Mount,
};
use serde_json::{Value, json};

enum Fate {
    /// Honoured, by this part.
    By(&'static str),
    /// Means nothing on a node, or is the API server's, scheduler's or another controller's affair.
    Not,
    /// This pod spec is refused with a message that has this in it.
    Refused(Value, &'static str),
}
use Fate::{By, Not, Refused};

/// Names of all fields with their fates; naming too few or too many does not compile.
macro_rules! fields {
    ($kind:ident { $($field:ident: $fate:expr,)* }) => {{
        let _ = |$kind { $($field: _,)* }: $kind| {};
        vec![$((concat!(stringify!($kind), ".", stringify!($field)), $fate)),*]
    }};
}

fn container(more: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i"});
    more.as_object().unwrap().iter().for_each(|(k, v)| c[k] = v.clone());
    json!({"containers": [c]})
}

fn pod_spec() -> Vec<(&'static str, Fate)> {
    let with = |more: Value| {
        let mut s = container(json!({}));
        more.as_object().unwrap().iter().for_each(|(k, v)| s[k] = v.clone());
        s
    };
    fields!(PodSpec {
        active_deadline_seconds: By("worker::end"),
        affinity: By("admit::placement"),
        automount_service_account_token: Not,
        containers: By("step"),
        dns_config: By("dns"),
        dns_policy: By("dns"),
        enable_service_links: By("make::service_env"),
        ephemeral_containers: By("ephemeral"),
        host_aliases: By("hosts"),
        host_ipc: By("make::security::namespaces"),
        host_network: By("make::security::namespaces"),
        host_pid: By("make::security::namespaces"),
        host_users: Refused(with(json!({"hostUsers": false})), "hostUsers"),
        hostname: By("make::sandbox::hostname"),
        hostname_override: By("make::sandbox::hostname"),
        image_pull_secrets: By("image"),
        init_containers: By("step"),
        node_name: By("admit::placement"),
        node_selector: By("admit::placement"),
        os: Refused(with(json!({"os": {"name": "windows"}})), "the OS field"),
        overhead: By("resources::pod"),
        preemption_policy: Not,
        priority: By("resources::oom_score, evict"),
        priority_class_name: Not,
        readiness_gates: By("status"),
        resource_claims: Refused(with(json!({"resourceClaims": [{"name": "x"}]})), "resourceClaims"),
        resources: By("resources::pod, resize"),
        restart_policy: By("policy"),
        runtime_class_name: By("start::runtime_handler"),
        scheduler_name: Not,
        scheduling_gates: Not,
        scheduling_group: Not,
        security_context: By("make::security"),
        service_account: Not,
        service_account_name: By("volumes::payload"),
        set_hostname_as_fqdn: By("make::sandbox::hostname"),
        share_process_namespace: By("make::security::namespaces"),
        subdomain: By("make::sandbox::hostname"),
        termination_grace_period_seconds: By("policy::grace_of"),
        tolerations: By("admit::placement"),
        topology_spread_constraints: Not,
        volumes: Refused(
            with(json!({"volumes": [{"name": "v", "csi": {"driver": "d"}}]})),
            "volume \"v\" has a source"
        ),
    })
}

fn containers() -> Vec<(&'static str, Fate)> {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]);
    fields!(Container {
        args: By("make::container"),
        command: By("make::container"),
        env: By("make::env"),
        env_from: By("make::env"),
        image: By("image"),
        image_pull_policy: By("image"),
        lifecycle: By("hooks; start::check_stop_signal refuses a signal the runtime does not know"),
        liveness_probe: By("probe"),
        name: By("names"),
        ports: By("make::sandbox, admit::claim"),
        readiness_probe: By("probe"),
        resize_policy: By("resize"),
        resources: By("resources, resize"),
        restart_policy: By("policy"),
        restart_policy_rules: Refused(container(json!({"restartPolicyRules": rule})), "restartPolicyRules"),
        security_context: By("make::security"),
        startup_probe: By("probe"),
        stdin: By("make::container"),
        stdin_once: By("make::container"),
        termination_message_path: By("observe::last_words"),
        termination_message_policy: By("observe::last_words"),
        tty: By("make::container"),
        volume_devices: Refused(
            container(json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]})),
            "volumeDevices"
        ),
        volume_mounts: By("make::container::mounts"),
        working_dir: By("make::container"),
    })
}

fn contexts() -> Vec<(&'static str, Fate)> {
    let pod = |context: Value| json!({"containers": [{"name": "c"}], "securityContext": context});
    let mut all = fields!(SecurityContext {
        allow_privilege_escalation: By("make::security::no_new_privileges"),
        app_armor_profile: Refused(
            container(json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}})),
            "AppArmor is not enabled"
        ),
        capabilities: By("make::security"),
        privileged: By("make::security"),
        proc_mount: By("make::security"),
        read_only_root_filesystem: By("make::security"),
        run_as_group: By("make::security"),
        run_as_non_root: By("make::security::check_non_root"),
        run_as_user: By("make::security"),
        se_linux_options: By("make::security"),
        seccomp_profile: By("make::security::seccomp"),
        windows_options: Not,
    });
    all.extend(fields!(PodSecurityContext {
        app_armor_profile: Refused(
            pod(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}})),
            "AppArmor is not enabled"
        ),
        fs_group: By("volumes"),
        fs_group_change_policy: By("volumes::local"),
        run_as_group: By("make::security"),
        run_as_non_root: By("make::security"),
        run_as_user: By("make::security"),
        se_linux_change_policy: Not,
        se_linux_options: By("make::security"),
        seccomp_profile: By("make::security::seccomp"),
        supplemental_groups: By("make::security"),
        supplemental_groups_policy: Refused(
            pod(json!({"supplementalGroupsPolicy": "Strict"})),
            "SupplementalGroupsPolicy=Strict"
        ),
        sysctls: Refused(pod(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})), "forbidden sysctl"),
        windows_options: Not,
    }));
    all
}

fn smaller() -> Vec<(&'static str, Fate)> {
    let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled"});
    let mut all = fields!(Mount {
        mount_path: By("make::container"),
        mount_propagation: By("make::container"),
        name: By("make::container"),
        read_only: By("make::container"),
        recursive_read_only: Refused(container(json!({"volumeMounts": [mount]})), "recursiveReadOnly"),
        sub_path: By("volumes::subpath"),
        sub_path_expr: By("make::container::expand_strictly"),
    });
    all.extend(fields!(Probe {
        exec: By("probe"),
        failure_threshold: By("probe"),
        grpc: By("probe::grpc"),
        http_get: By("probe::http"),
        initial_delay_seconds: By("probe"),
        period_seconds: By("probe"),
        success_threshold: By("probe"),
        tcp_socket: By("probe"),
        termination_grace_period_seconds: By("probe"),
        timeout_seconds: By("probe"),
    }));
    all.extend(fields!(EnvVarSource {
        config_map_key_ref: By("make::env"),
        field_ref: By("downward"),
        file_key_ref: By("make::env_file"),
        resource_field_ref: By("downward"),
        secret_key_ref: By("make::env"),
    }));
    all
}

fn verdict(spec: Value, host: &Host) -> Result<(), (String, String)> {
    admit(&serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap(), host)
}

#[test]
fn every_field_is_honoured_or_refused() {
    let all: Vec<_> = [pod_spec(), containers(), contexts(), smaller()].into_iter().flatten().collect();
    for (name, fate) in all {
        match fate {
            By(part) => assert!(!part.is_empty(), "{name}"),
            Not => {}
            Refused(spec, words) => {
                let (_, message) = verdict(spec, &Host::default()).expect_err(name);
                assert!(message.contains(words), "{name}: {message}");
            }
        }
    }
}

#[test]
fn what_the_host_can_do_is_let_in() {
    let able = Host { apparmor: true, strict_groups: true, recursive_read_only: true };
    for spec in [
        container(json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}})),
        container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Enabled"}]})),
        json!({"containers": [{"name": "c"}], "securityContext": {"supplementalGroupsPolicy": "Strict"}}),
    ] {
        assert!(verdict(spec.clone(), &able).is_ok(), "{spec}");
        assert!(verdict(spec.clone(), &Host::default()).is_err(), "{spec}");
    }
}

#[test]
fn sysctls_need_their_namespace() {
    for (name, on_host, allowed) in [
        ("net.ipv4.tcp_syncookies", (false, false), true),
        ("net/ipv4/tcp_syncookies", (false, false), true),
        ("net.ipv4.tcp_syncookies", (true, false), false),
        ("kernel.shm_rmid_forced", (false, false), true),
        ("kernel.shm_rmid_forced", (false, true), false),
        ("net.core.somaxconn", (false, false), false),
    ] {
        assert_eq!(sysctl_allowed(name, on_host), allowed, "{name} {on_host:?}");
    }
}

#[test]
fn volumes_that_are_not_served_are_refused() {
    for (volume, served) in [
        (json!({"emptyDir": {}}), true),
        (json!({"emptyDir": {"medium": "HugePages"}}), false),
        (json!({"image": {"reference": "i"}}), false),
        (json!({"csi": {"driver": "d"}}), false),
        (json!({"ephemeral": {}}), true),
        (json!({"persistentVolumeClaim": {"claimName": "x"}}), true),
        (json!({"nfs": {"server": "s", "path": "/"}}), false),
        (json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}), true),
        (json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}}), false),
    ] {
        let mut spec = container(json!({}));
        spec["volumes"] = json!([volume]);
        spec["volumes"][0]["name"] = json!("v");
        assert_eq!(verdict(spec, &Host::default()).is_ok(), served, "{volume}");
    }
}
