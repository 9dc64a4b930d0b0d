//! The controller against a real API server: addresses, finalizer, events, restarts, and who comes first.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use clap::Parser;
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kinit_component_base::Shutdown;
use kinit_test_support::{TestApiServer, free_port, kube_client};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const USER: &str = "system:cloud-controller-manager";
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const POOLS: &str = r#"{"apiVersion": "kinit.dev/v1alpha1", "kind": "LoadBalancerPools", "pools": [
    {"name": "small", "addresses": ["192.0.2.10-192.0.2.11"]},
    {"name": "gold", "addresses": ["198.51.100.0/30"], "autoAssign": false}]}"#;

struct Plane {
    server: TestApiServer,
    client: Client,
    services: Api<Service>,
    dir: tempfile::TempDir,
}

impl Plane {
    async fn start() -> Self {
        let server = TestApiServer::start().await.unwrap();
        let client = kube_client(&server.kubeconfig_for("admin", &["system:masters"]).unwrap()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pools.yaml"), POOLS).unwrap();
        rights(&client).await;
        let services = Api::namespaced(client.clone(), "default");
        Self { server, client, services, dir }
    }

    /// A controller manager; cancelling the token ends it.
    fn controller(&self) -> Shutdown {
        let file = self.dir.path().join("kubeconfig");
        std::fs::write(&file, self.server.kubeconfig_for(USER, &[]).unwrap()).unwrap();
        let args = kinit_cloud_baremetal::Args::parse_from([
            "cloud-controller-manager".to_owned(),
            format!("--kubeconfig={}", file.display()),
            format!("--cloud-config={}", self.dir.path().join("pools.yaml").display()),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", free_port().unwrap()),
            format!("--client-ca-file={}", self.server.pki.file("ca.crt").display()),
            "--leader-elect-lease-duration=3s".to_owned(),
            "--leader-elect-renew-deadline=2s".to_owned(),
            "--leader-elect-retry-period=500ms".to_owned(),
        ]);
        let shutdown = Shutdown::new();
        tokio::spawn(kinit_cloud_baremetal::run(args, shutdown.clone()));
        shutdown
    }

    async fn create(&self, name: &str, notes: Value, more: Value) {
        let mut spec = json!({"type": "LoadBalancer", "selector": {"a": "b"}, "ports": [{"port": 80}]});
        more.as_object().unwrap().iter().for_each(|(k, v)| spec[k] = v.clone());
        let service = json!({"metadata": {"name": name, "annotations": notes}, "spec": spec});
        self.services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    }

    async fn patch(&self, name: &str, patch: Value) {
        self.services.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn ingress(&self, name: &str) -> Value {
        let service = serde_json::to_value(self.services.get(name).await.unwrap()).unwrap();
        service["status"]["loadBalancer"]["ingress"].clone()
    }

    async fn has(&self, name: &str, address: &str) {
        let expected = match address {
            "" => Value::Null,
            address => json!([{"ip": address, "ipMode": "VIP"}]),
        };
        eventually(&format!("{name} has {address:?}"), async || self.ingress(name).await == expected).await;
    }

    /// Waits for an event about a Service, with this in its text.
    async fn reported(&self, name: &str, reason: &str, text: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        eventually(&format!("{reason} {text:?} of {name}"), async || {
            let all = events.list(&ListParams::default()).await.unwrap();
            let of = |e: &Event| e.involved_object.name.as_deref() == Some(name) && e.reason.as_deref() == Some(reason);
            all.iter().any(|e| of(e) && e.message.as_deref().is_some_and(|m| m.contains(text)))
        })
        .await;
    }
}

/// No more rights than those that kinit gives (a test of crates/lifecycle/manifests reads the same file).
async fn rights(client: &Client) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let rules: Value = serde_json::from_str(include_str!("role.json")).unwrap();
    let binding = |kind: &str| {
        json!({"metadata": {"name": USER}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": USER},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": USER}]})
    };
    let role = |rules: &Value| json!({"metadata": {"name": USER}, "rules": rules});
    let post = PostParams::default();
    let cluster: Api<ClusterRole> = Api::all(client.clone());
    cluster.create(&post, &serde_json::from_value(role(&rules["cluster"])).unwrap()).await.unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings.create(&post, &serde_json::from_value(binding("ClusterRole")).unwrap()).await.unwrap();
    let roles: Api<Role> = Api::namespaced(client.clone(), "kube-system");
    roles.create(&post, &serde_json::from_value(role(&rules["kube-system"])).unwrap()).await.unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), "kube-system");
    bindings.create(&post, &serde_json::from_value(binding("Role")).unwrap()).await.unwrap();
}

async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < deadline, "not seen in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_gets_an_address_and_gives_it_back() {
    let plane = Plane::start().await;
    let controller = plane.controller();
    plane.create("web", json!({}), json!({})).await;
    plane.has("web", "192.0.2.10").await;
    plane.reported("web", "EnsuringLoadBalancer", "Ensuring load balancer").await;
    plane.reported("web", "EnsuredLoadBalancer", "192.0.2.10 of pool small").await;
    let service = plane.services.get("web").await.unwrap();
    assert_eq!(service.finalizers(), [FINALIZER]);
    assert_eq!(service.annotations()["kinit.dev/load-balancer-pool"], "small");

    // Another class is another's; ours by name is ours.
    plane.create("other", json!({}), json!({"loadBalancerClass": "example.com/theirs"})).await;
    plane.create("named", json!({}), json!({"loadBalancerClass": "kinit.dev/loadbalancer"})).await;
    plane.has("named", "192.0.2.11").await;

    // Full: it waits, and others are worked on.
    plane.create("late", json!({}), json!({})).await;
    plane.reported("late", "SyncLoadBalancerFailed", "no address is left in small").await;
    plane.create("gold", json!({"metallb.universe.tf/address-pool": "gold"}), json!({})).await;
    plane.has("gold", "198.51.100.1").await;
    plane.create("third", json!({}), json!({"loadBalancerIP": "198.51.100.3"})).await;
    plane.has("third", "198.51.100.3").await;
    plane.create("taken", json!({"metallb.io/loadBalancerIPs": "198.51.100.3"}), json!({})).await;
    plane.reported("taken", "SyncLoadBalancerFailed", "198.51.100.3 belongs to Service default/third").await;
    plane.create("outside", json!({}), json!({"loadBalancerIP": "203.0.113.1"})).await;
    plane.reported("outside", "SyncLoadBalancerFailed", "203.0.113.1 lies in no pool").await;
    assert_eq!((plane.ingress("other").await, plane.ingress("late").await), (Value::Null, Value::Null));

    // Another type: the status is empty, and who waits gets the address.
    plane.patch("web", json!({"spec": {"type": "ClusterIP"}})).await;
    plane.has("late", "192.0.2.10").await;
    plane.has("web", "").await;
    plane.reported("web", "DeletedLoadBalancer", "Deleted load balancer").await;
    let service = plane.services.get("web").await.unwrap();
    assert!(service.finalizers().is_empty() && !service.annotations().contains_key("kinit.dev/load-balancer-pool"));

    // Deleted: the finalizer goes, the Service too, and who asked for the address gets it.
    plane.services.delete("third", &DeleteParams::default()).await.unwrap();
    plane.has("taken", "198.51.100.3").await;
    assert!(plane.services.get_opt("third").await.unwrap().is_none());

    // Another address is asked for, while it has one.
    plane.patch("gold", json!({"spec": {"loadBalancerIP": "198.51.100.2"}})).await;
    plane.has("gold", "198.51.100.2").await;
    plane.patch("gold", json!({"spec": {"loadBalancerIP": "203.0.113.9"}})).await;
    plane.has("gold", "").await;
    controller.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_nothing() {
    let plane = Plane::start().await;
    let first = plane.controller();
    plane.create("b", json!({}), json!({})).await;
    plane.has("b", "192.0.2.10").await;
    plane.create("a", json!({}), json!({})).await;
    plane.has("a", "192.0.2.11").await;
    first.cancel();
    // Meanwhile one goes, one comes, and one is spoilt.
    plane.services.delete("b", &DeleteParams::default()).await.unwrap();
    plane.create("c", json!({}), json!({})).await;
    let before = plane.services.get("a").await.unwrap().resource_version().unwrap();
    let second = plane.controller();
    plane.has("c", "192.0.2.10").await;
    let after = plane.services.get("a").await.unwrap().resource_version().unwrap();
    assert_eq!(before, after, "who has what it should have is not written again");

    // Two have one address: the older keeps it.
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.11", "ipMode": "VIP"}]}}});
    plane.services.patch_status("c", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let (a, c) = (plane.services.get("a").await.unwrap(), plane.services.get("c").await.unwrap());
    // Times of creation are whole seconds; within one, the uid decides.
    let born = |s: &Service| (s.metadata.creation_timestamp.as_ref().map(|t| t.0), s.metadata.uid.clone());
    let (older, younger) = if born(&a) < born(&c) { ("a", "c") } else { ("c", "a") };
    plane.has(younger, "192.0.2.10").await;
    plane.has(older, "192.0.2.11").await;

    // What a user takes away is put back.
    plane
        .patch("a", json!({"metadata": {"annotations": {"kinit.dev/load-balancer-pool": null}, "finalizers": []}}))
        .await;
    eventually("mark and finalizer are back", async || {
        let service = plane.services.get("a").await.unwrap();
        service.finalizers() == [FINALIZER] && service.annotations().contains_key("kinit.dev/load-balancer-pool")
    })
    .await;
    second.cancel();
}
