//! CONNECT: streams into pods and proxied requests, whose options are shown as an object.

use kinit_apimachinery::ApiError;
use serde_json::{Map, Value};

use super::super::{Attributes, Operation};
use crate::http::info::query_pairs;
use crate::registry::Request;

/// Asks all webhooks about a request that connects; gives the query to go on with.
pub async fn connect(request: &Request, query: &str) -> Result<String, ApiError> {
    let subresource = request.info.subresource.as_str();
    let attributes = Attributes { request, operation: Operation::Connect, old: None, dry_run: false, subresource };
    if super::asked(&attributes, true).await?.is_empty() && super::asked(&attributes, false).await?.is_empty() {
        return Ok(query.to_owned());
    }
    let Some((group, version, kind)) = request.desc.sub(subresource).and_then(|s| s.gvk) else {
        return Ok(query.to_owned());
    };
    let path = (subresource == "proxy").then_some(request.info.rest.as_str());
    let mut options = options(&crate::resources::descriptor::api_version(group, version), kind, query, path);
    let changed = super::super::rounds::mutate(&attributes, &mut options).await?;
    super::validate(&attributes, &options).await?;
    match (changed, path) {
        (false, _) => Ok(query.to_owned()),
        (true, None) => Ok(query_of(&options)),
        (true, Some(_)) => Err(ApiError::internal(
            "an admission webhook changed the options of a proxied request, which this version does not support",
        )),
    }
}

fn options(api_version: &str, kind: &str, query: &str, path: Option<&str>) -> Value {
    let mut out = Map::new();
    out.insert("kind".into(), kind.into());
    out.insert("apiVersion".into(), api_version.into());
    if let Some(path) = path {
        out.insert("path".into(), path.into());
        return out.into();
    }
    for (key, value) in query_pairs(query) {
        match key.as_str() {
            "stdin" | "stdout" | "stderr" | "tty" => {
                let on = value != "0" && !value.eq_ignore_ascii_case("false");
                out.insert(key, on.into());
            }
            "container" => {
                out.insert(key, value.into());
            }
            "command" | "ports" => {
                let values = value.split(',').filter(|_| key == "ports").filter_map(|p| p.parse::<i64>().ok());
                let values: Vec<Value> =
                    if key == "command" { vec![value.clone().into()] } else { values.map(Value::from).collect() };
                if let Some(list) = out.entry(key).or_insert_with(|| Value::Array(Vec::new())).as_array_mut() {
                    list.extend(values);
                }
            }
            _ => {}
        }
    }
    out.into()
}

fn query_of(options: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (key, value) in options.as_object().into_iter().flatten() {
        match value {
            _ if matches!(key.as_str(), "kind" | "apiVersion") => {}
            Value::Null => {}
            Value::Array(list) => pairs.extend(list.iter().map(|v| (key.clone(), text(v)))),
            value => pairs.push((key.clone(), text(value))),
        }
    }
    let mut url = reqwest::Url::parse("https://options/").ok();
    if let Some(url) = &mut url {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    url.as_ref().and_then(|u| u.query()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_go_both_ways() {
        let query = "command=sh&command=-c&command=a+%26+b&container=c&stdin=true&stdout=1&tty=false";
        let object = options("v1", "PodExecOptions", query, None);
        let want = json!({"kind": "PodExecOptions", "apiVersion": "v1", "command": ["sh", "-c", "a & b"],
            "container": "c", "stdin": true, "stdout": true, "tty": false});
        assert_eq!(object, want);
        assert_eq!(query_of(&object), query.replace("=1", "=true"));
        assert_eq!(options("v1", "PodPortForwardOptions", "ports=80,81&ports=90", None)["ports"], json!([80, 81, 90]));
        assert_eq!(options("v1", "PodProxyOptions", "x=y", Some("a/b"))["path"], "a/b");
    }
}
