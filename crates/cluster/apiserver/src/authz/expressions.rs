//! `authorizer` of expressions in CEL: the authorizers of this server, asked for the request's user or for a service
//! account (`k8s.io/apiserver/pkg/cel/library.Authz`).

use kinit_apimachinery::selector::FieldSelector;
use kinit_cel::{Authority, Decision, Question};

use super::{Attributes, decide_now};
use crate::authn::User;
use crate::server::Server;

/// Who answers for one request.
pub struct Rights<'a> {
    /// Whose authorizers.
    pub server: &'a Server,
    /// Who asks.
    pub user: &'a User,
}

impl Authority for Rights<'_> {
    fn decide(&self, question: &Question) -> Decision {
        let account = question.service_account.as_ref().map(|(namespace, name)| service_account(namespace, name));
        let decision = decide_now(self.server, account.as_ref().unwrap_or(self.user), &attributes(question));
        Decision { allowed: decision.allowed, reason: decision.reason, error: String::new() }
    }
}

/// `serviceaccount.UserInfo`.
fn service_account(namespace: &str, name: &str) -> User {
    let groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    User { name: format!("system:serviceaccount:{namespace}:{name}"), groups, ..User::default() }
}

fn attributes(question: &Question) -> Attributes {
    if !question.path.is_empty() {
        return Attributes { path: question.path.clone(), verb: question.verb.clone(), ..Attributes::default() };
    }
    let Question { group, resource, subresource, namespace, name, field_selector, verb, .. } = question;
    let attributes = Attributes::resource(verb, group, "*", resource, subresource, namespace, name);
    // A selector that cannot be read selects nothing away.
    match FieldSelector::parse(field_selector) {
        Ok(_) => Attributes { field_selector: field_selector.clone(), ..attributes },
        Err(_) => attributes,
    }
}
