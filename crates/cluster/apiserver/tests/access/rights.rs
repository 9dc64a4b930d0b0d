//! Whoever has no rights gets 403 everywhere, and nothing else.

use kinit_apiserver::resources::Descriptor;
use serde_json::json;

use crate::client::{ADMIN, Api, collection};
use crate::objects;

/// What everybody who is known may create: questions about themselves (`system:basic-user`).
const OPEN: [&str; 3] = ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"];

/// Every request there is for a kind, also those it does not allow: authorization comes first.
fn requests(desc: &Descriptor) -> Vec<(&'static str, String)> {
    let path = collection(desc, false);
    let everywhere = path.replace("/namespaces/default", "");
    let mut out = Vec::new();
    for path in [path.clone(), everywhere] {
        out.extend([
            ("GET", path.clone()),
            ("GET", format!("{path}?watch=true")),
            ("DELETE", path.clone()),
            ("POST", path),
        ]);
    }
    let held = objects::name(desc, "held");
    let named = format!("{path}/{held}");
    out.push(("GET", format!("{path}?fieldSelector=metadata.name%3Dheld")));
    out.push(("GET", format!("{path}?watch=1&fieldSelector=metadata.name%3Dheld")));
    let watch = collection(desc, true);
    out.extend([
        ("GET", watch.clone()),
        ("GET", format!("{watch}/{held}")),
        ("GET", watch.replace("/namespaces/default", "")),
    ]);
    let subs = desc.subresources.iter().map(|s| format!("{named}/{}", s.name));
    for path in subs.chain([named.clone()]) {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"] {
            out.push((method, path.clone()));
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rights_there_is_nothing() {
    let api = Api::start().await;
    api.default_account().await;
    api.custom_kinds().await;
    let (mut wrong, mut sent) = (Vec::new(), 0);
    let kinds = api.server.server.registry.all();
    assert_eq!(kinds.iter().filter(|d| d.custom.is_some()).count(), 3, "versions of custom kinds");
    for desc in &kinds {
        if !desc.prefix.is_empty()
            && api.get(ADMIN, &format!("{}/{}", collection(desc, false), objects::name(desc, "held"))).await.code == 404
        {
            let mut object = objects::of(desc, "held");
            object["metadata"]["annotations"] = json!({"example.com/leak": "do-not-show"});
            api.create(&collection(desc, false), &object).await;
        }
        for (method, path) in requests(desc) {
            if method == "POST" && OPEN.contains(&desc.plural.as_str()) {
                continue;
            }
            let body = matches!(method, "PUT" | "PATCH" | "POST").then(|| {
                let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
                (media, json!({"metadata": {"name": objects::name(desc, "held")}}).to_string())
            });
            let answer = api.ask("nobody", method, &path, body).await;
            sent += 1;
            let quiet = method == "HEAD" || (answer.body["kind"] == "Status" && answer.body["reason"] == "Forbidden");
            if answer.code != 403 || !quiet || answer.text.contains("do-not-show") {
                wrong.push(format!(
                    "{method} {path}: {} {}",
                    answer.code,
                    answer.text.chars().take(200).collect::<String>()
                ));
            }
        }
    }
    for path in [
        "/metrics",
        "/metrics/",
        "/logs",
        "/debug/pprof",
        "/nothing",
        "/api/v1/watch",
        "/apis/none.example.com/v1/nones",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE"] {
            let answer = api.ask("nobody", method, path, None).await;
            sent += 1;
            if answer.code != 403 {
                wrong.push(format!("{method} {path}: {}", answer.code));
            }
        }
    }
    assert!(sent > 1500, "{sent} requests");
    assert!(wrong.is_empty(), "{} of {sent} wrong\n{}", wrong.len(), wrong.join("\n"));
}
