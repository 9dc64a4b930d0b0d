//! ConfigMaps and Secrets that pods of this node refer to: one watch an object, for as long as a pod holds it
//! (`pkg/kubelet/util/manager`, the Watch strategy; the Node authorizer allows just this).

use std::collections::HashMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kinit_component_base::supervise;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What is known of an object.
#[derive(Debug, Clone)]
enum Known<K> {
    NotYet,
    Trouble(String),
    Missing,
    Here(Arc<K>),
}

/// An object kept up to date; dropping the last handle ends its watch.
#[derive(Debug)]
pub struct Handle<K> {
    name: String,
    state: watch::Receiver<Known<K>>,
    _stop: DropGuard,
}

impl<K: Clone> Handle<K> {
    /// The object as it is now, waiting at most `patience` for the first answer. `Ok(None)` means that it does not
    /// exist.
    pub async fn get(&self, patience: Duration) -> Result<Option<Arc<K>>, String> {
        let mut state = self.state.clone();
        let answered = tokio::time::timeout(patience, state.wait_for(|s| !matches!(s, Known::NotYet))).await;
        match answered {
            Ok(Ok(known)) => match &*known {
                Known::Here(object) => Ok(Some(object.clone())),
                Known::Missing => Ok(None),
                Known::Trouble(error) => Err(error.clone()),
                Known::NotYet => Err(format!("{} is not known yet", self.name)),
            },
            Ok(Err(_)) => Err(format!("the watch of {} ended", self.name)),
            Err(_) => Err(format!("timed out waiting for {}", self.name)),
        }
    }

    /// Tells of changes from now on.
    pub fn changes(&self) -> Changes<K> {
        let mut state = self.state.clone();
        state.mark_unchanged();
        Changes(state)
    }
}

/// Changes of an object.
#[derive(Debug)]
pub struct Changes<K>(watch::Receiver<Known<K>>);

impl<K> Changes<K> {
    /// Waits for the next one; for ever once nobody holds the object any more.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Handles by namespace and name.
type Handles<K> = Mutex<HashMap<(String, String), Weak<Handle<K>>>>;

/// All objects of one kind.
#[derive(Debug)]
struct Kind<K> {
    handles: Handles<K>,
}

impl<K> Kind<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fn new() -> Self {
        Self { handles: Mutex::new(HashMap::new()) }
    }

    fn hold(&self, client: &Client, namespace: &str, name: &str) -> Arc<Handle<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        handles.retain(|_, handle| handle.strong_count() > 0);
        let (sender, state) = watch::channel(Known::NotYet);
        let stop = CancellationToken::new();
        let api: Api<K> = Api::namespaced(client.clone(), namespace);
        supervise::spawn("object watch", follow(api, name.to_owned(), sender, stop.clone()));
        let label = format!("{} {namespace}/{name}", K::kind(&()).to_lowercase());
        let handle = Arc::new(Handle { name: label, state, _stop: stop.drop_guard() });
        handles.insert(key, Arc::downgrade(&handle));
        handle
    }
}

async fn follow<K>(api: Api<K>, name: String, sender: watch::Sender<Known<K>>, stop: CancellationToken)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut stream = pin!(watcher::watch_object(api, &name));
    let mut pause = Duration::from_millis(200);
    loop {
        let next = tokio::select! { () = stop.cancelled() => return, next = stream.next() => next };
        let known = match next {
            Some(Ok(Some(object))) => Known::Here(Arc::new(object)),
            Some(Ok(None)) => Known::Missing,
            Some(Err(error)) => {
                let text = error.to_string();
                // What was seen stays valid while the server is away.
                sender.send_if_modified(|s| {
                    let replace = matches!(s, Known::NotYet | Known::Trouble(_));
                    if replace {
                        *s = Known::Trouble(text);
                    }
                    replace
                });
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(pause) => {} }
                pause = (pause * 2).min(Duration::from_secs(10));
                continue;
            }
            None => return,
        };
        pause = Duration::from_millis(200);
        sender.send_replace(known);
    }
}

/// The two kinds pods refer to.
pub struct Objects {
    client: Option<Client>,
    config_maps: Kind<ConfigMap>,
    secrets: Kind<Secret>,
}

const NO_API: &str = "this kubelet runs without an API server";

impl Objects {
    /// Nothing held yet.
    pub fn new(client: Option<Client>) -> Self {
        Self { client, config_maps: Kind::new(), secrets: Kind::new() }
    }

    /// Holds a ConfigMap.
    pub fn config_map(&self, namespace: &str, name: &str) -> Result<Arc<Handle<ConfigMap>>, String> {
        let client = self.client.as_ref().ok_or(NO_API)?;
        Ok(self.config_maps.hold(client, namespace, name))
    }

    /// Holds a Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Result<Arc<Handle<Secret>>, String> {
        let client = self.client.as_ref().ok_or(NO_API)?;
        Ok(self.secrets.hold(client, namespace, name))
    }
}
