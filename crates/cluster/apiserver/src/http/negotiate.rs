//! The Accept header: which of our forms of an answer the client wants.

/// What the object is shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// Metadata alone.
    Metadata,
}

/// The outcome of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Which view.
    pub view: View,
    /// YAML instead of JSON.
    pub yaml: bool,
}

/// Which forms there are of an answer, besides JSON of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// Tables, and metadata alone; of what is stored.
    pub views: bool,
    /// YAML; of all but streams.
    pub yaml: bool,
}

/// Reads an Accept header. `None` when it names nothing we have (406).
pub fn negotiate(header: &str, forms: Forms) -> Option<Accepted> {
    if header.trim().is_empty() {
        return Some(Accepted { view: View::Object, yaml: false });
    }
    header.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let yaml = match parts.next()? {
            "application/json" | "*/*" | "application/*" => false,
            "application/yaml" if forms.yaml => true,
            _ => return None,
        };
        let mut view = View::Object;
        for part in parts {
            match part.split_once('=') {
                Some(("as", "Table")) if forms.views => view = View::Table,
                Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) if forms.views => {
                    view = View::Metadata;
                }
                Some(("as", _)) => return None,
                Some(("v", v)) if v != "v1" => return None,
                _ => {}
            }
        }
        Some(Accepted { view, yaml })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Forms = Forms { views: true, yaml: true };

    #[test]
    fn clauses_in_order() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let view = |header: &str, forms: Forms| negotiate(header, forms).map(|accepted| accepted.view);
        assert_eq!(view(kubectl, ALL), Some(View::Table));
        assert_eq!(view("application/vnd.kubernetes.protobuf,application/json", ALL), Some(View::Object));
        assert_eq!(view("application/vnd.kubernetes.protobuf", ALL), None);
        assert_eq!(view("", ALL), Some(View::Object));
    }

    #[test]
    fn what_there_is_not_is_left_out() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(negotiate(table, Forms { views: false, ..ALL }), None, "a review is no Table");
        let accepted = negotiate(&format!("{table},application/json"), Forms { views: false, ..ALL });
        assert_eq!(accepted, Some(Accepted { view: View::Object, yaml: false }));
        assert_eq!(negotiate("application/yaml", Forms { yaml: false, ..ALL }), None, "a watch is no YAML document");
    }
}
