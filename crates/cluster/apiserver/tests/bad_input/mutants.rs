//! Objects of every served kind, each spoilt in some way: whatever comes, the server answers, never with 5xx.

use kinit_apimachinery::schema::{Ty, schema};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::client::{Api, TestRequest, ask, get, patch};

const SEED: u64 = 20_260_401;
const PER_KIND: usize = 12;

struct Maker<'a>(&'a mut StdRng);

impl Maker<'_> {
    /// A value of a type, with most fields set, to a depth.
    fn value(&mut self, ty: &Ty, name: &str, depth: u32) -> Value {
        match ty {
            Ty::Str => self.text(name).into(),
            Ty::I32 | Ty::I64 => self.0.random_range(0..5).into(),
            Ty::Bool => self.0.random_bool(0.5).into(),
            Ty::F64 => json!(1.5),
            Ty::Bytes => json!("YQ=="),
            Ty::Quantity => json!("1Gi"),
            Ty::IntOrString => json!("25%"),
            Ty::Time => json!("2026-01-01T00:00:00Z"),
            Ty::MicroTime => json!("2026-01-01T00:00:00.000000Z"),
            Ty::Duration => json!("1m0s"),
            Ty::Raw | Ty::Fields => json!({"a": {"b": [1, "c"]}}),
            Ty::Strings => json!(["a"]),
            Ty::Message(inner) => self.message(*inner, depth + 1),
            Ty::List(inner) => {
                Value::Array((0..self.0.random_range(1..3)).map(|_| self.value(inner, name, depth)).collect())
            }
            Ty::Map(inner) => json!({"a": self.value(inner, name, depth)}),
            Ty::Or(inner, _) => self.value(inner, name, depth),
        }
    }

    fn text(&mut self, name: &str) -> String {
        let choices: &[&str] = match name {
            "name" | "serviceName" | "claimName" | "secretName" => &["a", "b"],
            "restartPolicy" => &["Always", "Never"],
            "type" => &["ClusterIP", "Opaque", "Recreate", "x"],
            "protocol" => &["TCP", "UDP"],
            "clusterIP" | "clusterIPs" | "podIP" | "ip" => &["None", "10.96.9.9"],
            "schedule" => &["* * * * *"],
            "operator" => &["In", "Exists"],
            "namespace" => &["default"],
            _ => &["a", "", "b-c", "1"],
        };
        choices[self.0.random_range(0..choices.len())].to_owned()
    }

    fn message(&mut self, ty: usize, depth: u32) -> Value {
        let mut out = Map::new();
        if depth > 7 {
            return Value::Object(out);
        }
        for field in schema().json_fields(ty) {
            let often = if depth < 2 { 0.95 } else { 0.35 };
            if field.required || self.0.random_bool(often) {
                out.insert(field.name.clone(), self.value(&field.ty, &field.name, depth));
            }
        }
        Value::Object(out)
    }
}

/// All places in a document, as JSON pointers.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            let path = format!("{at}/{}", k.replace('~', "~0").replace('/', "~1"));
            out.push(path.clone());
            places(v, &path, out);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| {
            let path = format!("{at}/{i}");
            out.push(path.clone());
            places(v, &path, out);
        }),
        _ => {}
    }
}

/// Drops, retypes or doubles something.
fn spoil(value: &mut Value, rng: &mut StdRng) {
    let mut all = Vec::new();
    places(value, "", &mut all);
    let Some(path) = all.get(rng.random_range(0..all.len().max(1))).cloned() else { return };
    let (parent, key) = path.rsplit_once('/').unwrap();
    match rng.random_range(0..6) {
        0 | 1 => match value.pointer_mut(parent) {
            Some(Value::Object(map)) => {
                map.remove(&key.replace("~1", "/").replace("~0", "~"));
            }
            Some(Value::Array(items)) => {
                items.remove(key.parse().unwrap());
            }
            _ => {}
        },
        2 => {
            if let Some(Value::Array(items)) = value.pointer_mut(parent) {
                items.extend(items.clone());
            }
        }
        _ => {
            let odd = [
                json!(null),
                json!(true),
                json!(-1),
                json!(1e300),
                json!(i64::MAX),
                json!(""),
                json!("x"),
                json!("\u{0}"),
                json!([]),
                json!({}),
                json!([null]),
                json!({"": ""}),
                json!("é".repeat(100)),
                json!(0.5),
                json!([[[]]]),
                json!("-"),
                json!("%"),
                json!("999999999999E"),
            ];
            if let Some(place) = value.pointer_mut(&path) {
                *place = odd[rng.random_range(0..odd.len())].clone();
            }
        }
    }
}

fn collection(group: &str, version: &str, plural: &str, namespaced: bool) -> String {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let namespace = if namespaced { "/namespaces/default" } else { "" };
    format!("{root}{namespace}/{plural}")
}

#[tokio::test(flavor = "multi_thread")]
async fn spoilt_objects_of_every_kind() {
    let api = Api::start().await;
    let mut rng = StdRng::seed_from_u64(SEED);
    let (mut sent, mut taken, mut wrong) = (0, 0, Vec::new());
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for desc in api.server.server.registry.all() {
        let path = collection(&desc.group, &desc.version, &desc.plural, desc.namespaced);
        let mut asks: Vec<TestRequest> = Vec::new();
        for i in 0..PER_KIND {
            let mut object = match desc.ty.built_in() {
                Some(ty) => Maker(&mut rng).message(ty, 0),
                None => {
                    json!({"spec": {"group": "example.com", "names": {"plural": "things", "kind": "Thing"}, "versions": [{"name": "v1"}]}})
                }
            };
            let name = format!("m{i}");
            object["kind"] = desc.kind.clone().into();
            object["apiVersion"] = desc.api_version().into();
            // Most reach the checks behind the first one: a good name, no finalizers that keep them.
            object["metadata"] = json!({"name": name, "labels": {"a": "b"}, "annotations": {"c": "d"}});
            let whole = object.clone();
            for _ in 0..rng.random_range(0..4) {
                spoil(&mut object, &mut rng);
            }
            asks.push(ask("POST", path.as_str()).json(&object));
            let named = format!("{path}/{name}");
            if desc.verbs.contains(&"update") {
                let mut other = whole;
                spoil(&mut other, &mut rng);
                asks.push(ask("PUT", named.clone()).json(&other));
                asks.push(patch(&named, "merge", other.to_string()));
                asks.push(patch(&named, "strategic", object.to_string()));
                asks.push(patch(&format!("{named}?fieldManager=m&force=true"), "apply", other.to_string()));
                for sub in desc.subresources.iter().filter(|s| s.gvk.is_none() && s.verbs.contains(&"update")) {
                    asks.push(ask("PUT", format!("{named}/{}", sub.name)).json(&other));
                }
                asks.push(get(named).header("accept", table));
            }
        }
        if desc.verbs.contains(&"list") {
            asks.push(get(path.as_str()));
            asks.push(get(path.as_str()).header("accept", table));
            asks.push(get(path.as_str()).header("accept", "application/yaml"));
        }
        if desc.verbs.contains(&"deletecollection") {
            asks.push(ask("DELETE", path.as_str()));
        }
        for ask in asks {
            let answer = api.send(&ask).await;
            sent += 1;
            taken += usize::from(answer.code < 300);
            if answer.code >= 500 {
                wrong.push(format!("{ask:?}\n  {}", answer.text));
            }
        }
    }
    println!("{sent} requests, {taken} taken");
    assert!(sent > 300 && taken > sent / 10, "{sent} requests, {taken} taken: the table has lost its point");
    assert!(wrong.is_empty(), "{} answers of 5xx\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(api.send(&get("/readyz")).await.code, 200);
}
