//! The audit log of a running server.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::client::{ADMIN, Api};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Audited {
    api: Api,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

fn policy(dir: &Path, rules: &Value) -> String {
    let path = dir.join("policy.yaml");
    let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitManagedFields": true, "rules": rules});
    std::fs::write(&path, policy.to_string()).unwrap();
    format!("--audit-policy-file={}", path.display())
}

impl Audited {
    async fn start(rules: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit.log");
        let flags = [policy(dir.path(), rules), format!("--audit-log-path={}", log.display())];
        let api = Api::start_with(&[&flags[0], &flags[1]]).await;
        Self { api, log, _dir: dir }
    }

    /// The events of requests whose URI begins so.
    fn events(&self, uri: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        let events = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        events.filter(|e| e["requestURI"].as_str().unwrap().starts_with(uri)).collect()
    }

    /// Stage and code of those events.
    fn stages(&self, uri: &str) -> Vec<(String, u64)> {
        let stage =
            |e: &Value| (e["stage"].as_str().unwrap().to_owned(), e["responseStatus"]["code"].as_u64().unwrap_or(0));
        self.events(uri).iter().map(stage).collect()
    }

    async fn until(&self, uri: &str, count: usize) {
        let enough = async {
            while self.events(uri).len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), enough)
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.stages(uri)));
    }
}

fn stages(list: &[(&str, u64)]) -> Vec<(String, u64)> {
    list.iter().map(|(stage, code)| ((*stage).to_owned(), *code)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_noted() {
    let audited = Audited::start(&json!([{"level": "Metadata"}])).await;
    let stranger = audited.api.server.stranger().unwrap().build().unwrap();
    let url = audited.api.server.plane.url();
    let answer = stranger.get(format!("{url}{MAPS}/x")).bearer_auth("no.such.token").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    let id = answer.headers()["audit-id"].to_str().unwrap().to_owned();
    let [event] = <[Value; 1]>::try_from(audited.events(&format!("{MAPS}/x"))).unwrap();
    assert_eq!(event["auditID"], id.as_str());
    assert_eq!((&event["stage"], &event["user"]), (&json!("ResponseStarted"), &json!({})));
    assert_eq!(event["responseStatus"]["code"], 401);
    assert_eq!(event["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert_eq!(event["objectRef"]["name"], "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_complete_when_it_ends() {
    let audited = Audited::start(&json!([{"level": "RequestResponse"}])).await;
    let path = format!("{MAPS}?watch=1&timeoutSeconds=30");
    assert_eq!(audited.api.get("jane", &path).await.code, 403);
    let want = stages(&[("RequestReceived", 0), ("ResponseStarted", 403), ("ResponseComplete", 403)]);
    audited.until(&path, 3).await;
    assert_eq!(audited.stages(&path), want);
    let refused = audited.events(&path);
    assert_eq!(refused[1]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(refused[2]["responseStatus"]["reason"], "Forbidden");

    let path = format!("{MAPS}?watch=1&timeoutSeconds=31");
    let url = format!("{}{path}", audited.api.server.plane.url());
    let response = audited.api.client.get(url).send().await.unwrap();
    audited.until(&path, 2).await;
    audited.api.create(MAPS, &json!({"metadata": {"name": "m"}})).await;
    let mut stream = response.bytes_stream();
    stream.next().await.unwrap().unwrap();
    assert_eq!(audited.stages(&path), stages(&[("RequestReceived", 0), ("ResponseStarted", 200)]), "it goes on");
    drop(stream);
    audited.until(&path, 3).await;
    let last = audited.events(&path).remove(2);
    assert_eq!((&last["stage"], &last["responseStatus"]["code"]), (&json!("ResponseComplete"), &json!(200)));
    assert!(last.get("responseObject").is_none(), "a stream is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_as_the_level_says() {
    let rules = json!([
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
        {"level": "Request", "verbs": ["delete"]},
        {"level": "RequestResponse", "omitStages": ["RequestReceived"]}
    ]);
    let audited = Audited::start(&rules).await;
    let api = &audited.api;
    let yaml = Some(("application/yaml", "metadata: {name: m}\ndata: {k: v}\n".to_owned()));
    assert_eq!(api.ask(ADMIN, "POST", MAPS, yaml).await.code, 201);
    let [event] = <[Value; 1]>::try_from(audited.events(MAPS)).unwrap();
    assert_eq!((&event["level"], &event["stage"]), (&json!("RequestResponse"), &json!("ResponseComplete")));
    assert_eq!(event["requestObject"]["data"], json!({"k": "v"}));
    assert_eq!(event["responseObject"]["data"], json!({"k": "v"}));
    assert!(event["responseObject"]["metadata"]["uid"].is_string(), "{event}");

    let applied = format!("{MAPS}/m?fieldManager=f");
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {l: w}\n".to_owned();
    assert_eq!(api.ask(ADMIN, "PATCH", &applied, Some(("application/apply-patch+yaml", body))).await.code, 200);
    let event = audited.events(&applied).remove(0);
    assert_eq!(event["requestObject"]["data"], json!({"l": "w"}));
    assert!(event["responseObject"]["metadata"].get("managedFields").is_none(), "they are omitted: {event}");
    let shown = api.get(ADMIN, &format!("{MAPS}/m")).await.body;
    assert!(shown["metadata"]["managedFields"].is_array(), "but the client has them");

    let options = Some(("application/json", json!({"gracePeriodSeconds": 0}).to_string()));
    let gone = format!("{MAPS}/m?delete");
    assert_eq!(api.ask(ADMIN, "DELETE", &gone, options).await.code, 200);
    let events = audited.events(&gone);
    assert_eq!(events[1]["requestObject"]["gracePeriodSeconds"], 0);
    assert!(events[1].get("responseObject").is_none());
    let missing = format!("{MAPS}/missing");
    assert_eq!(api.get(ADMIN, &missing).await.code, 404);
    let event = audited.events(&missing).remove(0);
    assert_eq!(
        (&event["responseStatus"]["reason"], &event["responseObject"]["code"]),
        (&json!("NotFound"), &json!(404))
    );
    let secrets = "/api/v1/namespaces/default/secrets";
    api.create(secrets, &json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden"}})).await;
    assert!(!std::fs::read_to_string(&audited.log).unwrap().contains("hidden"));
}

/// The rules are about who really asks: impersonating somebody who is not logged does not hide anybody.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_hides_behind_another() {
    let rules = json!([{"level": "None", "users": ["quiet"]}, {"level": "Metadata"}]);
    let audited = Audited::start(&rules).await;
    audited.api.get("quiet", &format!("{MAPS}/a")).await;
    let event = audited.events(&format!("{MAPS}/a")).pop().unwrap();
    assert_eq!(event["impersonatedUser"]["username"], "quiet");
}

/// Lets the pipe flow again.
struct Flow(Arc<AtomicBool>);

impl Drop for Flow {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Reads a pipe to its end, in a thread, while `flowing`.
fn read_while(path: std::path::PathBuf, flowing: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut file = std::fs::File::open(path).unwrap();
        let (mut all, mut part) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            if !flowing.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            match file.read(&mut part).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&part[..n]),
            }
        }
    })
}

/// A log that nobody reads from holds requests back; when it is read again, nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_log_loses_nothing() {
    const REQUESTS: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("audit.log");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let flow = Arc::new(AtomicBool::new(true));
    let reader = read_while(pipe.clone(), flow.clone());
    let rules = json!([{"level": "Metadata", "resources": [{"group": "", "resources": ["configmaps"]}]}]);
    let flags = [policy(dir.path(), &rules), format!("--audit-log-path={}", pipe.display())];
    let api = Arc::new(Api::start_with(&[&flags[0], &flags[1]]).await);
    flow.store(false, Ordering::Release);
    // Dropped before the server, which waits for its log: a failure ends the test.
    let _flows_again = Flow(flow.clone());
    let asking: Vec<_> = (0..REQUESTS)
        .map(|i| {
            let api = api.clone();
            tokio::spawn(async move { api.get(ADMIN, &format!("{MAPS}/m{i}")).await.code })
        })
        .collect();
    // Answers come until the pipe is full, and then no more: perhaps none, when it is full of first stages.
    let answered = || asking.iter().filter(|a| a.is_finished()).count();
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = answered();
        assert!(now < REQUESTS, "all are answered, with a log that takes 64 KiB");
        if now == before {
            break;
        }
        before = now;
    }
    flow.store(true, Ordering::Release);
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 404);
    }
    let api = Arc::into_inner(api).unwrap();
    let server = api.server.server.clone();
    drop(api);
    // The writing end is closed when nobody holds the server any more.
    let ended = async {
        while Arc::strong_count(&server) > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.unwrap();
    drop(server);
    let text = String::from_utf8(reader.join().unwrap()).unwrap();
    let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for stage in ["RequestReceived", "ResponseComplete"] {
        let count = |e: &&Value| e["stage"] == stage && e["requestURI"].as_str().unwrap().starts_with(MAPS);
        assert_eq!(events.iter().filter(count).count(), REQUESTS, "{stage}");
    }
}
