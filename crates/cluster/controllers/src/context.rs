//! What every controller is given.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use kinit_client::events::Recorder;
use kinit_client::informer::{Store, spawn};
use kinit_component_base::Shutdown;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::args::Args;
use crate::identity::Identities;
use crate::node::observer::Observer;

/// Shared stores, identities and flags; cheap to clone.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    args: Args,
    root: Client,
    identities: Identities,
    stores: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    observer: OnceLock<Arc<Observer>>,
    shutdown: Shutdown,
}

impl Context {
    /// `root` feeds the stores; `identities` makes the clients that write.
    pub fn new(args: Args, root: Client, identities: Identities, shutdown: Shutdown) -> Self {
        Self(Arc::new(Inner { args, root, identities, stores: Mutex::default(), observer: OnceLock::new(), shutdown }))
    }

    /// The command line.
    pub fn args(&self) -> &Args {
        &self.0.args
    }

    /// The process's own client, for discovery and shared reads.
    pub fn root(&self) -> Client {
        self.0.root.clone()
    }

    /// Cancelled when the process is to end.
    pub fn shutdown(&self) -> Shutdown {
        self.0.shutdown.clone()
    }

    /// The one observer of nodes' signs of life; it begins with the first call.
    pub fn observer(&self) -> Arc<Observer> {
        let start = || Observer::start(self.root(), self.store(), &self.0.shutdown);
        self.0.observer.get_or_init(start).clone()
    }

    /// The shared store of all objects of a kind; its watch starts with the first call.
    pub fn store<K>(&self) -> Arc<Store<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut stores = self.0.stores.lock();
        if let Some(store) = stores.get(&TypeId::of::<K>()).cloned().and_then(|any| any.downcast::<Store<K>>().ok()) {
            return store;
        }
        let store = spawn(Api::<K>::all(self.root()), watcher::Config::default(), &self.0.shutdown);
        stores.insert(TypeId::of::<K>(), store.clone());
        store
    }

    /// A client as service account `kube-system/NAME`, or the process's own when service accounts are off.
    pub async fn client(&self, name: &str) -> Result<Client> {
        self.0.identities.client(name).await
    }

    /// Events reported by `name`, published through `client`.
    pub fn recorder(&self, client: Client, name: &str) -> Recorder {
        Recorder::new(client, name, "")
    }
}
