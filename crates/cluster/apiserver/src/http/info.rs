//! What a request is about (`k8s.io/apiserver/pkg/endpoints/request.RequestInfoFactory`).

use hyper::Method;

/// A request, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether it is about a resource (else only `path` and `verb` count).
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the lower-case method.
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
    query_value(query, key).is_some_and(|v| !matches!(v.as_str(), "false" | "0"))
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
        let mut watch_path = false;
        if parts.first().is_some_and(|p| p == "watch") && parts.len() > 1 {
            watch_path = true;
            parts.remove(0);
        }
        // namespaces/NS/RESOURCE..., but namespaces/NS and namespaces/NS/status|finalize are about the namespace.
        if parts.first().is_some_and(|p| p == "namespaces") && parts.len() > 1 {
            info.namespace = parts[1].clone();
            if parts.len() > 2 && !matches!(parts[2].as_str(), "status" | "finalize") {
                parts.drain(..2);
            }
        }
        let mut parts = parts.into_iter();
        info.resource = parts.next().unwrap_or_default();
        info.name = parts.next().unwrap_or_default();
        info.subresource = parts.next().unwrap_or_default();
        info.rest = parts.collect::<Vec<_>>().join("/");
        info.is_resource = !info.resource.is_empty();
        info.verb = resource_verb(method, &info.name, query, watch_path);
        if matches!(info.verb, "list" | "watch" | "deletecollection") {
            info.field_selector = query_value(query, "fieldSelector").unwrap_or_default();
        }
        if info.name.is_empty()
            && matches!(info.verb, "list" | "watch")
            && let Some(selector) = query_value(query, "fieldSelector")
            && let Ok(selector) = kinit_apimachinery::selector::FieldSelector::parse(&selector)
            && let Some(name) = selector.exact("metadata.name")
        {
            // Authorization may be for one named object; upstream does the same.
            info.name = name.to_owned();
        }
        info
    }

    /// Whether the path named an object (and not only a field selector).
    pub fn named_in_path(&self) -> bool {
        !self.name.is_empty() && !matches!(self.verb, "list" | "watch" | "deletecollection")
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

fn resource_verb(method: &Method, name: &str, query: &str, watch_path: bool) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if name.is_empty() => "deletecollection",
        "DELETE" => "delete",
        "GET" | "HEAD" if watch_path => "watch",
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
        ] {
            assert_eq!(parse(m, p, q), want);
        }
        assert!(!RequestInfo::parse(&Method::GET, "/apis/apps/v1", "").is_resource);
        assert_eq!(percent_decode("a%2Fb+c%zz", true), "a/b c%zz");
    }
}
