//! Priority and fairness: who waits when there is more to do than the server can
//! (<https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>).
//!
//! ```text
//! request ─ FlowSchemas (config) ─▶ level and flow ─▶ Level: seats or a queue (level, queues) ─▶ work
//! objects in the caches ─ follow ─▶ Fairness::configure      every 10 s ─▶ Fairness::lend (allocation)
//! ```

pub mod allocation;
pub mod config;
pub mod defaults;
pub mod estimate;
mod level;
pub mod metrics;
pub mod queues;

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

pub use config::{Digest, LevelConfig, Schema};
pub use level::{Level, Ticket};
use metrics::{Metrics, Of};
use queues::Refused;

/// What decides who waits.
#[derive(Debug)]
pub struct Fairness {
    total: u32,
    metrics: Metrics,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By precedence.
    schemas: Vec<Placed>,
    levels: HashMap<String, Arc<Level>>,
}

#[derive(Debug)]
struct Placed {
    schema: Schema,
    level: Arc<Level>,
    level_uid: String,
}

/// Where a request belongs.
#[derive(Debug, Clone)]
pub struct Class {
    /// UID of its FlowSchema.
    pub schema_uid: String,
    /// UID of its PriorityLevelConfiguration.
    pub level_uid: String,
    level: Arc<Level>,
    of: Of,
    flow: u64,
}

impl Class {
    /// The most seats a request may take there.
    pub fn most_seats(&self) -> u32 {
        self.level.most_seats()
    }

    /// Waits for seats.
    pub async fn enter(&self, seats: u32, patience: Duration) -> Result<Ticket, Refused> {
        self.level.enter(self.of.clone(), seats, self.flow, patience).await
    }
}

impl Fairness {
    /// With the objects that there are at first.
    pub fn new(total: u32, metrics: Metrics) -> Self {
        let out = Self { total, metrics, state: RwLock::default() };
        out.configure(Vec::new(), Vec::new());
        out
    }

    /// Where a request belongs; there is always a last schema.
    pub fn classify(&self, digest: &Digest<'_>) -> Option<Class> {
        let state = self.state.read();
        let placed = state.schemas.iter().find(|placed| placed.schema.matches(digest))?;
        let mut hasher = DefaultHasher::new();
        (&placed.schema.name, placed.schema.flow(digest)).hash(&mut hasher);
        Some(Class {
            schema_uid: placed.schema.uid.clone(),
            level_uid: placed.level_uid.clone(),
            level: placed.level.clone(),
            of: Of { priority_level: placed.level.name.clone(), flow_schema: placed.schema.name.clone() },
            flow: hasher.finish(),
        })
    }

    /// Takes new objects; those that are missing of the mandatory ones are taken as they are at first. A schema whose
    /// level does not exist matches nothing.
    pub fn configure(&self, mut schemas: Vec<Schema>, mut levels: Vec<LevelConfig>) {
        for level in defaults::levels().iter().map(LevelConfig::of) {
            if defaults::is_mandatory(&level.name) && levels.iter().all(|l| l.name != level.name) {
                levels.push(level);
            }
        }
        for schema in defaults::schemas().iter().map(Schema::of) {
            if defaults::is_mandatory(&schema.name) && schemas.iter().all(|s| s.name != schema.name) {
                schemas.push(schema);
            }
        }
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let bounds = allocation::bounds(self.total, &levels);
        let mut state = self.state.write();
        let mut uids = HashMap::new();
        let mut known = HashMap::new();
        for (config, bounds) in levels.into_iter().zip(bounds) {
            let existing = state.levels.remove(&config.name);
            let level = existing.unwrap_or_else(|| Level::new(config.clone(), self.metrics.clone()));
            uids.insert(config.name.clone(), config.uid.clone());
            known.insert(config.name.clone(), level.clone());
            level.configure(config, bounds);
        }
        // Requests that are in a level which is gone end there.
        state.levels.keys().for_each(|gone| self.metrics.forget(gone));
        state.levels = known;
        let levels = &state.levels;
        let placed = schemas.into_iter().filter_map(|schema| {
            let level = levels.get(&schema.level)?.clone();
            let level_uid = uids.get(&schema.level).cloned().unwrap_or_default();
            Some(Placed { schema, level, level_uid })
        });
        state.schemas = placed.collect();
    }

    /// Names of the levels that exist.
    pub fn levels(&self) -> HashSet<String> {
        self.state.read().levels.keys().cloned().collect()
    }

    /// Divides the seats anew by what was needed since the last time.
    pub fn lend(&self) {
        let levels: Vec<Arc<Level>> = self.state.read().levels.values().cloned().collect();
        let limited: Vec<&Arc<Level>> = levels.iter().filter(|level| !level.look().config.exempt).collect();
        let needed: Vec<_> = limited.iter().map(|level| level.needed()).collect();
        for (level, seats) in limited.iter().zip(allocation::current(self.total, &needed)) {
            level.set_seats(seats);
        }
    }

    /// The levels, a line each (`dump_priority_levels`).
    pub fn dump_levels(&self) -> String {
        let mut text = "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, \
                        ExecutingSeats, CurrentLimitSeats\n"
            .to_owned();
        for look in self.looks() {
            let (waiting, running) = look.requests;
            let (name, active, used, seats) = (&look.name, look.queues.len(), look.used, look.seats);
            let idle = waiting + running == 0;
            writeln!(text, "{name}, {active}, {idle}, false, {waiting}, {running}, {used}, {seats}").ok();
        }
        text
    }

    /// The queues that have requests, a line each (`dump_queues`).
    pub fn dump_queues(&self) -> String {
        let mut text = "PriorityLevelName, Index, PendingRequests, ExecutingRequests, NextDispatchR\n".to_owned();
        for look in self.looks() {
            for (index, waiting, running, next) in &look.queues {
                writeln!(text, "{}, {index}, {waiting}, {running}, {next:.6}", look.name).ok();
            }
        }
        text
    }

    fn looks(&self) -> Vec<level::Look> {
        let mut looks: Vec<level::Look> = self.state.read().levels.values().map(|level| level.look()).collect();
        looks.sort_by(|a, b| a.name.cmp(&b.name));
        looks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Fairness {
        let fairness = Fairness::new(600, Metrics::default());
        fairness.configure(
            defaults::schemas().iter().map(Schema::of).collect(),
            defaults::levels().iter().map(LevelConfig::of).collect(),
        );
        fairness
    }

    fn of(fairness: &Fairness, user: &str, groups: &[&str], ask: (&str, &str, &str, &str)) -> String {
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let (verb, group, resource, namespace) = ask;
        let digest = Digest { user, groups: &groups, verb, is_resource: true, group, resource, namespace, path: "" };
        fairness.classify(&digest).unwrap().of.flow_schema
    }

    #[test]
    fn requests_of_a_cluster_go_where_upstream_sends_them() {
        let fairness = all();
        let lease = |verb, namespace| (verb, "coordination.k8s.io", "leases", namespace);
        for (user, groups, ask, expected) in [
            ("admin", &["system:masters", "system:authenticated"][..], ("list", "", "pods", ""), "exempt"),
            (
                "system:kube-scheduler",
                &["system:authenticated"],
                lease("update", "kube-system"),
                "system-leader-election",
            ),
            ("system:kube-scheduler", &["system:authenticated"], ("list", "", "pods", ""), "kube-scheduler"),
            ("system:node:a", &["system:nodes"], lease("update", "kube-node-lease"), "system-node-high"),
            ("system:node:a", &["system:nodes"], ("patch", "", "nodes/status", ""), "system-node-high"),
            ("system:node:a", &["system:nodes"], ("get", "", "secrets", "a"), "system-nodes"),
            (
                "system:serviceaccount:kube-system:x",
                &["system:serviceaccounts"],
                lease("get", "a"),
                "workload-leader-election",
            ),
            (
                "system:serviceaccount:kube-system:x",
                &["system:serviceaccounts"],
                ("get", "", "pods", "a"),
                "kube-system-service-accounts",
            ),
            ("system:serviceaccount:a:x", &["system:serviceaccounts"], ("get", "", "pods", "a"), "service-accounts"),
            ("bob", &["system:authenticated"], ("get", "", "pods", "a"), "global-default"),
            ("nobody", &[], ("get", "", "pods", "a"), ""),
        ] {
            if expected.is_empty() {
                let digest = Digest {
                    user,
                    groups: &[],
                    verb: "get",
                    is_resource: true,
                    group: "",
                    resource: "pods",
                    namespace: "a",
                    path: "",
                };
                assert!(fairness.classify(&digest).is_none(), "{user} is in no group");
            } else {
                assert_eq!(of(&fairness, user, groups, ask), expected, "{user} {ask:?}");
            }
        }
    }

    #[test]
    fn the_mandatory_objects_are_there_without_any() {
        let fairness = Fairness::new(600, Metrics::default());
        assert_eq!(of(&fairness, "bob", &["system:authenticated"], ("get", "", "pods", "a")), "catch-all");
        assert_eq!(fairness.levels().len(), 2);
        let mut dangling = Schema::of(&defaults::schemas()[2]);
        dangling.level = "nowhere".into();
        fairness.configure(vec![dangling], Vec::new());
        assert_eq!(fairness.state.read().schemas.len(), 2);
        assert!(
            fairness.dump_levels().contains("\ncatch-all, 0, true, false, 0, 0, 0, 600\n"),
            "{}",
            fairness.dump_levels()
        );
    }

    #[tokio::test]
    async fn an_idle_level_lends_its_seats() {
        let fairness = all();
        let groups = ["system:serviceaccounts".to_owned()];
        let digest = Digest {
            user: "a",
            groups: &groups,
            verb: "list",
            is_resource: true,
            group: "",
            resource: "pods",
            namespace: "",
            path: "",
        };
        let class = fairness.classify(&digest).unwrap();
        let mut inside = Vec::new();
        while let Ok(ticket) = class.enter(10, Duration::from_millis(1)).await {
            inside.push(ticket);
        }
        let before = inside.len();
        assert!(before >= 20, "{before}");
        fairness.lend();
        while let Ok(ticket) = class.enter(10, Duration::from_millis(1)).await {
            inside.push(ticket);
        }
        assert!(inside.len() > before, "{} seats of ten", inside.len());
        drop(inside);
        assert!(fairness.looks().iter().all(|look| look.used == 0));
    }
}
