//! A kind whose objects are owned, and its objects in other versions than the request's.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::apply::{InVersion, Kind, TypeRef};
use kinit_apimachinery::meta::Meta;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::resources::convert::Converter;
use crate::resources::{Descriptor, faces};

/// A kind in the version of a request.
pub struct OwnedKind<'a> {
    api_version: &'a str,
    kind: &'a str,
    built_in: Option<usize>,
    ty: TypeRef<'a>,
    custom: Option<(&'a dyn Converter, &'a Converted)>,
}

impl<'a> OwnedKind<'a> {
    /// The kind of a resource, in its version.
    pub fn of(desc: &'a Descriptor, api_version: &'a str, converted: &'a Converted) -> Self {
        let custom = desc.converter.as_deref().filter(|_| desc.custom.is_some());
        Self {
            api_version,
            kind: &desc.kind,
            built_in: desc.ty.built_in(),
            ty: type_of(desc, api_version),
            custom: custom.map(|converter| (converter, converted)),
        }
    }

    /// A built-in kind by name, for subresources that speak another one than their resource.
    pub fn named(api_version: &'a str, kind: &'a str, built_in: Option<usize>) -> Self {
        Self { api_version, kind, built_in, ty: TypeRef::of(built_in), custom: None }
    }
}

/// How objects of a resource are owned in its version.
pub fn type_of<'a>(desc: &'a Descriptor, api_version: &str) -> TypeRef<'a> {
    match desc.converter.as_ref().and_then(|converter| converter.version(api_version)) {
        Some(version) => version.ty,
        None => TypeRef::of(desc.ty.built_in()),
    }
}

impl Kind for OwnedKind<'_> {
    fn ty(&self) -> TypeRef<'_> {
        self.ty
    }

    fn in_version<'s>(&'s self, object: &Value, api_version: &str) -> InVersion<'s> {
        let from = Some(object.str_at(&["apiVersion"])).filter(|v| !v.is_empty()).unwrap_or(self.api_version);
        let Some((converter, converted)) = self.custom else {
            if api_version == from {
                return InVersion::Is(object.clone(), self.ty);
            }
            return match faces::converted(object, from, self.kind, api_version) {
                Some((object, ty)) => InVersion::Is(object, TypeRef::builtin(ty)),
                None => InVersion::Gone,
            };
        };
        let Some(version) = converter.version(api_version) else { return InVersion::Gone };
        if api_version == from {
            return InVersion::Is(object.clone(), version.ty);
        }
        converted.get(object, api_version).map_or(InVersion::Unknown, |object| InVersion::Is(object, version.ty))
    }

    fn empty(&self) -> Value {
        let mut empty = json!({"apiVersion": self.api_version, "kind": self.kind});
        if let Some(ty) = self.built_in {
            kinit_apimachinery::complete::complete(&mut empty, ty);
        }
        empty
    }
}

/// Custom resources in other versions. Who owns what is worked out at one go and cannot wait for a webhook: objects
/// that are not here yet are noted, fetched, and the work is done again.
#[derive(Default)]
pub struct Converted(Mutex<Objects>);

#[derive(Default)]
struct Objects {
    known: Vec<Known>,
    lacking: Vec<(Value, String)>,
}

struct Known {
    given: Value,
    api_version: String,
    /// `None` when it could not be converted.
    object: Option<Value>,
}

impl Converted {
    fn get(&self, given: &Value, api_version: &str) -> Option<Value> {
        let mut objects = self.0.lock();
        let known = objects.known.iter().find(|known| known.api_version == api_version && known.given == *given);
        if let Some(known) = known {
            return known.object.clone();
        }
        objects.lacking.push((given.clone(), api_version.to_owned()));
        None
    }

    /// Whether something was asked for that is not here.
    pub fn lacks(&self) -> bool {
        !self.0.lock().lacking.is_empty()
    }

    /// Fetches what was asked for; whether that was anything. What cannot be converted is not asked for again.
    pub async fn fetch(&self, desc: &Descriptor) -> Result<bool, ApiError> {
        let lacking = std::mem::take(&mut self.0.lock().lacking);
        if lacking.is_empty() {
            return Ok(false);
        }
        let mut failed = None;
        let mut versions: Vec<String> = lacking.iter().map(|(_, version)| version.clone()).collect();
        versions.sort();
        versions.dedup();
        for version in versions {
            let given: Vec<Value> =
                lacking.iter().filter(|(_, wanted)| *wanted == version).map(|(given, _)| given.clone()).collect();
            let converted = match &desc.converter {
                Some(converter) => converter.in_version(given.clone(), &version).await,
                None => Err(ApiError::internal(format!("nothing converts {} to {version}", desc.kind))),
            };
            let converted: Vec<Option<Value>> = match converted {
                Ok(objects) => objects.into_iter().map(Some).collect(),
                Err(error) => {
                    failed = Some(error);
                    vec![None; given.len()]
                }
            };
            let known = given.into_iter().zip(converted);
            let known = known.map(|(given, object)| Known { given, api_version: version.clone(), object });
            self.0.lock().known.extend(known);
        }
        failed.map_or(Ok(true), Err)
    }
}
