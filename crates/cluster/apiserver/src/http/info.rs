//! What a request is about (`k8s.io/apiserver/pkg/endpoints/request.RequestInfoFactory`).

use hyper::Method;

/// A request, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether it is about a resource (else only `path` and `verb` count).
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the lower-case
    /// method.
    pub verb: &'static str,
    /// API group, "" for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, "" for none or all.
    pub namespace: String,
    /// Resource (plural).
    pub resource: String,
    /// Subresource, "" for none.
    pub subresource: String,
    /// Name, "" for collections.
    pub name: String,
    /// What follows the subresource (proxied paths).
    pub rest: String,
    /// The whole path.
    pub path: String,
    /// `fieldSelector` of a list or watch.
    pub field_selector: String,
    /// The label selector of a list or watch.
    pub label_selector: String,
    /// Whether the path names the object (and not only a field selector).
    pub named: bool,
    /// Whether the path is below a namespace (and not the namespace's own).
    pub in_namespace: bool,
    /// Whether the path is one of the deprecated ones below `watch/`.
    pub watch_path: bool,
}

/// Value of a query parameter, decoded.
pub fn query_value(query: &str, key: &str) -> Option<String> {
    query_pairs(query).into_iter().find(|(k, _)| k == key).map(|(_, v)| v)
}

/// All query parameters, decoded.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|p| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (percent_decode(k, true), percent_decode(v, true))
        })
        .collect()
}

/// Undoes percent encoding; `plus` for query strings, where + is a space.
pub fn percent_decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|c| char::from(*c).to_digit(16));
        match bytes[i] {
            b'%' => {
                if let (Some(a), Some(b)) = (hex(i + 1), hex(i + 2)) {
                    out.push(u8::try_from(a * 16 + b).unwrap_or(b'?'));
                    i += 3;
                    continue;
                }
                out.push(b'%');
            }
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn truthy(query: &str, key: &str) -> bool {
    query_value(query, key).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
}

impl RequestInfo {
    /// Takes a request apart.
    pub fn parse(method: &Method, path: &str, query: &str) -> Self {
        let mut info = Self { path: path.to_owned(), verb: plain_verb(method), ..Self::default() };
        let mut parts: Vec<String> = path.trim_matches('/').split('/').map(|p| percent_decode(p, false)).collect();
        let head = match (parts.first().map(String::as_str), parts.len()) {
            (Some("api"), 3..) => 2,
            (Some("apis"), 4..) => 3,
            _ => return info,
        };
        if head == 3 {
            info.group = parts[1].clone();
        }
        info.version = parts[head - 1].clone();
        parts.drain(..head);
        if parts.first().is_some_and(|p| p == "watch") && parts.len() > 1 {
            info.watch_path = true;
            parts.remove(0);
        }
        // namespaces/NS/RESOURCE..., but namespaces/NS and namespaces/NS/status|finalize are about the namespace.
        if parts.first().is_some_and(|p| p == "namespaces") && parts.len() > 1 {
            info.namespace = parts[1].clone();
            if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
                info.in_namespace = true;
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        info.resource = parts.next().unwrap_or_default();
        info.name = parts.next().unwrap_or_default();
        info.subresource = parts.next().unwrap_or_default();
        info.rest = parts.collect::<Vec<_>>().join("/");
        info.is_resource = !info.resource.is_empty();
        info.named = !info.name.is_empty();
        info.verb = if info.watch_path { "watch" } else { resource_verb(method, &info.name, query) };
        if matches!(info.verb, "list" | "watch" | "deletecollection") {
            info.field_selector = query_value(query, "fieldSelector").unwrap_or_default();
            info.label_selector = query_value(query, "labelSelector").unwrap_or_default();
        }
        if info.name.is_empty()
            && matches!(info.verb, "list" | "watch")
            && let Some(selector) = query_value(query, "fieldSelector")
            && let Ok(selector) = kinit_apimachinery::selector::FieldSelector::parse(&selector)
            && let Some(name) = selector.exact("metadata.name")
            && !matches!(name, "." | "..")
            && !name.contains(['/', '%'])
        {
            // Authorization may be for one named object; upstream does the same.
            info.name = name.to_owned();
        }
        info
    }

    /// Whether the path is one that no resource has: parts too many, a namespace where there is none or the wrong one.
    pub fn is_odd(&self, namespaced: bool) -> bool {
        // A right in a namespace is none to what is in no namespace, and that includes the namespaces themselves.
        let elsewhere = if namespaced { self.namespace.is_empty() && self.named } else { self.in_namespace };
        elsewhere
            || (!self.rest.is_empty() && self.subresource != "proxy")
            || (self.watch_path && !self.subresource.is_empty())
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "unknown",
    }
}

fn resource_verb(method: &Method, name: &str, query: &str) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        "GET" | "HEAD" if name.is_empty() && truthy(query, "watch") => "watch",
        "GET" | "HEAD" if name.is_empty() => "list",
        "GET" | "HEAD" => "get",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_no_resource_has() {
        for (path, namespaced, odd) in [
            ("/api/v1/namespaces/a", false, false),
            ("/api/v1/namespaces/a/status", false, false),
            ("/api/v1/watch/namespaces/a", false, false),
            ("/api/v1/namespaces/a/namespaces", false, true),
            ("/api/v1/namespaces/a/namespaces/a", false, true),
            ("/api/v1/namespaces/a/namespaces/b/status", false, true),
            ("/api/v1/namespaces/a/nodes", false, true),
            ("/api/v1/namespaces/a/nodes/a", false, true),
            ("/api/v1/pods", true, false),
            ("/api/v1/pods/b", true, true),
            ("/api/v1/watch/pods/b", true, true),
            ("/api/v1/watch/namespaces/a/pods/b", true, false),
            ("/api/v1/watch/namespaces/a/pods/b/log", true, true),
            ("/api/v1/namespaces/a/pods/b/log/c", true, true),
            ("/api/v1/namespaces/a/pods/b/proxy/c", true, false),
        ] {
            assert_eq!(RequestInfo::parse(&Method::GET, path, "").is_odd(namespaced), odd, "{path}");
        }
    }

    #[test]
    fn paths() {
        let parse = |m: Method, p: &str, q: &str| {
            let i = RequestInfo::parse(&m, p, q);
            format!(
                "{} {}/{} ns={} {} {} sub={} rest={}",
                i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.rest
            )
        };
        for (m, p, q, want) in [
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "", "get /v1 ns=a pods b sub=log rest="),
            (Method::GET, "/api/v1/pods", "watch=true", "watch /v1 ns= pods  sub= rest="),
            (Method::GET, "/api/v1/watch/namespaces/a/pods", "", "watch /v1 ns=a pods  sub= rest="),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "", "update /v1 ns=a namespaces a sub=finalize rest="),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                "",
                "deletecollection apps/v1 ns=a deployments  sub= rest=",
            ),
            (Method::GET, "/api/v1/nodes/n/proxy/logs/x", "", "get /v1 ns= nodes n sub=proxy rest=logs/x"),
            (Method::GET, "/api/v1/pods", "fieldSelector=metadata.name%3Dx", "list /v1 ns= pods x sub= rest="),
            (Method::GET, "/api/v1/pods", "fieldSelector=metadata.name%3Dx%2Fy", "list /v1 ns= pods  sub= rest="),
            (Method::GET, "/api/v1/pods", "watch=False", "list /v1 ns= pods  sub= rest="),
            (Method::GET, "/api/v1/watch/namespaces/a/secrets/b", "", "watch /v1 ns=a secrets b sub= rest="),
            (Method::GET, "/api/v1/watch/namespaces/a", "", "watch /v1 ns=a namespaces a sub= rest="),
            (Method::POST, "/api/v1/watch/namespaces/a/pods", "", "watch /v1 ns=a pods  sub= rest="),
        ] {
            assert_eq!(parse(m, p, q), want);
        }
        assert!(!RequestInfo::parse(&Method::GET, "/apis/apps/v1", "").is_resource);
        assert!(!RequestInfo::parse(&Method::GET, "/api/v1/pods", "fieldSelector=metadata.name%3Dx").named);
        assert_eq!(percent_decode("a%2Fb+c%zz", true), "a/b c%zz");
    }
}
