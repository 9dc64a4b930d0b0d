//! kubectl, where there is one.

use std::process::Command;

use reqwest::Method;
use serde_json::json;

use crate::World;
use crate::extension::Manner;

#[tokio::test(flavor = "multi_thread")]
async fn top_and_get_and_explain() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        eprintln!("no kubectl in PATH: nothing to try");
        return;
    }
    let (world, _extension) = World::with_extension(Manner::Old).await;
    let node = json!({"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi"}}});
    assert_eq!(world.send(Method::POST, "/api/v1/nodes", &node).await.0, 201);
    for (args, want) in [
        (&["top", "nodes"][..], &["n1", "250m", "25%", "512Mi", "50%"][..]),
        (&["top", "pods"], &["p1", "250m", "512Mi"]),
        (&["get", "apiservices"], &["v1beta1.metrics.k8s.io", "kube-system/metrics", "True", "v1.apps", "Local"]),
        (&["get", "nodes.metrics.k8s.io", "-o", "name"], &["nodemetrics.metrics.k8s.io/n1"]),
        (&["api-resources", "--api-group=metrics.k8s.io"], &["NodeMetrics", "PodMetrics"]),
        (&["explain", "nodes", "--api-version=metrics.k8s.io/v1beta1"], &["KIND:       NodeMetrics"]),
        (&["explain", "apiservice.spec.service"], &["port", "<integer>"]),
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
