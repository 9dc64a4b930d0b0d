//! The node's own object as the API holds it, followed by a watch.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kinit_client::Rewatch;
use kinit_component_base::{Shutdown, supervise};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::drift::version;

/// Until the API server answers it is asked this often.
const AGAIN: Duration = Duration::from_secs(2);

/// The newest known state of the Node; cheap to clone.
#[derive(Clone, Default)]
pub struct Held(Arc<watch::Sender<Option<Arc<Node>>>>);

impl Held {
    /// Begins to follow the node `name` until `shutdown`.
    pub fn follow(&self, client: Client, name: &str, shutdown: Shutdown) {
        // The node authorizer lets a kubelet watch its own node alone.
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let (api, into): (Api<Node>, _) = (Api::all(client), self.clone());
        let ending = shutdown.clone();
        supervise::vital("node watch", &ending, async move {
            let mut events = pin!(kube::runtime::watcher(api, config).backoff(Rewatch::default()));
            loop {
                let event = tokio::select! { () = shutdown.cancelled() => return, event = events.next() => event };
                match event {
                    Some(Ok(Event::Apply(node) | Event::InitApply(node))) => into.note(node),
                    Some(Ok(Event::Delete(_))) => {
                        into.0.send_replace(None);
                    }
                    Some(Ok(Event::Init | Event::InitDone)) => {}
                    Some(Err(error)) => tracing::debug!(%error, "watch the node"),
                    None => return,
                }
            }
        });
    }

    /// Asks until it is known what the node `name` is like, or that it is not there.
    pub async fn await_first(&self, client: Client, name: &str) {
        let api: Api<Node> = Api::all(client);
        loop {
            match api.get_opt(name).await {
                Ok(node) => return node.into_iter().for_each(|node| self.note(node)),
                Err(error) => tracing::warn!(%error, "ask for the node"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Takes note of a state, unless a newer one of the same node is known.
    pub fn note(&self, node: Node) {
        self.0.send_if_modified(|known| {
            let older = known.as_ref().is_some_and(|k| {
                k.metadata.uid == node.metadata.uid && version(&k.metadata) >= version(&node.metadata)
            });
            if !older {
                *known = Some(Arc::new(node));
            }
            !older
        });
    }

    /// The newest state.
    pub fn newest(&self) -> Option<Arc<Node>> {
        self.0.borrow().clone()
    }

    /// Wakes when the state changes.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.0.subscribe()
    }
}
