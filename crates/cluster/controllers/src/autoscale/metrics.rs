//! Clients of the metrics APIs (`metrics/client.go`): `metrics.k8s.io`, `custom.metrics.k8s.io`,
//! `external.metrics.k8s.io`. What they answer is read leniently: other people write these servers.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kinit_apimachinery::quantity::Quantity;
use kube::Client;
use kube::core::Selector;
use parking_lot::Mutex;
use serde_json::Value;

use super::decide::pods::{Sample, Samples};
use crate::workload::pods::brief;

/// The window of a custom metric that does not say one.
const WINDOW: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the version of the custom metrics API is taken for known.
const KNOWN: Duration = Duration::from_secs(30);

/// Asks.
pub struct Metrics {
    client: Client,
    /// The version of custom.metrics.k8s.io, and when it was looked up.
    version: Mutex<Option<(String, std::time::Instant)>>,
}

impl Metrics {
    /// As the controller.
    pub fn new(client: Client) -> Self {
        Self { client, version: Mutex::default() }
    }

    /// What pods use of a resource: of one container or, with "", of all. A pod of which one container is not known is
    /// left out.
    pub async fn resource(
        &self,
        namespace: &str,
        selector: &str,
        resource: &str,
        container: &str,
    ) -> Result<Samples, String> {
        let path = path(
            &["apis", "metrics.k8s.io", "v1beta1", "namespaces", namespace, "pods"],
            &[("labelSelector", selector)],
        );
        let list = self.get(&path, "resource").await?;
        let items = items(&list);
        if items.is_empty() {
            return Err("no metrics returned from resource metrics API".to_owned());
        }
        let mut out = Samples::new();
        for item in items {
            let name = text(item, &["metadata", "name"]);
            if let Some(milli) = used(item, namespace, name, resource, container)? {
                out.insert(name.to_owned(), Sample { time: time(item), window: window(item), milli });
            }
        }
        Ok(out)
    }

    /// A custom metric of each of the pods.
    pub async fn of_pods(
        &self,
        namespace: &str,
        selector: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<Samples, String> {
        let version = self.custom_version().await?;
        let path = path(
            &["apis", "custom.metrics.k8s.io", &version, "namespaces", namespace, "pods", "*", metric],
            &[("labelSelector", selector), ("metricLabelSelector", metric_selector)],
        );
        let list = self.get(&path, "custom").await?;
        let items = items(&list);
        if items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        let sample = |item: &Value| {
            let seconds = item.get("windowSeconds").or_else(|| item.get("window")).and_then(Value::as_u64);
            let window = seconds.map_or(WINDOW, Duration::from_secs);
            let sample = Sample { time: time(item), window, milli: milli(item.get("value"))? };
            Some((text(item, &["describedObject", "name"]).to_owned(), sample))
        };
        Ok(items.iter().filter_map(sample).collect())
    }

    /// A custom metric of an object: of `resource` (`PLURAL.GROUP`), or of the namespace itself where that is "".
    pub async fn of_object(
        &self,
        namespace: &str,
        resource: &str,
        name: &str,
        metric: &str,
        metric_selector: &str,
    ) -> Result<i64, String> {
        let version = self.custom_version().await?;
        let mut segments = vec!["apis", "custom.metrics.k8s.io", &version, "namespaces", namespace];
        match resource {
            "" => segments.extend(["metrics", metric]),
            resource => segments.extend([resource, name, metric]),
        }
        let list = self.get(&path(&segments, &[("metricLabelSelector", metric_selector)]), "custom").await?;
        let value = items(&list).first().and_then(|item| milli(item.get("value")));
        value.ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
    }

    /// The values of an external metric.
    pub async fn external(&self, namespace: &str, metric: &str, selector: &str) -> Result<Vec<i64>, String> {
        let segments = ["apis", "external.metrics.k8s.io", "v1beta1", "namespaces", namespace, metric];
        let list = self.get(&path(&segments, &[("labelSelector", selector)]), "external").await?;
        let values: Vec<i64> = items(&list).iter().filter_map(|item| milli(item.get("value"))).collect();
        match values.is_empty() {
            true => Err("no metrics returned from external metrics API".to_owned()),
            false => Ok(values),
        }
    }

    /// The preferred version of those that are known here (`custom_metrics.NewAvailableAPIsGetter`).
    async fn custom_version(&self) -> Result<String, String> {
        if let Some((version, at)) = &*self.version.lock()
            && at.elapsed() < KNOWN
        {
            return Ok(version.clone());
        }
        let group = self.get("/apis/custom.metrics.k8s.io", "custom").await?;
        let versions = group.get("versions").and_then(Value::as_array).into_iter().flatten();
        let mut served = versions.map(|v| text(v, &["version"]));
        let version = served.find(|v| matches!(*v, "v1beta1" | "v1beta2")).unwrap_or("v1beta1").to_owned();
        *self.version.lock() = Some((version.clone(), std::time::Instant::now()));
        Ok(version)
    }

    async fn get(&self, path: &str, api: &str) -> Result<Value, String> {
        let failed = |why: String| format!("unable to fetch metrics from {api} metrics API: {why}");
        let request = http_request(path).map_err(&failed)?;
        match tokio::time::timeout(PATIENCE, self.client.request::<Value>(request)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failed(brief(&error))),
            Err(_) => Err(failed(format!("no answer in {PATIENCE:?}"))),
        }
    }
}

fn http_request(path: &str) -> Result<http::Request<Vec<u8>>, String> {
    http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())
}

/// A path of these segments and this query, encoded; what is empty in the query is left out.
fn path(segments: &[&str], query: &[(&str, &str)]) -> String {
    let mut out: String = segments.iter().flat_map(|s| ["/".to_owned(), encoded(s)]).collect();
    let mut separator = '?';
    for (key, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(separator);
        out.push_str(&format!("{key}={}", encoded(value)));
        separator = '&';
    }
    out
}

fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~*".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A selector as queries have it; "" for an absent one.
pub fn query(selector: Option<&LabelSelector>) -> Result<String, String> {
    let Some(selector) = selector else { return Ok(String::new()) };
    let selector = Selector::try_from(selector.clone()).map_err(|error| error.to_string())?;
    Ok(if selector.selects_all() { String::new() } else { selector.to_string() })
}

fn items(list: &Value) -> &[Value] {
    list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    path.iter().try_fold(value, |value, key| value.get(key)).and_then(Value::as_str).unwrap_or_default()
}

fn time(item: &Value) -> Timestamp {
    text(item, &["timestamp"]).parse().unwrap_or(Timestamp::UNIX_EPOCH)
}

fn window(item: &Value) -> Duration {
    kinit_component_base::flags::duration(text(item, &["window"])).unwrap_or_default()
}

/// A quantity, which some servers write as a number.
fn milli(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => Some(text.parse::<Quantity>().ok()?.milli()),
        Value::Number(number) => Some(number.to_string().parse::<Quantity>().ok()?.milli()),
        _ => None,
    }
}

fn used(item: &Value, namespace: &str, pod: &str, resource: &str, container: &str) -> Result<Option<i64>, String> {
    let containers = item.get("containers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let of = |c: &Value| milli(c.get("usage").and_then(|u| u.get(resource)));
    if container.is_empty() {
        return Ok(containers.iter().map(of).try_fold(0i64, |sum, milli| Some(sum.saturating_add(milli?))));
    }
    match containers.iter().find(|c| text(c, &["name"]) == container) {
        Some(c) => Ok(of(c)),
        None => Err(format!("container {container} not present in metrics for pod {namespace}/{pod}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_encoded() {
        let reported =
            path(&["apis", "g", "pods", "*", "a/b"], &[("labelSelector", "a=b,c in (d)"), ("metricLabelSelector", "")]);
        assert_eq!(reported, "/apis/g/pods/*/a%2Fb?labelSelector=a%3Db%2Cc%20in%20%28d%29");
    }

    #[test]
    fn selectors_of_metrics() {
        let selector = |value: Value| query(Some(&serde_json::from_value(value).unwrap()));
        assert_eq!(query(None), Ok(String::new()));
        assert_eq!(selector(json!({})), Ok(String::new()));
        assert_eq!(selector(json!({"matchLabels": {"a": "b"}})), Ok("a=b".to_owned()));
    }

    #[test]
    fn what_a_pod_uses() {
        let item = json!({"containers": [{"name": "a", "usage": {"cpu": "100m", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "250000u"}}]});
        let of = |resource: &str, container: &str| used(&item, "n", "p", resource, container);
        assert_eq!(
            (of("cpu", ""), of("memory", ""), of("memory", "a")),
            (Ok(Some(350)), Ok(None), Ok(Some(1_024_000)))
        );
        assert_eq!(of("cpu", "x").unwrap_err(), "container x not present in metrics for pod n/p");
        assert_eq!((milli(Some(&json!(1.5))), milli(Some(&json!("x"))), milli(None)), (Some(1500), None, None));
    }
}
