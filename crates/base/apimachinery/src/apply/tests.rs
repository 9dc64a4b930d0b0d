//! The documented rules, as tables.

use serde_json::{Value, json};

use super::*;
use crate::complete::complete;
use crate::schema::schema;

/// A built-in kind of the core group.
struct Core(&'static str);

impl Kind for Core {
    fn ty(&self) -> TypeRef<'_> {
        TypeRef::of(schema().by_kind("", "v1", self.0))
    }

    fn in_version<'s>(&'s self, object: &Value, api_version: &str) -> InVersion<'s> {
        // A second version which calls `data` by another name, and a third one that nothing converts to now.
        let (from, to, ty) = match api_version {
            "v1" => ("values", "data", self.ty()),
            "v2" => ("data", "values", TypeRef::deduced()),
            "v3" => return InVersion::Unknown,
            _ => return InVersion::Gone,
        };
        let mut other = object.clone();
        if let Some(data) = other.as_object_mut().and_then(|map| map.shift_remove(from)) {
            other[to] = data;
        }
        other["apiVersion"] = api_version.into();
        InVersion::Is(other, ty)
    }

    fn empty(&self) -> Value {
        let mut empty = json!({"apiVersion": "v1", "kind": self.0});
        complete(&mut empty, schema().by_kind("", "v1", self.0).unwrap());
        empty
    }
}

const MAP: Core = Core("ConfigMap");
const POD: Core = Core("Pod");

fn by<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "v1", subresource: "", now, scope: Scope::ALL }
}

/// An object and its owners, and what is done to them.
#[derive(Clone)]
struct Live<'k> {
    kind: &'k Core,
    object: Value,
    owners: Owners,
    is_new: bool,
}

impl<'k> Live<'k> {
    fn none(kind: &'k Core) -> Self {
        Self { kind, object: kind.empty(), owners: Owners::default(), is_new: true }
    }

    fn write(&mut self, manager: &str, now: &str, mut new: Value) {
        complete(&mut new, schema().by_kind("", "v1", self.kind.0).unwrap());
        let owners = std::mem::take(&mut self.owners);
        self.owners = update(owners, self.is_new, &self.object, &new, self.kind, &by(manager, now));
        (self.object, self.is_new) = (new, false);
    }

    fn apply(&mut self, manager: &str, now: &str, document: Value, force: bool) -> Result<(), Vec<Conflict>> {
        let by = by(manager, now);
        let applied = apply(self.owners.clone(), self.is_new, &self.object, &document, self.kind, &by, force)?;
        (self.object, self.owners, self.is_new) = (applied.object, applied.owners, false);
        complete(&mut self.object, schema().by_kind("", "v1", self.kind.0).unwrap());
        Ok(())
    }

    fn owned(&self, manager: &str) -> Value {
        self.owners.0.iter().find(|o| o.manager == manager).map_or(Value::Null, |o| o.fields.to_value())
    }

    fn time(&self, manager: &str) -> Option<&str> {
        self.owners.0.iter().find(|o| o.manager == manager)?.time.as_deref()
    }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}, "data": data})
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";
const T3: &str = "2026-01-01T00:00:03Z";

#[test]
fn a_new_pod_is_owned_as_upstream_writes_it() {
    let mut live = Live::none(&POD);
    let mut object = pod(json!({"containers": [{"name": "c", "image": "i", "env": [{"name": "e", "valueFrom":
        {"secretKeyRef": {"name": "s", "key": "k"}}}], "ports": [{"containerPort": 80}, {"containerPort": 443}],
        "resources": {}}], "nodeSelector": {"a": "b"}, "dnsPolicy": "ClusterFirst", "securityContext": {}}));
    object["metadata"] = json!({"name": "p", "generateName": "p-", "labels": {"app": "x"}, "finalizers": ["a/b"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "1"}]});
    live.write("kubectl-create", T1, object);
    assert_eq!(
        live.owned("kubectl-create"),
        json!({
            "f:metadata": {"f:finalizers": {".": {}, "v:\"a/b\"": {}}, "f:generateName": {},
                "f:labels": {".": {}, "f:app": {}},
                "f:ownerReferences": {".": {}, "k:{\"uid\":\"1\"}": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {".": {},
                    "f:env": {".": {}, "k:{\"name\":\"e\"}": {".": {}, "f:name": {},
                        "f:valueFrom": {".": {}, "f:secretKeyRef": {}}}},
                    "f:image": {}, "f:name": {},
                    "f:ports": {".": {},
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                        "k:{\"containerPort\":443,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:resources": {}}},
                "f:dnsPolicy": {}, "f:nodeSelector": {}, "f:securityContext": {}}
        })
    );
    let text = live.owned("kubectl-create").to_string();
    let (low, high) = (text.find("\"k:{\\\"containerPort\\\":80").unwrap(), text.find(":443").unwrap());
    assert!(low < high, "numbers are in the order of numbers: {text}");
}

#[test]
fn an_update_takes_what_it_changes_from_everybody() {
    let mut live = Live::none(&MAP);
    live.write("one", T1, map(json!({"a": "1", "b": "1", "c": "1"})));
    live.write("two", T2, map(json!({"a": "2", "b": "1", "d": "2"})));
    assert_eq!(live.owned("one"), json!({"f:data": {".": {}, "f:b": {}}}));
    assert_eq!(live.owned("two"), json!({"f:data": {"f:a": {}, "f:d": {}}}));
    assert_eq!((live.time("one"), live.time("two")), (Some(T1), Some(T2)), "who loses keeps its time");
    live.write("two", T3, live.object.clone());
    assert_eq!(live.time("two"), Some(T2), "no change, no new time");
}

#[test]
fn what_nobody_owned_stays_unowned_until_the_first_apply() {
    let mut live = Live { kind: &MAP, object: map(json!({"a": "1"})), owners: Owners::default(), is_new: false };
    live.write("one", T1, map(json!({"a": "2"})));
    assert!(live.owners.0.is_empty());
    let conflicts = live.clone().apply("two", T2, map(json!({"a": "3"})), false).unwrap_err();
    assert_eq!(conflicts, [Conflict { owner: "\"before-first-apply\" using v1".into(), path: ".data.a".into() }]);
    live.apply("two", T2, map(json!({"b": "3"})), false).unwrap();
    assert_eq!(live.owned("before-first-apply"), json!({"f:data": {".": {}, "f:a": {}}}));
    assert_eq!(live.owned("two"), json!({"f:data": {"f:b": {}}}));
}

#[test]
fn applies_conflict_share_and_let_go() {
    let mut live = Live::none(&MAP);
    live.apply("one", T1, map(json!({"x": "1", "y": "1"})), false).unwrap();
    // The same value is shared.
    live.apply("two", T2, map(json!({"y": "1"})), false).unwrap();
    let other = map(json!({"x": "2"}));
    let conflicts = live.clone().apply("three", T3, other.clone(), false).unwrap_err();
    assert_eq!(conflicts, [Conflict { owner: "\"one\"".into(), path: ".data.x".into() }]);
    // What one lets go of goes, unless another has it.
    live.apply("one", T2, map(json!({})), false).unwrap();
    assert_eq!(live.object["data"], json!({"y": "1"}));
    live.apply("three", T3, map(json!({"y": "9"})), true).unwrap();
    assert_eq!(live.object["data"], json!({"y": "9"}));
    assert_eq!(live.owned("two"), Value::Null, "nothing is left of it");
}

#[test]
fn several_conflicts_are_told_by_owner() {
    let mut live = Live::none(&MAP);
    live.apply("b", T1, map(json!({"x": "1"})), false).unwrap();
    live.write("a", T2, map(json!({"x": "1", "y": "1", "z": "1"})));
    let conflicts = live.apply("c", T3, map(json!({"x": "2", "y": "2", "z": "2"})), false).unwrap_err();
    let reported: Vec<_> = conflicts.iter().map(|c| format!("{} {}", c.owner, c.path)).collect();
    assert_eq!(reported, ["\"a\" using v1 .data.y", "\"a\" using v1 .data.z", "\"b\" .data.x"]);
}

#[test]
fn a_repeated_apply_changes_no_time() {
    let mut live = Live::none(&MAP);
    live.apply("one", T1, map(json!({"x": "1"})), false).unwrap();
    live.apply("one", T2, map(json!({"x": "1"})), false).unwrap();
    assert_eq!(live.time("one"), Some(T1));
    live.apply("one", T3, map(json!({"x": "2"})), false).unwrap();
    assert_eq!(live.time("one"), Some(T3));
}

#[test]
fn keyed_lists_sets_and_atomic_values() {
    let containers = |list: Value| pod(json!({"containers": list}));
    let mut live = Live::none(&POD);
    live.apply("one", T1, containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])), false)
        .unwrap();
    live.apply("two", T2, containers(json!([{"name": "c", "image": "3"}, {"name": "b", "tty": true}])), false).unwrap();
    let names = |live: &Live<'_>| {
        let list = live.object["spec"]["containers"].as_array().unwrap().clone();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&live), ["a", "c", "b"], "new elements stand before what follows them in the document");
    live.apply("one", T3, containers(json!([{"name": "b", "image": "2"}])), false).unwrap();
    assert_eq!(names(&live), ["c", "b"]);
    // An element goes with its owner, and takes along what others set in it.
    live.apply("two", T3, containers(json!([{"name": "c", "image": "3"}])), false).unwrap();
    assert_eq!(live.object["spec"]["containers"][1], json!({"name": "b", "image": "2", "resources": {}}));
    // An atomic map is one field.
    live.apply("one", T3, pod(json!({"containers": [{"name": "b", "image": "2"}], "nodeSelector": {"a": "1"}})), false)
        .unwrap();
    let conflict = live.apply("two", T3, pod(json!({"nodeSelector": {"b": "1"}})), false).unwrap_err();
    assert_eq!(conflict[0].path, ".spec.nodeSelector");
}

#[test]
fn an_element_that_others_only_changed_goes_with_the_one_who_has_it() {
    let mut live = Live::none(&POD);
    live.apply("one", T1, pod(json!({"containers": [{"name": "a", "image": "1"}]})), false).unwrap();
    live.write("two", T2, pod(json!({"containers": [{"name": "a", "image": "1", "tty": true}]})));
    assert_eq!(live.owned("two"), json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:tty": {}}}}}));
    live.apply("one", T3, pod(json!({"hostname": "h"})), false).unwrap();
    assert_eq!(live.object["spec"]["containers"], Value::Null);
    assert_eq!(live.owned("two"), Value::Null);
}

#[test]
fn entries_of_another_version_are_compared_in_it_and_those_of_none_are_forgotten() {
    let entry = |manager: &str, version: &str, fields: Value| {
        json!({"manager": manager, "operation": "Update", "apiVersion": version, "time": T1,
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    };
    let list = json!([
        entry("old", "v2", json!({"f:values": {"f:a": {}, "f:b": {}}})),
        entry("gone", "v0", json!({"f:data": {"f:b": {}}}))
    ]);
    let mut live = Live {
        kind: &MAP,
        object: map(json!({"a": "1", "b": "1"})),
        owners: Owners::decode(Some(&list)).unwrap(),
        is_new: false,
    };
    live.write("new", T2, map(json!({"a": "2", "b": "1"})));
    assert_eq!(live.owned("old"), json!({"f:values": {"f:b": {}}}));
    assert_eq!((live.owned("gone"), live.owned("new")), (Value::Null, json!({"f:data": {"f:a": {}}})));
}

#[test]
fn entries_of_a_version_that_cannot_be_told_stay() {
    let fields = json!({"f:data": {"f:a": {}}});
    let list = json!([{"manager": "far", "operation": "Update", "apiVersion": "v3", "time": T1,
        "fieldsType": "FieldsV1", "fieldsV1": fields}]);
    let owners = Owners::decode(Some(&list)).unwrap();
    let mut live = Live { kind: &MAP, object: map(json!({"a": "1"})), owners, is_new: false };
    live.write("new", T2, map(json!({"a": "2"})));
    assert_eq!(live.owned("far"), fields);
    live.apply("one", T3, map(json!({"b": "1"})), false).unwrap();
    assert_eq!(live.owned("far"), fields);
}

#[test]
fn what_was_applied_in_another_version_is_pruned_in_it() {
    let list = json!([{"manager": "one", "operation": "Apply", "apiVersion": "v2", "time": T1,
        "fieldsType": "FieldsV1", "fieldsV1": {"f:values": {"f:a": {}, "f:b": {}}}}]);
    let owners = Owners::decode(Some(&list)).unwrap();
    let mut live = Live { kind: &MAP, object: map(json!({"a": "1", "b": "1", "c": "1"})), owners, is_new: false };
    live.apply("one", T2, map(json!({"c": "1"})), false).unwrap();
    assert_eq!((&live.object["data"], &live.object["apiVersion"]), (&json!({"c": "1"}), &json!("v1")));
    assert_eq!(live.owned("one"), json!({"f:data": {"f:c": {}}}));
}

#[test]
fn only_ten_updaters_are_kept_apart() {
    let mut live = Live::none(&MAP);
    live.write("creator", "2026-01-01T00:00:00Z", map(json!({})));
    for i in 1..=12 {
        let mut data = live.object["data"].clone();
        data[format!("k{i:02}")] = "x".into();
        live.write(&format!("m{i:02}"), &format!("2026-01-01T00:00:{i:02}Z"), map(data));
    }
    let names: Vec<&str> = live.owners.0.iter().map(|o| o.manager.as_str()).collect();
    assert_eq!(
        (names.len(), names.contains(&"ancient-changes"), names.contains(&"m12")),
        (10, true, true),
        "{names:?}"
    );
    // Nothing is lost: all that was set has an owner.
    let mut all = Fields::new();
    live.owners.0.iter().for_each(|o| all.add(&o.fields));
    assert_eq!(all.field("data").unwrap().below.paths().len(), 12);
    assert_eq!(live.time("ancient-changes"), Some("2026-01-01T00:00:03Z"), "the youngest of them");
}

#[test]
fn what_a_client_sends_as_owners() {
    let entry = json!({"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:a": {}}}});
    let live = json!([entry]);
    let with = |key: &str, value: Value| {
        let mut entry = entry.clone();
        entry[key] = value;
        json!([entry])
    };
    let other = with("manager", "x".into());
    for (what, given, manager) in [
        ("nothing", Value::Null, Some("m")),
        ("an empty list", json!([]), None),
        ("one empty entry", json!([{}]), None),
        ("a good list", other.clone(), Some("x")),
        ("another operation", with("operation", "Steal".into()), Some("m")),
        ("no version", with("apiVersion", "".into()), Some("m")),
        ("another form", with("fieldsType", "FieldsV2".into()), Some("m")),
        ("a path that is none", with("fieldsV1", json!({"data": {}})), Some("m")),
        ("a key that is none", with("fieldsV1", json!({"k:nonsense": {}})), Some("m")),
        ("a set of a later form", with("fieldsV1", json!({"z:1": {}, "f:a": {}})), Some("m")),
    ] {
        let owners = Owners::of_update(Some(&live), Some(&given));
        assert_eq!(owners.0.first().map(|o| o.manager.as_str()), manager, "{what}");
    }
}

#[test]
fn sets_survive_their_written_form() {
    let value =
        json!({"f:a": {".": {}, "k:{\"x\":1,\"y\":\"b\"}": {".": {}, "f:c": {}}, "v:true": {}, "v:3": {}, "i:7": {}}});
    let fields = Fields::from_value(&value).unwrap();
    assert_eq!(fields.to_value(), value);
    assert_eq!(fields.paths(), [".a", ".a[x=1,y=\"b\"]", ".a[=3]", ".a[=true]", ".a[7]", ".a[x=1,y=\"b\"].c"]);
    assert_eq!(
        Fields::from_value(&json!({"k:{\"b\":1,\"a\":2}": {}, "k:{\"a\":2,\"b\":1}": {"f:x": {}}}))
            .unwrap()
            .paths()
            .len(),
        2
    );
}

#[test]
fn kubectl_goes_on_with_what_it_applied_on_the_clients_side() {
    let note = map(json!({"x": "1", "y": "1"})).to_string();
    let mut first = map(json!({"x": "1", "y": "2"}));
    first["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": note});
    let mut live = Live::none(&MAP);
    live.write("kubectl-client-side-apply", T1, first);
    let change = map(json!({"x": "2"}));
    assert_eq!(live.clone().apply("other", T2, change.clone(), false).unwrap_err()[0].path, ".data.x");
    // `y` is not as kubectl set it any more, so it is not kubectl's to change.
    let refused = live.clone().apply("kubectl", T2, map(json!({"x": "2", "y": "3"})), false).unwrap_err();
    assert_eq!(refused.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), [".data.y"]);
    live.apply("kubectl", T2, change, false).unwrap();
    assert_eq!(live.object["data"], json!({"x": "2", "y": "2"}));
    let kept: Value =
        serde_json::from_str(live.object.annotation("kubectl.kubernetes.io/last-applied-configuration").unwrap())
            .unwrap();
    assert_eq!(kept, map(json!({"x": "2"})), "the note follows");
}

#[test]
fn documents_that_cannot_be_applied() {
    let container = |extra: Value| {
        let mut c = json!({"name": "a"});
        c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        pod(json!({"containers": [c]}))
    };
    let at = ".spec.containers[name=\"a\"]";
    for (document, problem) in [
        (
            pod(json!({"containers": [{"name": "a"}, {"name": "a"}]})),
            ".spec.containers: duplicate entries for key [name=\"a\"]".to_owned(),
        ),
        (
            container(json!({"ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]})),
            format!("{at}.ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]"),
        ),
        (container(json!({"imaeg": 1})), format!("{at}.imaeg: field not declared in schema")),
        (pod(json!({"containers": {"a": 1}})), ".spec.containers: expected list, got &{{\"a\":1}}".to_owned()),
        (
            pod(json!({"containers": [null]})),
            ".spec.containers: element 0: associative list with keys may not have a null element".to_owned(),
        ),
        (
            container(json!({"foo": 1, "bar": 1})),
            format!("errors:\n  {at}.foo: field not declared in schema\n  {at}.bar: field not declared in schema"),
        ),
    ] {
        assert_eq!(check(&document, POD.ty()), Err(problem));
    }
    let mut set = map(json!({}));
    set["metadata"]["finalizers"] = json!(["a/b", "a/b"]);
    assert_eq!(check(&set, MAP.ty()), Err(".metadata.finalizers: duplicate entries for key [=\"a/b\"]".into()));
    assert_eq!(check(&container(json!({"image": null, "env": []})), POD.ty()), Ok(()));
}

#[test]
fn a_scope_limits_what_is_owned() {
    let mut new = POD.empty();
    new["spec"]["hostname"] = "h".into();
    new["spec"]["containers"] = json!([{"name": "a", "image": "i", "resources": {"limits": {"cpu": "1"}}}]);
    new["status"] = json!({"phase": "Running"});
    let owned = |scope: Scope| {
        let by = Writer { scope, ..by("m", T1) };
        update(Owners::default(), true, &POD.empty(), &new, &POD, &by)
            .0
            .first()
            .map(|o| o.fields.paths())
            .unwrap_or_default()
    };
    assert_eq!(owned(Scope::Without(&[&["spec"]])), [".status.phase"]);
    let resources = owned(Scope::Within(&[&["spec", "containers", "*", "resources"]]));
    assert!(resources.iter().all(|p| p.starts_with(".spec.containers[name=\"a\"].resources")) && !resources.is_empty());
}

#[test]
fn without_a_type_maps_are_by_field_and_lists_whole() {
    let kind = Plain(TypeRef::deduced());
    let new = json!({"apiVersion": "x/v1", "kind": "X", "spec": {"list": [{"name": "a"}], "map": {"k": {"deep": 1}}}});
    let owners = update(Owners::default(), true, &kind.empty(), &new, &kind, &by("m", T1));
    assert_eq!(
        owners.0[0].fields.to_value(),
        json!({"f:spec": {".": {}, "f:list": {}, "f:map": {".": {}, "f:k": {".": {}, "f:deep": {}}}}})
    );
    let changed = compare(&json!({"a": {"b": 1}}), &json!({"a": "text"}), TypeRef::deduced());
    assert_eq!((changed.set.paths(), changed.gone.paths()), (vec![".a".to_owned()], vec![".a.b".to_owned()]));
}

#[test]
fn a_custom_kinds_lists_by_its_schema() {
    let mut b = Builder::default();
    let whole = b.add(Shape::Whole);
    let item = b.add(Shape::Struct { fields: [("id".to_owned(), whole), ("v".to_owned(), whole)].into(), rest: None });
    let items = b.keyed([("id".to_owned(), None)], item);
    let meta = b.object_meta();
    let spec = b.add(Shape::Struct { fields: [("items".to_owned(), items)].into(), rest: None });
    let root =
        b.add(Shape::Struct { fields: [("metadata".to_owned(), meta), ("spec".to_owned(), spec)].into(), rest: None });
    let shapes = b.build();
    let new = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"items": [{"id": 1, "v": 2}]}});
    assert_eq!(
        fields_of(&new, shapes.get(root)).paths(),
        [".metadata.labels.x", ".spec.items[id=1]", ".spec.items[id=1].id", ".spec.items[id=1].v"]
    );
}

/// What a document of any form is compared with does not matter: nothing panics, and applying it to itself changes
/// nothing.
#[test]
fn odd_values_are_no_trouble() {
    let odd = [
        json!(null),
        json!(1),
        json!("x"),
        json!([]),
        json!([null, 1, {"name": 1}, {"name": 1}]),
        json!({}),
        json!({"a": null}),
    ];
    for a in &odd {
        for b in &odd {
            let (old, new) = (pod(json!({"containers": a, "x": b})), pod(json!({"containers": b, "nodeSelector": a})));
            for ty in [POD.ty(), TypeRef::deduced()] {
                compare(&old, &new, ty);
                fields_of(&new, ty);
                let _ = check(&new, ty);
                merge::merge(old.clone(), &new, ty);
                merge::prune(old.clone(), &fields_of(&new, ty), &Fields::new(), ty);
            }
        }
    }
    let many: Vec<Value> = (0..20_000).map(|i| json!({"name": format!("{i}")})).collect();
    let (old, new) =
        (pod(json!({"containers": many})), pod(json!({"containers": many.iter().rev().collect::<Vec<_>>()})));
    assert!(compare(&old, &new, POD.ty()).set.is_empty());
}

/// Prints what recording costs (`cargo test -p kinit-apimachinery --lib cost -- --nocapture --ignored`).
#[test]
#[ignore = "a measurement"]
fn cost() {
    let mut object = pod(json!({"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        "env": [{"name": "a", "value": "b"}, {"name": "b", "value": "b"}], "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}}],
        "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
        "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true}));
    object["metadata"]["labels"] = json!({"app": "x", "tier": "y"});
    complete(&mut object, schema().by_kind("", "v1", "Pod").unwrap());
    let rounds = 20_000;
    let started = std::time::Instant::now();
    let mut list = None;
    for _ in 0..rounds {
        list = update(Owners::default(), true, &POD.empty(), &object, &POD, &by("m", T1)).encode();
    }
    println!("create: {:?}", started.elapsed() / rounds);
    let mut new = object.clone();
    new["status"]["phase"] = "Running".into();
    let started = std::time::Instant::now();
    for _ in 0..rounds {
        let owners = Owners::of_update(list.as_ref(), None);
        update(owners, false, &object, &new, &POD, &by("kubelet", T2)).encode();
    }
    println!("update: {:?}", started.elapsed() / rounds);
}
