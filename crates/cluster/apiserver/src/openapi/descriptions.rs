//! What the published API definitions say of types and fields, for `kubectl explain` (`data/descriptions.txt`, made by
//! `cargo xtask prose`).

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

static TEXT: &str = include_str!("../../data/descriptions.txt");
/// Each definition's part of the text, by its name. The text itself stays in the program's file until it is asked for.
static PARTS: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    let parts = TEXT.split("\n@").skip(1);
    parts.filter_map(|part| Some((part.split_once('\t')?.0, part))).collect()
});

/// What is said of a type.
pub struct Descriptions(&'static str);

/// Of lists the source has one description for all.
const LIST: &str = "io.k8s.List";

/// What is said of the type of this name (`io.k8s.api.core.v1.Pod`), if something is.
pub fn of(name: &str) -> Option<Descriptions> {
    let list = || PARTS.get(LIST).filter(|_| name.ends_with("List"));
    PARTS.get(name).or_else(list).copied().map(Descriptions)
}

impl Descriptions {
    /// Of the type itself.
    pub fn own(&self) -> Option<Value> {
        self.0.lines().next().and_then(text)
    }

    /// Of a field, by its name in JSON.
    pub fn field(&self, name: &str) -> Option<Value> {
        let is_its = |line: &&str| line.split_once('\t').is_some_and(|(field, _)| field == name);
        self.0.lines().skip(1).find(is_its).and_then(text)
    }
}

fn text(line: &str) -> Option<Value> {
    let (_, text) = line.split_once('\t').filter(|(_, text)| !text.is_empty())?;
    Some(text.replace("\\n", "\n").replace("\\\\", "\\").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinit_apimachinery::schema::{Ty, schema};

    #[test]
    fn well_known_words() {
        let pod = of("io.k8s.api.core.v1.Pod").unwrap();
        assert!(pod.own().unwrap().as_str().unwrap().starts_with("Pod is a collection of containers"));
        assert!(pod.field("spec").unwrap().as_str().unwrap().starts_with("Specification of the desired behavior"));
        assert!(pod.field("nothing").is_none() && of("io.k8s.api.core.v1.Nothing").is_none());
        let rule = of("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ValidationRule").unwrap();
        assert!(rule.field("rule").unwrap().as_str().unwrap().contains('\n'));
    }

    /// A type that was added to the schema and not here would be silent in `kubectl explain`.
    #[test]
    fn nearly_every_field_is_described() {
        let (mut silent, mut all) = (Vec::new(), 0);
        let members = schema().types().flat_map(|(_, known)| known.fields.iter().filter(|f| f.inline));
        let inlined: Vec<_> = members.map(|f| f.ty.clone()).collect();
        for (ty, known) in schema().types() {
            // Documents have neither: options are parameters, and inlined members are in their parents.
            if known.name.ends_with("Options") || inlined.contains(&Ty::Message(ty)) {
                continue;
            }
            let described = of(&super::super::component(ty));
            for field in schema().json_fields(ty) {
                all += 1;
                if described.as_ref().is_none_or(|d| d.field(&field.name).is_none()) {
                    silent.push(format!("{}.{}", known.name, field.name));
                }
            }
        }
        // Upstream itself says nothing of the fields of JSONSchemaProps.
        assert!(silent.len() * 40 < all, "{} of {all}: {silent:?}", silent.len());
    }
}
