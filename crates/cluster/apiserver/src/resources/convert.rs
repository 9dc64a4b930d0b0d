//! Conversion between what a resource shows and what is stored.

use async_trait::async_trait;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::apply::TypeRef;
use serde_json::Value;

/// What those who own fields in one version of a resource need to know of it.
pub struct VersionOf<'a> {
    /// How its objects are owned.
    pub ty: TypeRef<'a>,
    /// Where the replicas are that its scale sets.
    pub replicas: Option<&'a [String]>,
}

/// A resource whose objects are stored in another form than they are shown in.
#[async_trait]
pub trait Converter: Send + Sync {
    /// Stored objects as they are shown, in their order.
    async fn shown(&self, stored: Vec<Value>) -> Result<Vec<Value>, ApiError>;
    /// An object as it is stored.
    async fn stored(&self, object: Value) -> Result<Value, ApiError>;
    /// Whether an object is shown by the very bytes it is stored in.
    fn shows(&self, _stored: &[u8]) -> bool {
        false
    }
    /// Whether an object is stored in the form that it would be stored in now.
    fn is_current(&self, _stored: &[u8]) -> bool {
        true
    }
    /// Whether fields that selectors may use can have other values, or other places, than in what is stored.
    fn moves_fields(&self) -> bool {
        false
    }
    /// The resource in a version; `None` where it has no such version, or where versions are not its own matter.
    fn version(&self, _api_version: &str) -> Option<VersionOf<'_>> {
        None
    }
    /// Objects as they are in one of those versions, in their order.
    async fn in_version(&self, _objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, ApiError> {
        Err(ApiError::internal(format!("nothing converts to {api_version}")))
    }
    /// Carries what travels outside of its own fields over an update that must not touch it: (new, old, subresource).
    fn keep(&self, _new: &mut Value, _old: &Value, _sub: &str) {}
}
