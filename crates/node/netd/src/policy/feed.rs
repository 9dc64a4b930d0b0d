//! Watches, and what policies need to know of each object. Whole objects are not kept: a node hears of every pod of the
//! cluster.

use std::collections::HashSet;
use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod as WrittenPod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kinit_client::Rewatch;
use kinit_component_base::{Shutdown, supervise};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::parse::{self, Policy};
use super::pods::Pod;
use super::{Id, Labels};

/// Something that policies depend on has changed.
#[derive(Debug)]
pub enum News {
    /// A namespace and its labels.
    Namespace(String, Option<Labels>),
    /// A pod.
    Pod(Id, Option<Box<Pod>>),
    /// A policy.
    Policy(Id, Option<Box<Policy>>),
    /// All there is of a kind has been told.
    Complete(Kind),
}

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Namespaces.
    Namespaces,
    /// Pods.
    Pods,
    /// Policies.
    Policies,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Namespaces, Self::Pods, Self::Policies];
}

/// So many news wait at most; a watch waits for the rest.
const QUEUE: usize = 4096;

/// Watches all three until `shutdown`, as the node `own`.
pub fn start(client: &Client, own: &str, shutdown: &Shutdown) -> Receiver<News> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let own = own.to_owned();
    let namespaces = Feed {
        kind: Kind::Namespaces,
        sender: sender.clone(),
        reported: |id: Id, object: Option<&Namespace>| {
            News::Namespace(id.name, object.map(|o| o.metadata.labels.clone().unwrap_or_default()))
        },
    };
    let pods = Feed {
        kind: Kind::Pods,
        sender: sender.clone(),
        reported: move |id: Id, object: Option<&WrittenPod>| {
            News::Pod(id, object.and_then(|pod| Pod::of(pod, &own)).map(Box::new))
        },
    };
    let policies = Feed {
        kind: Kind::Policies,
        sender,
        reported: |id: Id, object: Option<&NetworkPolicy>| News::Policy(id, object.map(|o| Box::new(parse::policy(o)))),
    };
    namespaces.spawn(Api::all(client.clone()), shutdown);
    pods.spawn(Api::all(client.clone()), shutdown);
    policies.spawn(Api::all(client.clone()), shutdown);
    receiver
}

struct Feed<F> {
    kind: Kind,
    sender: Sender<News>,
    /// What is told of an object that is there, or gone.
    reported: F,
}

impl<F> Feed<F> {
    fn spawn<K>(self, api: Api<K>, shutdown: &Shutdown)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        F: Fn(Id, Option<&K>) -> News + Send + Sync + 'static,
    {
        let until = shutdown.clone();
        supervise::vital(format!("watch of {:?}", self.kind), shutdown, async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = self.run(api) => {}
            }
        });
    }

    /// Ends when nobody listens any more.
    async fn run<K>(self, api: Api<K>)
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        F: Fn(Id, Option<&K>) -> News,
    {
        let mut stream = std::pin::pin!(watcher::watcher(api, watcher::Config::default()).backoff(Rewatch::default()));
        let mut seen = Seen::default();
        while let Some(event) = stream.next().await {
            let news = match event {
                Ok(event) => self.news(event, &mut seen),
                Err(error) => {
                    tracing::warn!(kind = ?self.kind, %error, "watch failed, trying again");
                    continue;
                }
            };
            for one in news {
                if self.sender.send(one).await.is_err() {
                    return;
                }
            }
        }
    }

    fn news<K: Resource>(&self, event: Event<K>, seen: &mut Seen) -> Vec<News>
    where
        F: Fn(Id, Option<&K>) -> News,
    {
        match event {
            Event::Apply(object) => {
                let id = id(&object);
                seen.known.insert(id.clone());
                vec![(self.reported)(id, Some(&object))]
            }
            Event::Delete(object) => {
                let id = id(&object);
                seen.known.remove(&id);
                vec![(self.reported)(id, None)]
            }
            Event::Init => {
                seen.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let id = id(&object);
                seen.listed.insert(id.clone());
                vec![(self.reported)(id, Some(&object))]
            }
            // What is not in a list that was begun anew went while nobody watched.
            Event::InitDone => {
                let listed = std::mem::take(&mut seen.listed);
                let gone = seen.known.difference(&listed).map(|id| (self.reported)(id.clone(), None));
                let mut news: Vec<News> = gone.collect();
                seen.known = listed;
                news.push(News::Complete(self.kind));
                news
            }
        }
    }
}

#[derive(Default)]
struct Seen {
    known: HashSet<Id>,
    listed: HashSet<Id>,
}

fn id<K: Resource>(object: &K) -> Id {
    let meta = object.meta();
    Id::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn namespace(name: &str) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"n": name}}})).unwrap()
    }

    #[test]
    fn what_vanished_unseen_is_told() {
        let (sender, _receiver) = mpsc::channel(1);
        let feed = Feed {
            kind: Kind::Namespaces,
            sender,
            reported: |id: Id, object: Option<&Namespace>| {
                News::Namespace(id.name, object.map(|o| o.metadata.labels.clone().unwrap_or_default()))
            },
        };
        let mut seen = Seen::default();
        let mut reported = |event| {
            let news = feed.news(event, &mut seen);
            let short = news.into_iter().map(|n| match n {
                News::Namespace(name, labels) => format!("{}{name}", if labels.is_some() { '+' } else { '-' }),
                other => format!("{other:?}"),
            });
            short.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(reported(Event::Init), "");
        assert_eq!(reported(Event::InitApply(namespace("a"))), "+a");
        assert_eq!(reported(Event::InitApply(namespace("b"))), "+b");
        assert_eq!(reported(Event::InitDone), "Complete(Namespaces)");
        assert_eq!(reported(Event::Apply(namespace("c"))), "+c");
        assert_eq!(reported(Event::Delete(namespace("b"))), "-b");
        // The watch broke; c went meanwhile.
        assert_eq!(reported(Event::Init), "");
        assert_eq!(reported(Event::InitApply(namespace("a"))), "+a");
        assert_eq!(reported(Event::InitDone), "-c Complete(Namespaces)");
    }
}
