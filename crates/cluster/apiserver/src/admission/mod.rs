//! Admission: what the cluster wants of objects beyond their own rules. Mutating plugins first, then validating ones.

mod claim_resize;
pub mod conditions;
mod defaults;
mod limits;
mod namespace;
mod node_restriction;
mod pod_security;
mod pods;
pub mod policy;
pub mod quota;
mod restrict;
mod rounds;
mod service_account;
pub mod webhook;

use kinit_apimachinery::ApiError;
use serde_json::Value;

use crate::authz::escalation;
use crate::registry::Request;
pub use namespace::Deleted as DeletedNamespaces;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// An object to go.
    Delete,
    /// A stream or a proxied request.
    Connect,
}

/// What admission looks at.
pub struct Attributes<'a> {
    /// The request.
    pub request: &'a Request,
    /// What is being done.
    pub operation: Operation,
    /// The object before.
    pub old: Option<&'a Value>,
    /// Nothing will be written.
    pub dry_run: bool,
    /// The subresource, "" for the object itself.
    pub subresource: &'a str,
}

impl Attributes<'_> {
    /// The kind being written.
    pub fn kind(&self) -> (&str, &str) {
        (self.request.desc.group.as_str(), self.request.desc.kind.as_str())
    }

    fn has(&self, plugin: &str) -> bool {
        self.request.server.options.has_plugin(plugin)
    }

    /// The mutating plugins, policies and webhooks last; whether policies or webhooks changed the object.
    pub async fn mutate(&self, object: &mut Value) -> Result<bool, ApiError> {
        self.mutate_built_in(object).await?;
        rounds::mutate(self, object).await
    }

    /// The mutating plugins that are part of the server, in upstream's order.
    async fn mutate_built_in(&self, object: &mut Value) -> Result<(), ApiError> {
        if self.has("NamespaceLifecycle") {
            namespace::check(self).await?;
        }
        if self.has("LimitRanger") {
            limits::default(self, object)?;
        }
        if self.has("ServiceAccount") {
            service_account::admit(self, object).await?;
        }
        if self.has("AlwaysPullImages") {
            restrict::pull_always(self, object);
        }
        if self.has("TaintNodesByCondition") {
            defaults::taint_new_nodes(self, object);
        }
        if self.has("Priority") {
            pods::priority(self, object)?;
        }
        if self.has("DefaultTolerationSeconds") {
            pods::tolerations(self, object);
        }
        if self.has("RuntimeClass") {
            pods::runtime_class(self, object)?;
        }
        if self.has("DefaultStorageClass") {
            defaults::storage_class(self, object)?;
        }
        if self.has("DefaultIngressClass") {
            defaults::ingress_class(self, object)?;
        }
        if self.has("StorageObjectInUseProtection") {
            defaults::storage_in_use(self, object);
        }
        Ok(())
    }

    /// The validating plugins.
    pub async fn validate(&self, object: &Value) -> Result<(), ApiError> {
        if self.operation == Operation::Delete && self.has("NamespaceLifecycle") {
            namespace::check(self).await?;
        }
        pods::privileged(self, object)?;
        if self.has("LimitRanger") {
            limits::check(self, object)?;
        }
        if self.has("AlwaysPullImages") {
            restrict::check_pull_always(self, object)?;
        }
        if self.has("DenyServiceExternalIPs") {
            restrict::check_external_ips(self, object)?;
        }
        if self.has("PersistentVolumeClaimResize") {
            claim_resize::check(self, object)?;
        }
        if self.has("NodeRestriction") {
            node_restriction::check(self, object)?;
        }
        if self.has("PodSecurity") {
            pod_security::check(self, object).await?;
        }
        if self.operation != Operation::Delete {
            escalation::check(self.request, object, self.old).await?;
            defaults::signers(self, object).await?;
        }
        if self.has("ValidatingAdmissionPolicy") {
            policy::check(self, object).await?;
        }
        webhook::validate(self, object).await?;
        // The last of all: what is charged here should not be refused by another.
        if self.has("ResourceQuota") {
            quota::admit(self, object).await?;
        }
        Ok(())
    }
}
