//! Paths and queries.

use http::Uri;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::selector::{FieldSelector, LabelSelector};
use kinit_client::delegated::Asked;

use super::{GROUP, VERSION};
use crate::known::Known;

/// Which resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// NodeMetrics.
    Node,
    /// PodMetrics.
    Pod,
}

impl Kind {
    /// The plural name.
    pub fn plural(self) -> &'static str {
        if self == Self::Node { "nodes" } else { "pods" }
    }

    /// The kind.
    pub fn name(self) -> &'static str {
        if self == Self::Node { "NodeMetrics" } else { "PodMetrics" }
    }
}

/// Where a request leads.
#[derive(Debug, Clone)]
pub enum Route {
    /// A resource.
    Resource(Resource),
    /// A document, by its path.
    Document(String),
    /// The server's own metrics.
    Metrics,
}

/// A request for a resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Which.
    pub kind: Kind,
    /// "" for all, and for nodes.
    pub namespace: String,
    /// One of them.
    pub name: Option<String>,
    /// `includeObject` of Tables.
    pub include: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Resource {
    /// What is to be authorized.
    pub fn asked(&self) -> Asked {
        let verb = if self.name.is_some() { "get" } else { "list" };
        // A list of one name is a request for that name (`RequestInfoFactory.NewRequestInfo`).
        let name = self.name.as_deref().or_else(|| self.fields.exact("metadata.name")).unwrap_or("");
        Asked::Resource {
            verb,
            group: GROUP,
            version: VERSION,
            resource: self.kind.plural().to_owned(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }

    /// Whether the selectors take it.
    pub fn selects(&self, known: &Known) -> bool {
        let field = |path: &str| match path {
            "metadata.name" => Some(known.name.as_str()),
            "metadata.namespace" => Some(known.namespace.as_str()),
            _ => None,
        };
        self.labels.matches(|key| known.label(key)) && self.fields.matches(field)
    }
}

/// Reads the path and the query.
pub fn parse(uri: &Uri) -> Result<Route, ApiError> {
    let path = uri.path().trim_end_matches('/');
    if path == "/metrics" {
        return Ok(Route::Metrics);
    }
    let below = path.strip_prefix("/apis/metrics.k8s.io/v1beta1/");
    let Some(below) = below else { return Ok(Route::Document(path.to_owned())) };
    let parts: Vec<&str> = below.split('/').collect();
    let (kind, namespace, name) = match *parts.as_slice() {
        ["nodes"] => (Kind::Node, "", None),
        ["nodes", name] => (Kind::Node, "", Some(name)),
        ["pods"] => (Kind::Pod, "", None),
        ["namespaces", namespace, "pods"] => (Kind::Pod, namespace, None),
        ["namespaces", namespace, "pods", name] => (Kind::Pod, namespace, Some(name)),
        _ => return Err(ApiError::no_such_path()),
    };
    if parts.iter().any(|part| part.is_empty()) {
        return Err(ApiError::no_such_path());
    }
    let mut out = Resource {
        kind,
        namespace: namespace.to_owned(),
        name: name.map(str::to_owned),
        include: String::new(),
        labels: LabelSelector::default(),
        fields: FieldSelector::default(),
    };
    for (key, value) in url::form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
        match &*key {
            "labelSelector" => out.labels = LabelSelector::parse(&value).map_err(ApiError::bad_request)?,
            "fieldSelector" => out.fields = fields(&value)?,
            "includeObject" => out.include = value.into_owned(),
            // There is nothing to watch: what is used changes all the time.
            "watch" if matches!(&*value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True") => {
                return Err(ApiError::method_not_supported(GROUP, kind.plural(), "watch"));
            }
            _ => {}
        }
    }
    Ok(Route::Resource(out))
}

/// The fields that every kind has are known, as upstream's default conversion has it (`MetaFieldSelectorConversion`).
fn fields(text: &str) -> Result<FieldSelector, ApiError> {
    let selector = FieldSelector::parse(text).map_err(ApiError::bad_request)?;
    for (path, _, _) in &selector.0 {
        if !matches!(path.as_str(), "metadata.name" | "metadata.namespace") {
            let known = "only \"metadata.name\", \"metadata.namespace\"";
            return Err(ApiError::bad_request(format!("\"{path}\" is not a known field selector: {known}")));
        }
    }
    Ok(selector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::tests::known;

    fn resource(below: &str) -> Result<Resource, u16> {
        match parse(&format!("/apis/metrics.k8s.io/v1beta1/{below}").parse().unwrap()) {
            Ok(Route::Resource(resource)) => Ok(resource),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        }
    }

    #[test]
    fn paths() {
        let reported = |below: &str| match resource(below).unwrap().asked() {
            Asked::Resource { verb, resource, namespace, name, .. } => format!("{verb} {resource} {namespace} {name}"),
            Asked::Path { .. } => panic!(),
        };
        assert_eq!(reported("nodes"), "list nodes  ");
        assert_eq!(reported("nodes/n1"), "get nodes  n1");
        assert_eq!(reported("pods?limit=500"), "list pods  ");
        assert_eq!(reported("namespaces/a/pods?fieldSelector=metadata.name%3Dp"), "list pods a p");
        assert_eq!(reported("namespaces/a/pods/p"), "get pods a p");
        for (below, code) in [
            ("pods/p", 404),
            ("namespaces/a/nodes", 404),
            ("namespaces//pods", 404),
            ("nodes/n/status", 404),
            ("secrets", 404),
            ("pods?watch=true", 405),
            ("pods?labelSelector=a%20b", 400),
            ("pods?fieldSelector=spec.nodeName%3Dx", 400),
        ] {
            assert_eq!(resource(below).err(), Some(code), "{below}");
        }
    }

    #[test]
    fn selectors() {
        let pod = known("a", "p", &[("app", "web")]);
        for (query, expected) in [
            ("labelSelector=app%3Dweb", true),
            ("labelSelector=app!%3Dweb", false),
            ("labelSelector=app+in+(web,db),!x&fieldSelector=metadata.name%3Dp", true),
            ("fieldSelector=metadata.name!%3Dp", false),
            ("fieldSelector=metadata.namespace%3Da", true),
        ] {
            assert_eq!(resource(&format!("pods?{query}")).unwrap().selects(&pod), expected, "{query}");
        }
    }
}
