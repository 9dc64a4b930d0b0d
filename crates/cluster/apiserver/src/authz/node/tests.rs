//! Requests of a kubelet and what becomes of them; the facts are those of upstream's `TestNodeAuthorizer`.

use serde_json::{Value, json};

use super::*;

const LISTED: bool = true;

/// Two nodes, each with a pod that needs one of everything; the names end in the node's digit.
fn graph() -> Graph {
    let mut graph = Graph::default();
    for n in ["1", "2"] {
        let name = |what: &str| format!("{what}{n}");
        let pod: Value = json!({"metadata": {"name": name("pod"), "namespace": "ns"}, "spec": {
            "nodeName": name("node"), "serviceAccountName": name("account"),
            "imagePullSecrets": [{"name": name("pull")}],
            "ephemeralContainers": [{"name": "e", "env": [
                {"name": "E", "valueFrom": {"configMapKeyRef": {"name": name("map"), "key": "k"}}}]}],
            "resourceClaims": [{"name": "r", "resourceClaimName": name("devices")}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name("claim")}}]}});
        graph.put_pod("ns", &name("pod"), &pod);
        let volume = json!({"spec": {"claimRef": {"namespace": "ns", "name": name("claim")},
            "iscsi": {"secretRef": {"namespace": "ns", "name": name("chap")}}}});
        graph.put_volume(&name("volume"), &volume);
        graph.put_volume(&name("folder"), &json!({"metadata": {"labels": {LocalPath::NODE: name("node")}}}));
        graph.set_attachment(&name("attachment"), &name("node"));
        graph.set_slice(&name("slice"), &name("node"));
    }
    graph
}

/// `verb group/resource[/sub] [ns/]name [field selector | l:label selector]`, as node1.
fn asked(graph: &Graph, text: &str) -> Verdict {
    counted(graph, text).0
}

/// The same, with how often the graph was asked.
fn counted(graph: &Graph, text: &str) -> (Verdict, u32) {
    let mut words = text.split_whitespace();
    let (verb, what, place) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let mut what = what.split('/');
    let (group, resource, sub) = (what.next().unwrap(), what.next().unwrap(), what.next().unwrap_or(""));
    let (namespace, name) = place.split_once('/').unwrap_or(("", place));
    let dash = |t: &str| if t == "-" { String::new() } else { t.to_owned() };
    let mut attributes = Attributes::resource(verb, &dash(group), "v1", resource, sub, &dash(namespace), &dash(name));
    let selector = words.next().unwrap_or("");
    match selector.strip_prefix("l:") {
        Some(labels) => attributes.label_selector = labels.replace('_', " "),
        None => attributes.field_selector = selector.to_owned(),
    }
    let count = std::cell::Cell::new(0);
    let related = |question: &dyn Fn(&Graph) -> bool| {
        count.set(count.get() + 1);
        question(graph)
    };
    let verdict = rule("node1", &attributes, &related, &|| LISTED);
    (verdict, count.get())
}

#[test]
fn what_a_node_may() {
    let graph = graph();
    for text in [
        "get -/secrets ns/pull1",
        "list -/secrets ns/pull1",
        "watch -/secrets ns/pull1",
        "get -/secrets ns/chap1",
        "get -/configmaps ns/map1",
        "watch -/configmaps ns/map1",
        "get -/persistentvolumeclaims ns/claim1",
        "patch -/persistentvolumeclaims/status ns/claim1",
        "update -/persistentvolumeclaims/status ns/claim1",
        "get -/persistentvolumes volume1",
        "list -/persistentvolumes - l:kinit.dev/local-path-node=node1",
        "watch -/persistentvolumes - l:a!=b,kinit.dev/local-path-node=node1",
        "patch -/persistentvolumes folder1",
        "get -/serviceaccounts ns/account1",
        "create -/serviceaccounts/token ns/account1",
        "get resource.k8s.io/resourceclaims ns/devices1",
        "get resource.k8s.io/resourceslices slice1",
        "delete resource.k8s.io/resourceslices slice1",
        "create resource.k8s.io/resourceslices -",
        "list resource.k8s.io/resourceslices - spec.nodeName=node1",
        "deletecollection resource.k8s.io/resourceslices - spec.nodeName=node1",
        "get storage.k8s.io/volumeattachments attachment1",
        "get storage.k8s.io/csinodes node1",
        "create storage.k8s.io/csinodes -",
        "get coordination.k8s.io/leases kube-node-lease/node1",
        "create coordination.k8s.io/leases kube-node-lease/-",
        "get -/nodes node1",
        "watch -/nodes node1",
        "create -/nodes -",
        "patch -/nodes/status node1",
        "get -/pods ns/pod1",
        "watch -/pods - spec.nodeName=node1",
        "list -/pods ns/- spec.nodeName=node1",
        "list -/pods ns/pod1",
        "create -/pods ns/-",
        "delete -/pods ns/pod1",
        "patch -/pods/status ns/pod1",
        "create -/pods/eviction ns/pod1",
        "list -/services -",
        "create certificates.k8s.io/podcertificaterequests ns/-",
    ] {
        assert_eq!(asked(&graph, text), Verdict::Allow, "{text}");
    }
}

/// Every request of a kubelet goes through here, hundreds a second in a large cluster: one look into the maps each.
#[test]
fn a_request_costs_one_look() {
    let graph = graph();
    let texts = ["get -/secrets ns/pull1", "get -/pods ns/pod1", "list -/services -", "get -/nodes node1"];
    for text in texts.iter().chain(DENIED) {
        let (_, looks) = counted(&graph, text);
        assert!(looks <= 1, "{text}: {looks} looks");
    }
}

const DENIED: &[&str] = &[
    // Of another node.
    "get -/secrets ns/pull2",
    "get -/secrets ns/chap2",
    "get -/configmaps ns/map2",
    "get -/persistentvolumeclaims ns/claim2",
    "patch -/persistentvolumeclaims/status ns/claim2",
    "get -/persistentvolumes volume2",
    "get -/serviceaccounts ns/account2",
    "create -/serviceaccounts/token ns/account2",
    "get resource.k8s.io/resourceclaims ns/devices2",
    "get resource.k8s.io/resourceslices slice2",
    "patch resource.k8s.io/resourceslices slice2",
    "get storage.k8s.io/volumeattachments attachment2",
    "get storage.k8s.io/csinodes node2",
    "get -/nodes node2",
    "get -/pods ns/pod2",
    "list -/pods - spec.nodeName=node2",
    "update coordination.k8s.io/leases kube-node-lease/node2",
    // Of nobody.
    "get -/secrets ns/none",
    "get -/pods ns/none",
    "get -/persistentvolumes none",
    // Without a namespace, or in another.
    "get -/secrets -/pull1",
    "list -/secrets -/pull1",
    "watch -/configmaps -/map1",
    "get -/secrets other/pull1",
    "create -/serviceaccounts/token other/account1",
    "get coordination.k8s.io/leases ns/node1",
    // Without a name.
    "list -/secrets ns/-",
    "watch -/configmaps ns/-",
    "create -/serviceaccounts/token ns/-",
    "list -/persistentvolumes -",
    "list -/persistentvolumes - l:kinit.dev/local-path-node=node2",
    "list -/persistentvolumes - l:kinit.dev/local-path-node!=node1",
    "watch -/persistentvolumes - l:kinit.dev/local-path-node",
    "list -/persistentvolumes - l:((",
    "watch -/persistentvolumes - l:kinit.dev/local-path-node_in_(node1,node2)",
    "deletecollection -/persistentvolumes - l:kinit.dev/local-path-node=node1",
    "get -/persistentvolumes folder1",
    "patch -/persistentvolumes folder2",
    "update -/persistentvolumes folder1",
    "delete -/persistentvolumes folder1",
    "patch -/persistentvolumes/status folder1",
    "list -/nodes -",
    "list -/pods ns/-",
    "list storage.k8s.io/csinodes -",
    "list coordination.k8s.io/leases kube-node-lease/-",
    "list resource.k8s.io/resourceslices -",
    "deletecollection resource.k8s.io/resourceslices - spec.nodeName!=node1",
    "list resource.k8s.io/resourceslices - spec.nodeName=node2",
    // With a verb or a subresource too many.
    "update -/secrets ns/pull1",
    "delete -/secrets ns/pull1",
    "create -/secrets ns/-",
    "update -/persistentvolumeclaims ns/claim1",
    "get -/persistentvolumeclaims/status ns/claim1",
    "patch -/persistentvolumes volume1",
    "update resource.k8s.io/resourceclaims/status ns/devices1",
    "list -/serviceaccounts ns/account1",
    "update -/serviceaccounts ns/account1",
    "create -/serviceaccounts ns/account1",
    "delete -/nodes node1",
    "get -/nodes/proxy node1",
    "patch -/pods ns/pod1",
    "create -/pods/exec ns/pod1",
    "create -/pods/binding ns/pod1",
    "get -/pods/log ns/pod1",
    "get certificates.k8s.io/podcertificaterequests ns/x",
    "list certificates.k8s.io/podcertificaterequests -",
];

#[test]
fn what_a_node_may_not() {
    let graph = graph();
    for text in DENIED {
        assert_ne!(asked(&graph, text), Verdict::Allow, "{text}");
    }
}
