//! What an expression may use.

use crate::types::{Object, Ty};

/// The type of an apply configuration.
pub const OBJECT: &str = "Object";
/// The type of an operation of a JSON patch.
pub const JSON_PATCH: &str = "JSONPatch";

/// The declared variables.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: Vec<(String, Ty)>,
    mutations: bool,
}

impl Env {
    /// Without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more variable, which hides an earlier one of its name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, ty: Ty) -> Self {
        self.variables.push((name.into(), ty));
        self
    }

    /// With the types that mutations are made of: `Object`, `Object.field` and so on, and `JSONPatch`
    /// (`k8s.io/apiserver/pkg/cel/mutation`).
    #[must_use]
    pub fn with_mutations(mut self) -> Self {
        self.mutations = true;
        self
    }

    /// The type of an object that an expression makes.
    pub(crate) fn made(&self, name: &str) -> Option<Object> {
        match name {
            _ if !self.mutations => None,
            JSON_PATCH => {
                let texts = ["op", "path", "from"].map(|field| (field.to_owned(), Ty::Text));
                Some(Object::new(JSON_PATCH, texts.into_iter().chain([("value".to_owned(), Ty::Dyn)])))
            }
            _ if name == OBJECT || name.starts_with("Object.") => Some(Object::open(name)),
            _ => None,
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Ty> {
        self.variables.iter().rev().find(|(n, _)| n == name).map(|(_, ty)| ty)
    }
}
