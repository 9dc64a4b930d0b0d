//! The Accept header: which of our forms of an answer the client wants.

use kinit_apimachinery::proto;

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

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

/// The outcome of the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Which view.
    pub view: View,
    /// How it is written.
    pub encoding: Encoding,
}

impl Accepted {
    /// JSON of the object.
    pub const JSON: Self = Self { view: View::Object, encoding: Encoding::Json };

    /// Whether the answer is YAML.
    pub fn is_yaml(self) -> bool {
        self.encoding == Encoding::Yaml
    }
}

/// Which forms there are of an answer, besides JSON of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// Tables, and metadata alone; of what is stored.
    pub views: bool,
    /// YAML; of all but streams.
    pub yaml: bool,
    /// Protobuf of the object; of built-in kinds. Metadata alone have it always.
    pub protobuf: bool,
}

impl Forms {
    /// What to say to a client that accepts none of them.
    pub fn media_types(self) -> &'static str {
        match (self.yaml, self.protobuf) {
            (true, true) => "application/json, application/yaml, application/vnd.kubernetes.protobuf",
            (true, false) => "application/json, application/yaml",
            (false, true) => "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            (false, false) => "application/json;stream=watch",
        }
    }
}

/// Reads an Accept header. `None` when it names nothing we have (406).
pub fn negotiate(header: &str, forms: Forms) -> Option<Accepted> {
    if header.trim().is_empty() {
        return Some(Accepted::JSON);
    }
    let mut clauses: Vec<(u16, bool, &str)> = header.split(',').map(ranked).collect();
    // The best first, wildcards last among equals, else in the order of the header (`goautoneg.ParseAccept`).
    clauses.sort_by_key(|(quality, wild, _)| (std::cmp::Reverse(*quality), *wild));
    clauses.into_iter().filter(|(quality, ..)| *quality > 0).find_map(|(.., clause)| form(clause, forms))
}

/// A clause's quality in thousandths, and whether its type is a wildcard.
fn ranked(clause: &str) -> (u16, bool, &str) {
    let quality = clause.split(';').skip(1).find_map(|part| part.trim().strip_prefix("q="));
    let quality = quality.and_then(|text| text.trim().parse::<f32>().ok()).filter(|q| (0.0..=1.0).contains(q));
    ((quality.unwrap_or(1.0) * 1000.0) as u16, clause.contains('*'), clause)
}

fn form(clause: &str, forms: Forms) -> Option<Accepted> {
    let mut parts = clause.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "*/*" | "application/*" => Encoding::Json,
        "application/yaml" if forms.yaml => Encoding::Yaml,
        proto::MEDIA_TYPE => Encoding::Protobuf,
        _ => return None,
    };
    let mut view = View::Object;
    for part in parts {
        match part.split_once('=') {
            Some(("as", "Table")) if forms.views => view = View::Table,
            Some(("as", "PartialObjectMetadata" | "PartialObjectMetadataList")) if forms.views => view = View::Metadata,
            Some(("as", _)) => return None,
            Some(("v", v)) if v != "v1" => return None,
            _ => {}
        }
    }
    let is_there = encoding != Encoding::Protobuf
        || match view {
            View::Object => forms.protobuf,
            View::Metadata => true,
            View::Table => false,
        };
    is_there.then_some(Accepted { view, encoding })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Forms = Forms { views: true, yaml: true, protobuf: true };
    const JSON: Option<Accepted> = Some(Accepted::JSON);
    const PROTOBUF: Option<Accepted> = Some(Accepted { view: View::Object, encoding: Encoding::Protobuf });

    #[test]
    fn clauses_in_order() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let table = Some(Accepted { view: View::Table, encoding: Encoding::Json });
        let metadata = Some(Accepted { view: View::Metadata, encoding: Encoding::Protobuf });
        for (header, want) in [
            (kubectl, table),
            ("", JSON),
            ("*/*", JSON),
            ("application/vnd.kubernetes.protobuf,application/json", PROTOBUF),
            ("application/vnd.kubernetes.protobuf", PROTOBUF),
            ("application/json,application/vnd.kubernetes.protobuf", JSON),
            ("application/vnd.kubernetes.protobuf;stream=watch", PROTOBUF),
            ("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", metadata),
            // A Table has no protobuf form.
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io",
                table,
            ),
            ("text/html", None),
        ] {
            assert_eq!(negotiate(header, ALL), want, "{header}");
        }
    }

    #[test]
    fn qualities_come_before_the_order() {
        for (header, want) in [
            ("application/json;q=0.5, application/vnd.kubernetes.protobuf", PROTOBUF),
            ("application/json;q=0.5, application/vnd.kubernetes.protobuf;q=0.4", JSON),
            ("*/*, application/vnd.kubernetes.protobuf", PROTOBUF),
            ("*/*;q=0.8, text/html", JSON),
            ("application/json;q=0", None),
            ("application/json;q=high", JSON),
        ] {
            assert_eq!(negotiate(header, ALL), want, "{header}");
        }
    }

    #[test]
    fn what_there_is_not_is_left_out() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(negotiate(table, Forms { views: false, ..ALL }), None, "a review is no Table");
        assert_eq!(negotiate(&format!("{table},application/json"), Forms { views: false, ..ALL }), JSON);
        assert_eq!(negotiate("application/yaml", Forms { yaml: false, ..ALL }), None, "a watch is no YAML document");
        let custom = Forms { protobuf: false, ..ALL };
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf", custom), None, "a custom resource has no numbers");
        assert_eq!(negotiate("application/vnd.kubernetes.protobuf,application/json", custom), JSON);
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(negotiate(metadata, custom).map(|a| a.encoding), Some(Encoding::Protobuf));
    }
}
