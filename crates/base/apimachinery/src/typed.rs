//! What is known of the fields of a kind: the same questions to built-in and to custom ones.

use std::sync::Arc;

use serde_json::Value;

use crate::schema::schema;
use crate::structural::{Structural, TYPE_META, TooLarge, coerce};
use crate::{check, complete};

/// The type of a document.
#[derive(Debug, Clone, Default)]
pub enum Typed {
    /// Nothing is known: anything goes.
    #[default]
    Unknown,
    /// A type of the built-in schema.
    BuiltIn(usize),
    /// A definition's schema.
    Custom(Arc<Structural>),
}

impl Typed {
    /// The built-in type of a kind.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Self {
        schema().by_kind(group, version, kind).map_or(Self::Unknown, Self::BuiltIn)
    }

    /// The index of a built-in type, for what only those have: protobuf, strategic merge patches.
    pub fn built_in(&self) -> Option<usize> {
        match self {
            Self::BuiltIn(ty) => Some(*ty),
            Self::Unknown | Self::Custom(_) => None,
        }
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Fits a decoded document to the type; fields that it does not have go and are named in `unknown`. `Err` is the
    /// decoder's message.
    pub fn conform(&self, value: &mut Value, unknown: &mut Vec<String>) -> Result<(), String> {
        match self {
            Self::BuiltIn(ty) => check::conform(value, *ty, unknown),
            Self::Custom(schema) => {
                coerce(value, schema, unknown)?;
                schema.prune(value, unknown);
                schema.default(value).map(drop).map_err(|e| e.to_string())
            }
            Self::Unknown if value.get("metadata").is_some_and(|m| !m.is_object() && !m.is_null()) => {
                Err("metadata is not an object".into())
            }
            Self::Unknown => Ok(()),
        }
    }

    /// Adds what is written although nobody gave it: what Go's encoder writes of built-in types, defaults of custom
    /// ones.
    pub fn complete(&self, value: &mut Value) -> Result<(), TooLarge> {
        match self {
            Self::BuiltIn(ty) => complete::complete(value, *ty),
            Self::Custom(schema) => drop(schema.default(value)?),
            Self::Unknown => {}
        }
        Ok(())
    }

    /// Fits what was stored under an older schema to this one; whether that changed it.
    pub fn refresh(&self, stored: &mut Value) -> Result<bool, TooLarge> {
        let Self::Custom(schema) = self else { return Ok(false) };
        let mut unknown = Vec::new();
        schema.prune(stored, &mut unknown);
        Ok(schema.default(stored)? | !unknown.is_empty())
    }

    /// Whether an object of the type has a field of this name at its root.
    pub fn has_field(&self, name: &str) -> bool {
        match self {
            Self::BuiltIn(ty) => schema().field(*ty, name).is_some(),
            Self::Custom(schema) => TYPE_META.contains(&name) || schema.field(name).is_some(),
            Self::Unknown => false,
        }
    }
}
