//! Watches what is left in a namespace until it is gone, so that nobody has to ask again and again.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use kinit_client::Rewatch;
use kinit_client::queue::Queue;
use kinit_component_base::Shutdown;
use kinit_component_base::supervise::guarded;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio_util::sync::DropGuard;

use crate::discovery::ApiResource;

type Metadata = PartialObjectMeta<DynamicObject>;

/// The watches, one a namespace.
pub struct Remains {
    client: Client,
    queue: Arc<Queue<String>>,
    shutdown: Shutdown,
    watching: Arc<Mutex<HashMap<String, DropGuard>>>,
}

impl Remains {
    /// Watches through `client` and makes namespaces due in `queue`.
    pub fn new(client: Client, queue: Arc<Queue<String>>, shutdown: Shutdown) -> Self {
        Self { client, queue, shutdown, watching: Arc::default() }
    }

    /// Makes the namespace due once these resources have no objects in it any more. An earlier watch of it ends.
    pub fn watch(&self, namespace: &str, left: Vec<ApiResource>) {
        let stop = self.shutdown.child_token();
        self.watching.lock().insert(namespace.to_owned(), stop.clone().drop_guard());
        let (client, queue, namespace) = (self.client.clone(), self.queue.clone(), namespace.to_owned());
        let watching = self.watching.clone();
        tokio::spawn(async move {
            let gone = futures::future::join_all(left.iter().map(|resource| {
                let api = Api::namespaced_with(client.clone(), &namespace, &resource.kube());
                until_empty(api)
            }));
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = guarded("watch of a namespace that ends", gone) => ended,
            };
            tracing::debug!(namespace, well = ended.is_ok(), "a look at the namespace again");
            watching.lock().remove(&namespace);
            // After a panic too: another look costs little, and a namespace that nobody looks at stays for ever.
            queue.add(namespace);
        });
    }
}

/// Waits until a watch shows no object.
async fn until_empty(api: Api<Metadata>) {
    let stream = watcher::watcher(api, watcher::Config::default()).backoff(Rewatch::default());
    until_none(Box::pin(stream)).await;
}

type Events = Pin<Box<dyn futures::Stream<Item = Result<Event<Metadata>, watcher::Error>> + Send>>;

async fn until_none(mut events: Events) {
    let mut present: HashSet<String> = HashSet::new();
    let mut listed = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                present.clear();
                listed = false;
            }
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                present.insert(object.name_any());
            }
            Ok(Event::Delete(object)) => {
                present.remove(&object.name_any());
            }
            Ok(Event::InitDone) => listed = true,
            // Tried again after a pause.
            Err(error) => tracing::debug!(%error, "watch what is left in a namespace"),
        }
        if listed && present.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn object(name: &str) -> Metadata {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap()
    }

    #[test]
    fn the_last_one_counts() {
        let first = || vec![Event::Init, Event::InitApply(object("a")), Event::Apply(object("b")), Event::InitDone];
        for (more, ended) in [
            (vec![], false),
            (vec![Event::Delete(object("a"))], false),
            (vec![Event::Delete(object("a")), Event::Delete(object("b"))], true),
            (vec![Event::Init, Event::InitDone], true),
            (vec![Event::Init], false),
        ] {
            let events = futures::stream::iter([first(), more].concat().into_iter().map(Ok));
            let waiting: Events = Box::pin(events.chain(futures::stream::pending()));
            assert_eq!(until_none(waiting).now_or_never().is_some(), ended);
        }
    }
}
