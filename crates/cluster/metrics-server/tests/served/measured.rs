//! What is used, as clients of the API server see it.

use std::process::Command;

use kinit_apimachinery::quantity::Quantity;
use serde_json::{Value, json};

use crate::kubelet::Manner;
use crate::{METRICS, World};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn milli(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("{value}")).parse::<Quantity>().unwrap().milli()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_pods() {
    let kubelets =
        [("good", Manner::Good), ("hangs", Manner::Hangs), ("impostor", Manner::Impostor), ("html", Manner::Html)];
    let world = World::start(&kubelets).await;
    world.pod("web", json!({"app": "web"})).await;
    // Its kubelet tells nothing of it.
    world.pod("unseen", json!({"app": "web"})).await;
    let pods = format!("{METRICS}/pods");
    let list = world.until(&pods, |code, answer| code == 200 && answer["items"][0].is_object()).await;
    assert_eq!((&list["kind"], names(&list)), (&json!("PodMetricsList"), vec!["web"]));
    let pod = &list["items"][0];
    assert_eq!((&pod["metadata"]["namespace"], &pod["metadata"]["labels"]["app"]), (&json!("default"), &json!("web")));
    for (index, name, cpu, memory) in [(0, "a", 250, "64Mi"), (1, "b", 500, "128Mi")] {
        let container = &pod["containers"][index];
        assert_eq!((&container["name"], &container["usage"]["memory"]), (&json!(name), &json!(memory)));
        let used = milli(&container["usage"]["cpu"]);
        assert!((cpu - 15..=cpu + 15).contains(&used), "{used} is not about {cpu}");
    }

    let (_, nodes) = world.get(&format!("{METRICS}/nodes"), "application/json").await;
    assert_eq!(names(&nodes), ["good"], "who does not answer, lies or babbles is left out");
    assert_eq!(nodes["items"][0]["usage"]["memory"], "1Gi");
    assert!((970..=1030).contains(&milli(&nodes["items"][0]["usage"]["cpu"])), "{nodes}");

    for (path, code, count) in [
        ("pods?labelSelector=app%3Dweb", 200, 1),
        ("pods?labelSelector=app%3Ddb", 200, 0),
        ("namespaces/default/pods?fieldSelector=metadata.name%3Dweb", 200, 1),
        ("namespaces/kube-system/pods", 200, 0),
        ("nodes?labelSelector=is%3Dgood", 200, 1),
        ("nodes?fieldSelector=metadata.name!%3Dgood", 200, 0),
        ("nodes?fieldSelector=spec.unschedulable%3Dtrue", 400, 0),
        ("namespaces/default/pods/unseen", 404, 0),
        ("nodes/hangs", 404, 0),
        ("nodes?watch=true", 405, 0),
    ] {
        let (got, answer) = world.get(&format!("{METRICS}/{path}"), "application/json").await;
        let items = answer["items"].as_array().map_or(0, Vec::len);
        assert_eq!((got, items), (code, count), "{path}: {answer}");
    }
    let (_, missing) = world.get(&format!("{METRICS}/namespaces/default/pods/none"), "application/json").await;
    assert_eq!(missing["message"], "pods.metrics.k8s.io \"default/none\" not found");

    let (_, table) = world.get(&pods, TABLE).await;
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][2]), (&json!("Table"), &json!("192Mi")), "{table}");
    kubectl(&world);
}

/// kubectl, where there is one.
fn kubectl(world: &World) {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        eprintln!("no kubectl in PATH: nothing to try");
        return;
    }
    for (args, want) in [
        (&["top", "nodes"][..], &["good", "1024Mi", "25%", "hangs", "<unknown>"][..]),
        (&["top", "pods"], &["web", "192Mi"]),
        (&["top", "pods", "-A", "--containers"], &["64Mi", "128Mi"]),
        (&["top", "pod", "web"], &["web", "192Mi"]),
        (&["top", "node", "good"], &["good", "1024Mi"]),
        (&["top", "pods", "-l", "app=db"], &["No resources found"]),
        (&["get", "apiservices", "v1beta1.metrics.k8s.io"], &["kube-system/metrics-server", "True"]),
        (&["get", "nodes.metrics.k8s.io"], &["NAME", "CPU", "MEMORY", "WINDOW", "good", "1Gi"]),
        (&["get", "pods.metrics.k8s.io", "-o", "name"], &["podmetrics.metrics.k8s.io/web"]),
        (&["api-resources", "--api-group=metrics.k8s.io"], &["NodeMetrics", "PodMetrics"]),
        (&["explain", "pods.containers", "--api-version=metrics.k8s.io/v1beta1"], &["PodMetrics", "usage"]),
    ] {
        let output = tokio::task::block_in_place(|| {
            let mut kubectl = Command::new("kubectl");
            kubectl.arg(format!("--kubeconfig={}", world.api.kubeconfig().display()));
            kubectl.arg(format!("--cache-dir={}", world.api.plane.dir.join("kubectl").display()));
            kubectl.args(args).output().unwrap()
        });
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        eprintln!("$ kubectl {}\n{text}", args.join(" "));
        assert!(want.iter().all(|part| text.contains(part)), "kubectl {args:?} {want:?}: {text}");
    }
}
