//! The deprecated watch paths, and paths that name a namespace.

use serde_json::json;

use crate::client::{ADMIN, Api, collection};
use crate::objects;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const WATCH: &str = "/api/v1/watch/namespaces/default/secrets";

#[tokio::test(flavor = "multi_thread")]
async fn who_may_watch_one_secret_sees_one() {
    let api = Api::start().await;
    for name in ["mine", "other"] {
        api.create(SECRETS, &json!({"metadata": {"name": name}, "stringData": {"k": name}})).await;
    }
    let rule = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mine"], "verbs": ["watch"]});
    api.allow("jane", "default", &rule).await;
    assert_eq!(api.watched("jane", &format!("{WATCH}/mine")).await, (200, vec!["mine".to_owned()]));
    let same = format!("{WATCH}/mine?fieldSelector=metadata.name%3Dmine");
    assert_eq!(api.watched("jane", &same).await, (200, vec!["mine".to_owned()]));
    let selected = format!("{SECRETS}?watch=1&fieldSelector=metadata.name%3Dmine");
    assert_eq!(api.watched("jane", &selected).await, (200, vec!["mine".to_owned()]));
    for (path, code) in [
        (format!("{WATCH}/mine?fieldSelector=metadata.name%3Dother"), 400),
        (format!("{WATCH}/mine?fieldSelector=type%3DOpaque"), 400),
        (format!("{WATCH}/mine?fieldSelector=metadata.name!%3Dmine"), 400),
        (format!("{WATCH}/other"), 403),
        (WATCH.to_owned(), 403),
        ("/api/v1/watch/secrets".to_owned(), 403),
        // Authorized for the name, but there is no such path.
        (format!("{WATCH}/mine/status"), 403),
        ("/api/v1/watch/secrets/mine".to_owned(), 403),
    ] {
        assert_eq!(api.watched("jane", &path).await.0, code, "{path}");
    }
    assert_eq!(api.watched(ADMIN, "/api/v1/watch/secrets/mine").await.0, 404);
    let object = json!({"metadata": {"name": "new"}});
    assert_eq!(api.post(ADMIN, WATCH, &object).await.code, 405, "nothing is written through a watch path");
    assert_eq!(api.delete(ADMIN, &format!("{WATCH}/mine")).await.code, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_watched_by_name() {
    let api = Api::start().await;
    api.default_account().await;
    api.custom_kinds().await;
    let mut watches = Vec::new();
    for desc in api.server.server.registry.all().iter().filter(|d| d.verbs.contains(&"watch")) {
        for name in ["w-one", "w-two"] {
            let (path, full) = (collection(desc, false), objects::name(desc, name));
            // Two faces of one stored kind share the object.
            if api.get(ADMIN, &format!("{path}/{full}")).await.code == 404 {
                api.create(&path, &objects::of(desc, name)).await;
            }
        }
        let name = objects::name(desc, "w-one");
        watches.push((format!("{}/{name}", collection(desc, true)), name));
    }
    assert!(watches.len() > 50, "{} kinds", watches.len());
    let asked = watches.iter().map(|(path, _)| api.watched(ADMIN, path));
    for ((path, name), got) in watches.iter().zip(futures::future::join_all(asked).await) {
        assert_eq!(got, (200, vec![name.clone()]), "{path}");
    }
}

/// A role in a namespace is a right to that namespace's object, not to others by a path below it.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespaces_administrator_stays_there() {
    let api = Api::start().await;
    for name in ["own", "victim"] {
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
    }
    api.allow("olga", "own", &json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})).await;
    let own = api.get("olga", "/api/v1/namespaces/own").await;
    assert_eq!(own.code, 200, "{}", own.text);
    assert_eq!(api.watched("olga", "/api/v1/watch/namespaces/own").await, (200, vec!["own".to_owned()]));
    for path in ["/api/v1/namespaces", "/api/v1/namespaces/victim", "/api/v1/watch/namespaces/victim"] {
        assert_eq!(api.get("olga", path).await.code, 403, "{path}");
    }
    for path in ["", "/victim", "/own", "/victim/status", "/victim/finalize"] {
        let path = format!("/api/v1/namespaces/own/namespaces{path}");
        for method in ["GET", "PUT", "PATCH", "DELETE"] {
            assert_eq!(api.ask("olga", method, &path, None).await.code, 404, "{method} {path}");
        }
    }
    let object = json!({"metadata": {"name": "new"}});
    assert_eq!(api.post("olga", "/api/v1/namespaces/own/namespaces", &object).await.code, 404);
    assert_eq!(api.get(ADMIN, "/api/v1/namespaces/victim").await.body["status"]["phase"], "Active");
}
