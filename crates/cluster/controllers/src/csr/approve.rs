//! `csrapproving`: kubelets' own requests.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use kinit_client::informer::{Change, Store, key_of};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use super::request::{Request, check_kubelet_client, check_node_component, check_serving_node, parse};
use super::{ACCOUNT, KUBELET_CLIENT, KUBELET_SERVING, has, is_issued};
use crate::context::Context;
use crate::object::now;

/// What a request is, when it is one that may be approved here.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Kind {
    subresource: &'static str,
    message: &'static str,
}

const SELF_CLIENT: Kind = Kind {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const CLIENT: Kind =
    Kind { subresource: "nodeclient", message: "Auto approving kubelet client certificate after SubjectAccessReview." };

/// kinit's own: who may create this made-up subresource gets certificates of the programs that run on every node.
const NODE_COMPONENT: Kind = Kind {
    subresource: "nodecomponentclient",
    message: "Auto approving client certificate of a node component after SubjectAccessReview.",
};

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client(ACCOUNT).await?;
    let (requests, nodes) = (ctx.store::<CertificateSigningRequest>(), ctx.store::<Node>());
    let queue = Queue::new();
    let handler = queue.clone();
    requests.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            handler.add(key_of(&**change.object()));
        }
    });
    nodes.synced().await;
    let work = Arc::new(Approver { client, requests, nodes });
    queue.run("csrapproving", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Approver {
    client: Client,
    requests: Arc<Store<CertificateSigningRequest>>,
    nodes: Arc<Store<Node>>,
}

impl Approver {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(csr) = self.requests.get(&key) else { return Ok(None) };
        if is_issued(&csr) || has(&csr, "Approved") || has(&csr, "Denied") {
            return Ok(None);
        }
        match csr.spec.signer_name.as_str() {
            KUBELET_CLIENT => {
                let Ok(request) = parse(&csr.spec.request.0) else { return Ok(None) };
                let kinds = recognize(&request, &csr);
                for kind in kinds {
                    if self.authorized(&csr, kind.subresource).await? {
                        return self.approve(&csr, kind.message).await;
                    }
                }
                if let Some(kind) = kinds.first() {
                    bail!("{key} is a {} request, but its sender may not create those", kind.subresource);
                }
                Ok(None)
            }
            KUBELET_SERVING => self.serving(&csr).await,
            super::CLIENT => self.node_component(&csr).await,
            _ => Ok(None),
        }
    }

    async fn serving(&self, csr: &CertificateSigningRequest) -> Result<Option<Duration>> {
        let Ok(request) = parse(&csr.spec.request.0) else { return Ok(None) };
        let name = request.common_name.strip_prefix("system:node:").unwrap_or_default();
        let Some(node) = self.nodes.get(name) else { bail!("node {name:?} is not registered yet") };
        let addresses: Vec<String> =
            node.status.iter().flat_map(|s| s.addresses.iter().flatten()).map(|a| a.address.clone()).collect();
        // A kubelet may ask before its addresses are published: keep trying, never deny.
        check_serving_node(&request, &csr.spec, name, &addresses)
            .with_context(|| format!("not approving the serving certificate of {name}"))?;
        self.approve(csr, "Auto approving kubelet serving certificate: its names are those the Node declares.").await
    }

    /// The service proxy and the pod network of a machine that joins by itself. Other clients' requests are for people.
    async fn node_component(&self, csr: &CertificateSigningRequest) -> Result<Option<Duration>> {
        let is_one = parse(&csr.spec.request.0).is_ok_and(|request| check_node_component(&request, &csr.spec).is_ok());
        if !is_one || !self.authorized(csr, NODE_COMPONENT.subresource).await? {
            return Ok(None);
        }
        self.approve(csr, NODE_COMPONENT.message).await
    }

    async fn authorized(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
        let extra = csr.spec.extra.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                uid: csr.spec.uid.clone(),
                groups: csr.spec.groups.clone(),
                extra,
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(subresource.into()),
                    verb: Some("create".into()),
                    version: Some("*".into()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.context("ask a SubjectAccessReview")?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }

    async fn approve(&self, csr: &CertificateSigningRequest, message: &str) -> Result<Option<Duration>> {
        let mut csr = csr.clone();
        csr.status.get_or_insert_default().conditions.get_or_insert_default().push(
            CertificateSigningRequestCondition {
                type_: "Approved".into(),
                status: "True".into(),
                reason: Some("AutoApproved".into()),
                message: Some(message.into()),
                last_update_time: Some(now()),
                last_transition_time: Some(now()),
            },
        );
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        api.replace_subresource("approval", &csr.name_any(), &PostParams::default(), &csr)
            .await
            .with_context(|| format!("approve {}", csr.name_any()))?;
        tracing::info!(csr = csr.name_any(), signer = csr.spec.signer_name, "approved");
        Ok(None)
    }
}

/// In the order upstream tries them: a node that asks for itself, then anybody who may ask for nodes.
fn recognize(request: &Request, csr: &CertificateSigningRequest) -> &'static [Kind] {
    if check_kubelet_client(request, &csr.spec).is_err() {
        return &[];
    }
    if csr.spec.username.as_deref() == Some(&request.common_name) { &[SELF_CLIENT, CLIENT] } else { &[CLIENT] }
}
