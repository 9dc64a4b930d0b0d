//! `serviceaccount`: keeps a service account `default` in every namespace (`pkg/controller/serviceaccount`).

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kinit_client::informer::Change;
use kinit_client::queue::Queue;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use crate::context::Context;
use crate::object::is_status;

const NAME: &str = "default";

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("service-account-controller").await?;
    let (namespaces, accounts) = (ctx.store::<Namespace>(), ctx.store::<ServiceAccount>());
    accounts.synced().await;
    let queue = Queue::new();
    let (on_namespace, on_account) = (queue.clone(), queue.clone());
    namespaces.on_change(move |change| on_namespace.add(change.object().name_any()));
    accounts.on_change(move |change| {
        if matches!(change, Change::Deleted(_)) && change.object().name_any() == NAME {
            on_account.add(change.object().namespace().unwrap_or_default());
        }
    });
    let work = move |namespace: String| {
        let wanted = namespaces.get(&namespace).is_some_and(|n| is_active(&n))
            && accounts.get(&format!("{namespace}/{NAME}")).is_none();
        let client = client.clone();
        async move { if wanted { create(client, &namespace).await } else { Ok(None) } }
    };
    queue.run("serviceaccount", 2, ctx.shutdown(), work).await;
    Ok(())
}

/// Whether the namespace is not on its way out.
pub fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

async fn create(client: Client, namespace: &str) -> Result<Option<Duration>> {
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(NAME.into()), namespace: Some(namespace.into()), ..Default::default() },
        ..Default::default()
    };
    match Api::<ServiceAccount>::namespaced(client, namespace).create(&PostParams::default(), &account).await {
        // A namespace that is gone, or being deleted, needs none.
        Err(error) if is_status(&error, 409) || is_status(&error, 404) || is_status(&error, 403) && gone(&error) => {
            Ok(None)
        }
        created => {
            created.with_context(|| format!("create service account {namespace}/{NAME}"))?;
            Ok(None)
        }
    }
}

/// The refusal that creation in a terminating namespace gets.
pub fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.message.contains("because it is being terminated"))
}
