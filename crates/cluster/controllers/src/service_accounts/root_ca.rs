//! `root-ca-cert-publisher`: keeps ConfigMap `kube-root-ca.crt` in every namespace
//! (`pkg/controller/certificates/rootcacertpublisher`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kinit_client::informer::{Store, spawn};
use kinit_client::queue::Queue;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};

use super::default_account::{gone, is_active};
use crate::context::Context;
use crate::object::is_status;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const ABOUT: &str = "kubernetes.io/description";
const TEXT: &str = "CA certificates with which pods verify the API server they reach inside the cluster.";

/// Runs the controller; without --root-ca-file there is nothing to publish.
pub async fn run(ctx: Context) -> Result<()> {
    let Some(file) = ctx.args().root_ca_file.clone() else {
        tracing::info!("no --root-ca-file: kube-root-ca.crt is not published");
        return Ok(());
    };
    let ca = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let client = ctx.client("root-ca-cert-publisher").await?;
    let namespaces = ctx.store::<Namespace>();
    let watch = watcher::Config::default().fields("metadata.name=kube-root-ca.crt");
    let maps = spawn(Api::<ConfigMap>::all(ctx.root()), watch, &ctx.shutdown());
    maps.synced().await;
    let queue = Queue::new();
    let (on_namespace, on_map) = (queue.clone(), queue.clone());
    namespaces.on_change(move |change| on_namespace.add(change.object().name_any()));
    maps.on_change(move |change| on_map.add(change.object().namespace().unwrap_or_default()));
    let work = Arc::new(Publisher { client, namespaces, maps, ca });
    queue.run("root-ca-cert-publisher", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Publisher {
    client: Client,
    namespaces: Arc<Store<Namespace>>,
    maps: Arc<Store<ConfigMap>>,
    ca: String,
}

impl Publisher {
    async fn sync(self: Arc<Self>, namespace: String) -> Result<Option<Duration>> {
        if !self.namespaces.get(&namespace).is_some_and(|n| is_active(&n)) {
            return Ok(None);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let current = self.maps.get(&format!("{namespace}/{NAME}"));
        let Some(wanted) = published(current.as_deref(), &namespace, &self.ca) else { return Ok(None) };
        let result = match current {
            Some(_) => api.replace(NAME, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Err(error) if is_status(&error, 404) || is_status(&error, 403) && gone(&error) => Ok(None),
            result => {
                result.with_context(|| format!("publish {NAME} in {namespace}"))?;
                Ok(None)
            }
        }
    }
}

/// The map as it should be, or `None` when it is.
fn published(current: Option<&ConfigMap>, namespace: &str, ca: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(KEY.to_owned(), ca.to_owned())]);
    let mut map = current.cloned().unwrap_or_else(|| ConfigMap {
        metadata: ObjectMeta { name: Some(NAME.into()), namespace: Some(namespace.into()), ..Default::default() },
        ..Default::default()
    });
    let said = map.annotations().get(ABOUT).map(String::as_str) == Some(TEXT);
    if current.is_some() && said && map.data.as_ref() == Some(&data) {
        return None;
    }
    map.data = Some(data);
    map.annotations_mut().insert(ABOUT.into(), TEXT.into());
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_once_and_repaired() {
        let first = published(None, "ns", "CA").unwrap();
        assert_eq!(published(Some(&first), "ns", "CA"), None);
        let mut edited = first.clone();
        edited.data = Some(BTreeMap::from([(KEY.into(), "other".into())]));
        edited.metadata.resource_version = Some("7".into());
        let repaired = published(Some(&edited), "ns", "CA").unwrap();
        assert_eq!((repaired.data, repaired.metadata.resource_version), (first.data, Some("7".into())));
    }
}
