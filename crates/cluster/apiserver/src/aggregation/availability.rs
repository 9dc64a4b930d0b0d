//! Whether extension API servers answer: the condition Available
//! (`kube-aggregator/pkg/controllers/status`, `remote` and `local`).
//!
//! Looked at when an APIService, its Service or its EndpointSlices change, every 30 s, and after a failure again with a
//! growing pause. Unlike upstream, which takes any certificate for this, the check trusts whom requests will.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use kinit_component_base::metrics::global;
use kinit_component_base::supervise;
use kinit_storage::{Error as StoreError, Updated};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::backend::OwnRequest;
use super::service::{Target, condition};
use super::{PREFIX, Remote, discover, documents, register, resolve, service};
use crate::authn::{MASTERS, User};
use crate::registry::ownership::record_own;
use crate::server::Server;

/// How often what answers is asked again.
const EVERY: Duration = Duration::from_secs(30);
/// The first pause after a failure.
const FIRST: Duration = Duration::from_millis(200);
/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions of one check, sent at the same time: one answer is enough, for a Service may have several endpoints.
const ATTEMPTS: usize = 3;
/// Of an answer to a check no more is read.
const LARGEST: usize = 4 * 1024 * 1024;

/// What a check has to say: (available, reason, message).
type Verdict = (bool, &'static str, String);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Named {
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Because {
    name: String,
    reason: &'static str,
}

/// Counters under upstream's names.
#[derive(Default)]
pub struct Metrics {
    now: Family<Named, Gauge>,
    total: Family<Because, Counter>,
}

impl Metrics {
    /// Makes and registers them.
    pub fn register() -> Self {
        let out = Self::default();
        global().register("aggregator_unavailable_apiservice", "API services that are not available", out.now.clone());
        let help = "How often API services were marked unavailable, by reason";
        global().register("aggregator_unavailable_apiservice", help, out.total.clone());
        out
    }

    fn tell(&self, name: &str, (available, reason, _): &Verdict, changed: bool) {
        self.now.get_or_create(&Named { name: name.to_owned() }).set(i64::from(!available));
        if changed && !available {
            self.total.get_or_create(&Because { name: name.to_owned(), reason }).inc();
        }
    }
}

/// What a check was about.
#[derive(PartialEq)]
struct Facts {
    target: Target,
    service: Option<u64>,
    slices: Vec<u64>,
}

struct State {
    facts: Facts,
    due: Instant,
    failures: u32,
    running: bool,
}

struct Watch {
    server: Arc<Server>,
    states: HashMap<String, State>,
    checks: JoinSet<(String, Verdict)>,
    /// Local APIServices whose condition is as it should be, by revision.
    local: BTreeMap<Box<str>, u64>,
}

/// Checks for as long as the server runs.
pub async fn follow(server: &Arc<Server>) {
    server.store.wait_ready().await;
    let caches = [PREFIX, "services/specs/", "endpointslices/"].map(|prefix| server.store.cache(prefix));
    let [Some(own), Some(services), Some(slices)] = caches else { return };
    let (mut own, mut services, mut slices) = (own.changes(), services.changes(), slices.changes());
    let (states, local) = (HashMap::new(), BTreeMap::new());
    let mut watch = Watch { server: server.clone(), states, checks: JoinSet::new(), local };
    loop {
        own.borrow_and_update();
        services.borrow_and_update();
        slices.borrow_and_update();
        let complete = watch.look().await;
        let next = watch.next().min(Instant::now() + if complete { EVERY } else { Duration::from_secs(1) });
        tokio::select! {
            changed = own.changed() => if changed.is_err() { return },
            changed = services.changed(), if watch.has_remotes() => if changed.is_err() { return },
            changed = slices.changed(), if watch.has_remotes() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next) => {}
            Some(done) = watch.checks.join_next() => if let Ok((name, verdict)) = done {
                watch.done(&name, verdict).await;
            },
        }
    }
}

impl Watch {
    fn has_remotes(&self) -> bool {
        !self.states.is_empty()
    }

    fn next(&self) -> Instant {
        let waiting = self.states.values().filter(|s| !s.running).map(|s| s.due);
        waiting.min().unwrap_or_else(|| Instant::now() + EVERY)
    }

    /// Starts what is due; whether all that had to be written was.
    async fn look(&mut self) -> bool {
        let remotes = self.server.aggregator.remotes();
        self.states.retain(|name, _| remotes.iter().any(|r| r.service.name == *name));
        let mut complete = self.see_to_local_ones().await;
        for remote in remotes {
            let Some(target) = remote.service.target.clone() else { continue };
            let store = &self.server.store;
            let service = match resolve::service(store, &target) {
                Ok(service) => service,
                Err(error) => {
                    tracing::error!(%error, name = remote.service.name, "an API service is not judged");
                    continue;
                }
            };
            let slices = resolve::slices(store, &target);
            let facts = Facts {
                target: target.clone(),
                service: service.as_ref().map(|entry| entry.revision),
                slices: slices.iter().map(|entry| entry.revision).collect(),
            };
            let name = &remote.service.name;
            let state = self.states.get_mut(name);
            if let Some(state) = &state
                && (state.running || (state.facts == facts && state.due > Instant::now() && remote.service.is_judged))
            {
                continue;
            }
            let failures = state.filter(|s| s.facts == facts).map_or(0, |s| s.failures);
            let (service, slices) = (service.map(|e| e.value()), slices.iter().map(|e| e.value()).collect::<Vec<_>>());
            let problem = resolve::problem(&target, service.as_ref(), &slices);
            let running = problem.is_none();
            self.states.insert(name.clone(), State { facts, due: Instant::now() + EVERY, failures, running });
            match problem {
                Some((reason, message)) => complete &= self.tell(name, &(false, reason, message)).await,
                None => self.start(remote),
            }
        }
        complete
    }

    fn start(&mut self, remote: Arc<Remote>) {
        let server = self.server.clone();
        self.checks.spawn(async move {
            let name = remote.service.name.clone();
            let checked = supervise::outcome(check(&server, &remote)).await;
            (
                name,
                checked.unwrap_or_else(|panic| (false, "FailedDiscoveryCheck", format!("the check failed: {panic}"))),
            )
        });
    }

    async fn done(&mut self, name: &str, verdict: Verdict) {
        if let Some(state) = self.states.get_mut(name) {
            state.running = false;
            state.failures = if verdict.0 { 0 } else { state.failures.saturating_add(1) };
            let pause = FIRST * 2u32.pow(state.failures.saturating_sub(1).min(8));
            state.due = Instant::now() + if verdict.0 { EVERY } else { pause.min(EVERY) };
        }
        self.tell(name, &verdict).await;
    }

    async fn tell(&self, name: &str, verdict: &Verdict) -> bool {
        match write(&self.server, name, verdict).await {
            Ok(changed) => {
                self.server.aggregator.unavailable.tell(name, verdict, changed);
                true
            }
            Err(error) => {
                tracing::warn!(%error, name, "write the condition of an API service; trying again");
                false
            }
        }
    }

    /// Local ones are always available; those that this server registers are born so.
    async fn see_to_local_ones(&mut self) -> bool {
        let Some(cache) = self.server.store.cache(PREFIX) else { return true };
        let (entries, _) = cache.all_last_known("", |entry| entry.field(service::REMOTE) != Some("true"));
        self.local.retain(|name, _| entries.iter().any(|entry| entry.key == *name));
        let mut complete = true;
        for entry in entries {
            if self.local.get(&entry.key) == Some(&entry.revision) {
                continue;
            }
            let verdict = (true, "Local", register::LOCAL.to_owned());
            match write(&self.server, &entry.key, &verdict).await {
                Ok(_) => {
                    self.local.insert(entry.key.clone(), entry.revision);
                }
                Err(error) => {
                    tracing::warn!(%error, name = %entry.key, "write the condition of an API service; trying again");
                    complete = false;
                }
            }
        }
        complete
    }
}

/// Asks for the discovery that every API server has, and keeps what it says when it answers.
async fn check(server: &Server, remote: &Remote) -> Verdict {
    if let Err(problem) = answers(remote).await {
        return (false, "FailedDiscoveryCheck", problem);
    }
    discover::refresh(server, remote).await;
    documents::refresh(server, remote).await;
    (true, "Passed", "all checks passed".into())
}

async fn answers(remote: &Remote) -> Result<(), String> {
    let path = remote.service.path();
    let url = match remote.backend.address() {
        Ok(address) => format!("https://{address}{path}"),
        Err(problem) => return Err(format!("failing or missing response from {path}: {problem}")),
    };
    let user = User { name: "system:kube-aggregator".into(), groups: vec![MASTERS.into()], ..User::default() };
    let request = OwnRequest { path: &path, accept: "application/json", tag: "", limit: LARGEST, patience: PATIENCE };
    let one = async || match remote.backend.get(&request, &user).await {
        Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
        Ok(answer) => Err(format!("failing or missing response from {url}: bad status from {url}: {}", answer.status)),
        Err(problem) => Err(format!("failing or missing response from {url}: Get \"{url}\": {problem}")),
    };
    let attempts = (0..ATTEMPTS).map(|_| Box::pin(one()));
    futures::future::select_ok(attempts).await.map(|_| ())
}

/// The object with this condition Available; `None` when it has it already. The time of the transition stays when the
/// status does (`SetAPIServiceCondition`).
pub fn with_condition(object: &Value, available: bool, reason: &str, message: &str) -> Option<Value> {
    let status = if available { "True" } else { "False" };
    let old = condition(object);
    let same = |c: &Value| {
        c.str_at(&["status"]) == status && c.str_at(&["reason"]) == reason && c.str_at(&["message"]) == message
    };
    if old.is_some_and(same) {
        return None;
    }
    let since = old.filter(|c| c.str_at(&["status"]) == status).map(|c| c.str_at(&["lastTransitionTime"]).to_owned());
    let since = since.unwrap_or_else(|| time::format(Timestamp::now()));
    let new = json!({"type": "Available", "status": status, "lastTransitionTime": since, "reason": reason,
        "message": message});
    let mut out = object.clone();
    let conditions = out.object_at(&["status"])?.entry("conditions").or_insert_with(|| Value::Array(Vec::new()));
    let list = conditions.as_array_mut()?;
    match list.iter_mut().find(|c| c.str_at(&["type"]) == "Available") {
        Some(known) => *known = new,
        None => list.push(new),
    }
    record_own(&mut out, Some(object), "status");
    Some(out)
}

/// Writes a condition; whether it was another.
async fn write(server: &Server, name: &str, (available, reason, message): &Verdict) -> Result<bool, StoreError> {
    let mut current = server.store.cache(PREFIX).and_then(|cache| cache.last_known(name)).map(|entry| (*entry).clone());
    for _ in 0..8 {
        let Some(entry) = current else { return Ok(false) };
        let Some(object) = with_condition(&entry.value(), *available, reason, message) else { return Ok(false) };
        match server.store.update(PREFIX, name, entry.revision, &object, None).await? {
            Updated::Done(_) => {
                tracing::info!(name, available, reason, message, "an API service's availability changed");
                return Ok(true);
            }
            Updated::Changed(now) => current = now,
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_conditions_stay_and_times_only_move_with_the_status() {
        let mut object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.a.b"},
            "spec": {"groupPriorityMinimum": 1, "versionPriority": 1},
            "status": {"conditions": [{"type": "Mine", "status": "True"}, {"type": "Available", "status": "False",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "ServiceNotFound", "message": "m"}]}});
        record_own(&mut object, None, "");
        assert_eq!(with_condition(&object, false, "ServiceNotFound", "m"), None);
        let other = with_condition(&object, false, "MissingEndpoints", "m").unwrap();
        assert_eq!(other["status"]["conditions"][0]["type"], "Mine");
        assert_eq!(other["status"]["conditions"][1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(other["status"]["conditions"][1]["reason"], "MissingEndpoints");
        let turned = with_condition(&object, true, "Passed", "all checks passed").unwrap();
        assert_ne!(turned["status"]["conditions"][1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        let owners = turned["metadata"]["managedFields"].as_array().unwrap();
        let status = owners.iter().find(|owner| owner["subresource"] == "status").unwrap();
        assert_eq!(status["manager"], "kube-apiserver");
    }
}
