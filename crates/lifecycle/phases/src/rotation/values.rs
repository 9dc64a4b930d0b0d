//! Writing anew, through the API, what etcd has under a key that is to go.

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use kinit_agent::RotationRequest;
use kinit_config::Role;
use kinit_resource::SealedValues;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};

use crate::operation::Run;

const PAGE: u32 = 100;
const AT_ONCE: usize = 8;
/// Whoever writes at the same time writes with the new key; what is left after that many passes has another cause.
const PASSES: usize = 3;

/// Writes every value of the encrypted resources that another key wrote, until etcd has none. What is done already is
/// not written again.
pub(super) async fn rewrite(run: &Run, api: &Client) -> Result<()> {
    for _ in 0..PASSES {
        let sealed = sealed(run).await?;
        let outdated: Vec<String> = sealed.outdated().map(|(resource, _)| resource.to_owned()).collect();
        if outdated.is_empty() {
            return Ok(());
        }
        for resource in &outdated {
            write_all(api, resource).await.with_context(|| format!("write all {resource} anew"))?;
        }
    }
    let sealed = sealed(run).await?;
    let left: Vec<String> = sealed.outdated().map(|(resource, count)| format!("{count} {resource}")).collect();
    if !left.is_empty() {
        bail!("etcd still has values under another key: {}", left.join(", "));
    }
    Ok(())
}

async fn sealed(run: &Run) -> Result<SealedValues> {
    let host = run.wanted.cluster.hosts(Role::ControlPlane).next().context("there is no control plane")?;
    let text = run.hosts.agent(&host.name)?.rotation(RotationRequest::Sealed).await?;
    serde_json::from_str(&text).context("decode what etcd has")
}

/// A write that changes nothing is done by the API server where the value is under another key.
async fn write_all(api: &Client, resource: &str) -> Result<()> {
    let kind = match resource {
        "secrets" => "Secret",
        "configmaps" => "ConfigMap",
        other => bail!("kinit does not write {other} anew"),
    };
    let gvk = GroupVersionKind { group: String::new(), version: "v1".to_owned(), kind: kind.to_owned() };
    let resource = ApiResource::from_gvk_with_plural(&gvk, resource);
    let all: Api<DynamicObject> = Api::all_with(api.clone(), &resource);
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page = all.list(&parameters).await.context("list a page")?;
        let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
        let writes = page.items.into_iter().map(|object| write(api, &resource, object));
        stream::iter(writes).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        match next {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(()),
        }
    }
}

async fn write(api: &Client, resource: &ApiResource, object: DynamicObject) -> Result<()> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let one: Api<DynamicObject> = Api::namespaced_with(api.clone(), &namespace, resource);
    match one.replace(&name, &PostParams::default(), &object).await {
        // Whoever was faster wrote it with the new key, or deleted it.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop).with_context(|| format!("write {namespace}/{name}")),
    }
}
