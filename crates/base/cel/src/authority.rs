//! `authorizer`: questions that expressions ask of those who know rights (`k8s.io/apiserver/pkg/cel/library.Authz`).

use std::fmt;
use std::sync::Arc;

/// Who answers. Asked while an expression is evaluated: answers must be at hand.
pub trait Authority: Send + Sync {
    /// Whether it may be done.
    fn decide(&self, question: &Question) -> Decision;
}

/// What is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// Whose right, as namespace and name of a service account; the request's user when absent.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource; empty for resources.
    pub path: String,
    /// API group.
    pub group: String,
    /// Plural.
    pub resource: String,
    /// "" for the resource itself.
    pub subresource: String,
    /// "" for all.
    pub namespace: String,
    /// "" for all.
    pub name: String,
    /// Of a list or a watch.
    pub field_selector: String,
    /// Of a list or a watch.
    pub label_selector: String,
    /// What is to be done.
    pub verb: String,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// Why there is no answer; empty when there is one.
    pub error: String,
}

/// How far a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `authorizer`.
    Authorizer,
    /// `authorizer.path(...)`.
    Path,
    /// `authorizer.group(...)`.
    Group,
    /// `authorizer.group(...).resource(...)`.
    Resource,
}

/// A question in the making.
#[derive(Clone)]
pub struct Asking<'a> {
    pub(crate) who: &'a dyn Authority,
    pub(crate) stage: Stage,
    pub(crate) question: Arc<Question>,
}

impl<'a> Asking<'a> {
    /// The beginning of a question.
    pub fn new(who: &'a dyn Authority) -> Self {
        Self { who, stage: Stage::Authorizer, question: Arc::default() }
    }

    /// A question about a resource, without its verb.
    pub fn of_resource(who: &'a dyn Authority, question: Question) -> Self {
        Self { who, stage: Stage::Resource, question: Arc::new(question) }
    }

    pub(crate) fn with(&self, stage: Stage, change: impl FnOnce(&mut Question)) -> Self {
        let mut question = (*self.question).clone();
        change(&mut question);
        Self { who: self.who, stage, question: Arc::new(question) }
    }
}

impl fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("stage", &self.stage).field("question", &self.question).finish_non_exhaustive()
    }
}

impl Stage {
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Authorizer => AUTHORIZER,
            Self::Path => "kubernetes.authorization.PathCheck",
            Self::Group => "kubernetes.authorization.GroupCheck",
            Self::Resource => RESOURCE_CHECK,
        }
    }
}

/// The type of `authorizer`.
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
/// The type of `authorizer.requestResource`.
pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";
