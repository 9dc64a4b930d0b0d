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

/// Reads an Accept header. `None` when it names nothing we have (406).
pub fn negotiate(header: &str) -> Option<Accepted> {
    if header.trim().is_empty() {
        return Some(Accepted { view: View::Object, yaml: false });
    }
    header.split(',').find_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let yaml = match parts.next()? {
            "application/json" | "*/*" | "application/*" => false,
            "application/yaml" => true,
            _ => return None,
        };
        let mut view = View::Object;
        for part in parts {
            match part.split_once('=') {
                Some(("as", "Table")) => view = View::Table,
                Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) => view = View::Metadata,
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

    #[test]
    fn clauses_in_order() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(kubectl).map(|a| a.view), Some(View::Table));
        assert_eq!(
            negotiate("application/vnd.kubernetes.protobuf,application/json").map(|a| a.view),
            Some(View::Object)
        );
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(negotiate("").map(|a| a.view), Some(View::Object));
    }
}
