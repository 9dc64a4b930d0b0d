//! The Node authorizer: a kubelet may read what its own pods refer to (`plugin/pkg/auth/authorizer/node`).

mod graph;
mod live;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::selector::{FieldSelector, LabelSelector, Op};
use kinit_component_helpers::storage::LocalPath;

use self::graph::Graph;
pub use self::live::Live;
use super::Attributes;
use super::policy;
use super::rbac::Rule;
use crate::authn::User;
use crate::references::Kind;
use crate::server::Server;

/// What the authorizer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allow,
    /// Nothing, perhaps with a reason why not.
    NoOpinion(Option<String>),
}

/// The node a user is, if it is one.
pub fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    (user.in_group("system:nodes") && !name.is_empty()).then_some(name)
}

/// The rules of `system:node`, which apply to every node beyond what is checked object by object.
pub fn rules() -> Vec<Rule> {
    policy::policy().cluster_roles.iter().find(|r| r.name() == "system:node").map(Rule::list).unwrap_or_default()
}

/// Decides.
pub fn decide(server: &Server, user: &User, attributes: &Attributes) -> Verdict {
    let Some(node) = node_of(user) else { return Verdict::NoOpinion(None) };
    let related = |question: &dyn Fn(&Graph) -> bool| server.nodes.ask(&server.store, |graph| question(graph));
    rule(node, attributes, &related, &|| server.node_rules.iter().any(|r| r.allows(attributes)))
}

/// A question to the graph.
type Related<'a> = &'a dyn Fn(&dyn Fn(&Graph) -> bool) -> bool;

/// The rules, resource by resource; everything else is what `listed` says, the same for all nodes.
fn rule(node: &str, attributes: &Attributes, related: Related<'_>, listed: &dyn Fn() -> bool) -> Verdict {
    let asker = Asker { node, attributes, related };
    match (attributes.is_resource, attributes.group.as_str(), attributes.resource.as_str()) {
        (true, "", "secrets") => asker.read(Kind::Secret),
        (true, "", "configmaps") => asker.read(Kind::ConfigMap),
        (true, "", "persistentvolumeclaims") => asker.claim(),
        (true, "", "persistentvolumes") => asker.volume(),
        (true, "", "serviceaccounts") => asker.service_account(),
        (true, "", "nodes") => asker.node(),
        (true, "", "pods") => asker.pod(),
        (true, "resource.k8s.io", "resourceclaims") => asker.get(&|g| asker.needs(g, Kind::ResourceClaim)),
        (true, "resource.k8s.io", "resourceslices") => asker.slice(),
        (true, "storage.k8s.io", "volumeattachments") => asker.get(&|g| g.attaches(node, &attributes.name)),
        (true, "storage.k8s.io", "csinodes") => asker.csi_node(),
        (true, "coordination.k8s.io", "leases") => asker.lease(),
        (true, "certificates.k8s.io", "podcertificaterequests") => asker.certificate_request(),
        _ if listed() => Verdict::Allow,
        _ => Verdict::NoOpinion(None),
    }
}

struct Asker<'a> {
    node: &'a str,
    attributes: &'a Attributes,
    related: Related<'a>,
}

fn no(reason: impl Into<String>) -> Verdict {
    Verdict::NoOpinion(Some(reason.into()))
}

impl Asker<'_> {
    fn needs(&self, graph: &Graph, kind: Kind) -> bool {
        graph.needs(self.node, kind, &self.attributes.namespace, &self.attributes.name)
    }

    /// One object, by name, that the graph relates to the node.
    fn related(&self, question: &dyn Fn(&Graph) -> bool) -> Verdict {
        if self.attributes.name.is_empty() {
            return no("No Object name found");
        }
        if (self.related)(question) {
            return Verdict::Allow;
        }
        no(format!("no relationship found between node '{}' and this object", self.node))
    }

    /// GET of one object.
    fn get(&self, question: &dyn Fn(&Graph) -> bool) -> Verdict {
        if self.attributes.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !self.attributes.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(question)
    }

    /// GET of one object, or a list or watch that is of one object in one namespace.
    fn read(&self, kind: Kind) -> Verdict {
        if !matches!(self.attributes.verb.as_str(), "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !self.attributes.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if self.attributes.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(&|g| self.needs(g, kind))
    }

    fn claim(&self) -> Verdict {
        if self.attributes.subresource != "status" {
            return self.get(&|g| self.needs(g, Kind::Claim));
        }
        if !matches!(self.attributes.verb.as_str(), "update" | "patch") {
            return no("can only get/update/patch this type");
        }
        self.related(&|g| self.needs(g, Kind::Claim))
    }

    /// A kubelet reads the volumes of its pods. It finds those that are folders on its disk by their label, and lets
    /// them go; what else it changes of them is NodeRestriction's to refuse.
    fn volume(&self) -> Verdict {
        match self.attributes.verb.as_str() {
            "list" | "watch" if self.attributes.name.is_empty() && self.attributes.subresource.is_empty() => {
                let selector = LabelSelector::parse(&self.attributes.label_selector).unwrap_or_default();
                let own = Op::In(vec![self.node.to_owned()]);
                if selector.0.iter().any(|term| term.key == LocalPath::NODE && term.op == own) {
                    return Verdict::Allow;
                }
                no(format!(
                    "can only list/watch persistentvolumes with label selector {}={}",
                    LocalPath::NODE,
                    self.node
                ))
            }
            "patch" if self.attributes.subresource.is_empty() => {
                self.related(&|g| g.holds(self.node, &self.attributes.name))
            }
            _ => self.get(&|g| g.mounts(self.node, &self.attributes.name)),
        }
    }

    /// A kubelet reads the accounts of its pods and gets tokens for them.
    fn service_account(&self) -> Verdict {
        if self.attributes.verb == "get" && self.attributes.subresource.is_empty() {
            return self.read(Kind::ServiceAccount);
        }
        if self.attributes.verb != "create" || self.attributes.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if self.attributes.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(&|g| self.needs(g, Kind::ServiceAccount))
    }

    /// Writes are NodeRestriction's to judge. The name is compared, not looked for: a kubelet asks for its Node before
    /// there is one.
    fn node(&self) -> Verdict {
        match (self.attributes.subresource.as_str(), self.attributes.verb.as_str()) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Verdict::Allow,
            ("", "get" | "list" | "watch") if self.attributes.name == self.node => Verdict::Allow,
            ("", "get" | "list" | "watch") if self.attributes.name.is_empty() => {
                no(format!("node '{}' cannot read all nodes, only its own Node object", self.node))
            }
            ("", "get" | "list" | "watch") => {
                no(format!("node '{}' cannot read '{}', only its own Node object", self.node, self.attributes.name))
            }
            _ => Verdict::NoOpinion(None),
        }
    }

    /// Writes are NodeRestriction's to judge.
    fn pod(&self) -> Verdict {
        let running = |g: &Graph| g.runs(self.node, &self.attributes.namespace, &self.attributes.name);
        match (self.attributes.subresource.as_str(), self.attributes.verb.as_str()) {
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Verdict::Allow,
            ("", "get") => self.get(&running),
            ("", "list" | "watch") if self.selects_node() => Verdict::Allow,
            ("", "list" | "watch") if !self.attributes.name.is_empty() => self.related(&running),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            _ => Verdict::NoOpinion(None),
        }
    }

    fn slice(&self) -> Verdict {
        if !self.attributes.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match self.attributes.verb.as_str() {
            // Whose it is stands in the object: NodeRestriction looks.
            "create" => Verdict::Allow,
            "get" | "update" | "patch" | "delete" => self.related(&|g| g.offers(self.node, &self.attributes.name)),
            "list" | "watch" | "deletecollection" if self.selects_node() => Verdict::Allow,
            "list" | "watch" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn lease(&self) -> Verdict {
        if !matches!(self.attributes.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
            return no("can only get, create, update, patch, or delete a node lease");
        }
        if self.attributes.namespace != "kube-node-lease" {
            return no("can only access leases in the \"kube-node-lease\" system namespace");
        }
        self.own("can only access node lease with the same name as the requesting node")
    }

    fn csi_node(&self) -> Verdict {
        if !matches!(self.attributes.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
            return no("can only get, create, update, patch, or delete a CSINode");
        }
        if !self.attributes.subresource.is_empty() {
            return no("cannot authorize CSINode subresources");
        }
        self.own("can only access CSINode with the same name as the requesting node")
    }

    /// What has the node's name. A create's is in the object, where NodeRestriction looks.
    fn own(&self, otherwise: &str) -> Verdict {
        if self.attributes.verb == "create" || self.attributes.name == self.node {
            Verdict::Allow
        } else {
            no(otherwise)
        }
    }

    /// They are not served here, so there is none that could be a node's.
    fn certificate_request(&self) -> Verdict {
        match (self.attributes.subresource.as_str(), self.attributes.verb.as_str()) {
            ("", "create") => Verdict::Allow,
            ("", "list" | "watch") if self.selects_node() => Verdict::Allow,
            ("", "list" | "watch") => no("can only list/watch podcertificaterequests with nodeName field selector"),
            _ => no(format!("no relationship found between node '{}' and this object", self.node)),
        }
    }

    fn selects_node(&self) -> bool {
        FieldSelector::parse(&self.attributes.field_selector).is_ok_and(|s| s.exact("spec.nodeName") == Some(self.node))
    }
}

#[cfg(test)]
mod tests;
