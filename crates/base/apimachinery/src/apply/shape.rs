//! How the values of a type are owned: as a whole, or by which parts.
//!
//! One small model for all kinds. The built-in types' comes from the schema's data; a custom kind's is made of its
//! structural schema with a [`Builder`]; where nothing is known, [`TypeRef::deduced`] takes objects by field and all
//! else as a whole.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::path::Atom;
use crate::schema::{Field, ListKind, Ty, schema};

/// Where a shape is among its [`Shapes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(usize);

/// How values of a type are taken apart.
#[derive(Debug, Clone)]
pub enum Shape {
    /// Not at all: scalars, and what is marked atomic.
    Whole,
    /// By declared field.
    Struct {
        /// The declared fields.
        fields: HashMap<String, Id>,
        /// The type of all other fields; `None` where there may be none.
        rest: Option<Id>,
    },
    /// By key; the type of the values.
    Map(Id),
    /// A list of distinct scalars, by value.
    Set,
    /// A list of objects, told apart by keys.
    Keyed {
        /// The keys, in the order of their names.
        keys: Vec<Key>,
        /// The type of an element.
        element: Id,
    },
    /// Objects by field, all else as a whole (`__untyped_deduced_`).
    Deduced,
}

/// A key of a keyed list.
#[derive(Debug, Clone)]
pub struct Key {
    /// The field.
    pub name: String,
    /// What counts where an element leaves it out.
    pub default: Option<Atom>,
}

/// The shapes of some types, which refer to each other.
#[derive(Debug, Clone, Default)]
pub struct Shapes(Vec<Shape>);

/// A type among its shapes.
#[derive(Debug, Clone, Copy)]
pub struct TypeRef<'a> {
    shapes: &'a Shapes,
    id: Id,
}

/// The type of a field.
pub(super) struct Child<'a> {
    pub ty: TypeRef<'a>,
    /// Whether a struct declares it: then it is a member of what is applied only by what is in it.
    pub declared: bool,
}

/// Puts shapes together.
#[derive(Debug, Default)]
pub struct Builder(Shapes);

impl Builder {
    /// Adds a shape.
    pub fn add(&mut self, shape: Shape) -> Id {
        self.0.0.push(shape);
        Id(self.0.0.len() - 1)
    }

    /// Adds a keyed list: (key, default) and its elements' type.
    pub fn keyed(&mut self, keys: impl IntoIterator<Item = (String, Option<Value>)>, element: Id) -> Id {
        let keys = keys.into_iter().map(|(name, default)| Key { name, default: default.as_ref().map(Atom::of) });
        let mut keys: Vec<Key> = keys.collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        self.add(Shape::Keyed { keys, element })
    }

    /// Adds `metav1.ObjectMeta`, which every kind has.
    pub fn object_meta(&mut self) -> Id {
        let whole = self.add(Shape::Whole);
        let map = self.add(Shape::Map(whole));
        let finalizers = self.add(Shape::Set);
        let owners = self.keyed([("uid".to_owned(), Some("".into()))], whole);
        let special = [("labels", map), ("annotations", map), ("finalizers", finalizers), ("ownerReferences", owners)];
        let mut fields: HashMap<String, Id> = special.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect();
        if let Some(ty) = schema().by_name("meta.v1.ObjectMeta") {
            for field in schema().json_fields(ty) {
                fields.entry(field.name.clone()).or_insert(whole);
            }
        }
        self.add(Shape::Struct { fields, rest: None })
    }

    /// The shapes, for [`Shapes::get`].
    pub fn build(self) -> Shapes {
        self.0
    }
}

impl Shapes {
    /// The type at an [`Id`] that this builder gave.
    pub fn get(&self, id: Id) -> TypeRef<'_> {
        TypeRef { shapes: self, id }
    }
}

static UNKNOWN: LazyLock<Shapes> = LazyLock::new(|| Shapes(vec![Shape::Deduced]));
/// The built-in types, at the indices they have in the schema; what their fields need comes behind.
static BUILTIN: LazyLock<Shapes> = LazyLock::new(builtin);
static WHOLE: Shape = Shape::Whole;

impl TypeRef<'static> {
    /// A built-in type, by its index in the schema.
    pub fn builtin(ty: usize) -> Self {
        Self { shapes: &BUILTIN, id: Id(ty) }
    }

    /// A type of which nothing is known.
    pub fn deduced() -> Self {
        Self { shapes: &UNKNOWN, id: Id(0) }
    }

    /// A built-in type, or nothing known.
    pub fn of(ty: Option<usize>) -> Self {
        ty.map_or_else(Self::deduced, Self::builtin)
    }
}

impl<'a> TypeRef<'a> {
    pub(super) fn shape(self) -> &'a Shape {
        self.shapes.0.get(self.id.0).unwrap_or(&WHOLE)
    }

    pub(super) fn at(self, id: Id) -> Self {
        Self { shapes: self.shapes, id }
    }

    /// The type of a field; `None` where there is no such field.
    pub(super) fn field(self, name: &str) -> Option<Child<'a>> {
        let (ty, declared) = match self.shape() {
            Shape::Struct { fields, rest } => match fields.get(name) {
                Some(id) => (self.at(*id), true),
                None => (self.at((*rest)?), false),
            },
            Shape::Map(inner) => (self.at(*inner), false),
            Shape::Deduced => (self, false),
            _ => return None,
        };
        Some(Child { ty, declared })
    }

    /// The same, as a whole where there is no such field.
    pub(super) fn child(self, name: &str) -> Child<'a> {
        self.field(name)
            .unwrap_or_else(|| Child { ty: TypeRef { shapes: &UNKNOWN, id: Id(usize::MAX) }, declared: true })
    }
}

fn builtin() -> Shapes {
    let schema = schema();
    let types: Vec<usize> = schema.types().map(|(index, _)| index).collect();
    let mut out = Builder(Shapes(vec![Shape::Whole; types.len()]));
    let documents: std::collections::HashSet<usize> = schema.kinds().map(|(_, ty)| ty).collect();
    for ty in types {
        if schema.get(ty).atomic {
            continue;
        }
        let mut fields: HashMap<String, Id> =
            schema.json_fields(ty).into_iter().map(|field| (field.name.clone(), of_field(&mut out, field))).collect();
        if documents.contains(&ty) {
            let whole = out.add(Shape::Whole);
            fields.insert("apiVersion".into(), whole);
            fields.insert("kind".into(), whole);
        }
        out.0.0[ty] = Shape::Struct { fields, rest: None };
    }
    out.build()
}

fn of_field(out: &mut Builder, field: &Field) -> Id {
    match (&field.ty, &field.list) {
        (Ty::List(_) | Ty::Map(_), Some(ListKind::Atomic)) | (Ty::List(_), None) => out.add(Shape::Whole),
        (Ty::List(_), Some(ListKind::Set)) => out.add(Shape::Set),
        (Ty::List(inner), Some(ListKind::Map(keys))) => {
            let element = of_type(out, inner);
            let keys: Vec<_> = keys.iter().map(|key| (key.clone(), default_of(inner, key))).collect();
            out.keyed(keys, element)
        }
        (ty, _) => of_type(out, ty),
    }
}

fn of_type(out: &mut Builder, ty: &Ty) -> Id {
    match ty {
        Ty::Message(index) => Id(*index),
        Ty::Map(inner) => {
            let inner = of_type(out, inner);
            out.add(Shape::Map(inner))
        }
        // What may be of several types has none upstream (`OpenAPISchemaType` of `JSONSchemaPropsOrBool`).
        Ty::Raw | Ty::Fields | Ty::Or(..) => out.add(Shape::Deduced),
        _ => out.add(Shape::Whole),
    }
}

/// What a key counts with where it is left out: the declared default, or Go's zero of a field that is always written.
fn default_of(element: &Ty, key: &str) -> Option<Value> {
    let Ty::Message(index) = element else { return None };
    let field = schema().field(*index, key)?;
    field.default.clone().or_else(|| match field.ty {
        _ if field.pointer || field.omitempty => None,
        Ty::Str => Some("".into()),
        Ty::I32 | Ty::I64 => Some(0.into()),
        _ => None,
    })
}
