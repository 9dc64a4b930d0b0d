//! Calls over HTTPS: one client, with its pool of connections, a `clientConfig`
//! (`k8s.io/apiserver/pkg/util/webhook.ClientManager`).

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use kinit_apimachinery::meta::Meta;
use kinit_storage::Store;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde_json::Value;

/// Answers beyond this are refused: a patch of the largest object fits several times.
const LARGEST: usize = 16 * 1024 * 1024;
/// How much of an unwanted answer an error shows.
const SHOWN: usize = 256;

/// How a webhook is reached.
pub struct Client {
    url: Result<Url, String>,
    authority: String,
    service: Option<ServiceName>,
    http: OnceLock<Result<reqwest::Client, String>>,
}

#[derive(Clone)]
struct ServiceName {
    store: Store,
    namespace: String,
    name: String,
    port: u16,
}

impl Client {
    /// From a `WebhookClientConfig`; what is wrong with it is told when it is called.
    pub fn of(config: &Value, store: &Store) -> Self {
        let authority = config.str_at(&["caBundle"]).to_owned();
        let (url, service) = match config.get("service").filter(|s| s.is_object()) {
            None => (Url::parse(config.str_at(&["url"])).map_err(|e| e.to_string()), None),
            Some(service) => {
                let (namespace, name) = (service.str_at(&["namespace"]), service.str_at(&["name"]));
                let port =
                    service.get("port").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
                let path = service.str_at(&["path"]).trim_start_matches('/');
                let url = Url::parse(&format!("https://{name}.{namespace}.svc:{port}/{path}"));
                let service =
                    ServiceName { store: store.clone(), namespace: namespace.into(), name: name.into(), port };
                (url.map_err(|e| e.to_string()), Some(service))
            }
        };
        Self { url, authority, service, http: OnceLock::new() }
    }

    fn http(&self) -> Result<&reqwest::Client, String> {
        let built = self.http.get_or_init(|| self.build().map_err(|e| format!("could not get REST client: {e}")));
        built.as_ref().map_err(Clone::clone)
    }

    fn build(&self) -> Result<reqwest::Client, String> {
        // Redirects are not followed: the configuration says whom we trust, not the webhook.
        let mut builder = reqwest::Client::builder()
            .user_agent("kube-apiserver-admission")
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(25);
        if !self.authority.is_empty() {
            let pem = base64::engine::general_purpose::STANDARD.decode(&self.authority).map_err(|e| e.to_string())?;
            builder = builder.tls_backend_preconfigured(super::bundle::client_config(&pem)?);
        }
        if let Some(service) = &self.service {
            builder = builder.no_proxy().dns_resolver(service.clone());
        }
        builder.build().map_err(|e| chain(&e))
    }

    /// Sends a review and gives the answer's JSON; the error is upstream's text, after `failed calling webhook "name":
    /// `.
    pub async fn post(&self, review: &Value, patience: Duration) -> Result<Value, String> {
        let mut url = self.url()?;
        url.query_pairs_mut().append_pair("timeout", &format!("{}s", patience.as_millis().div_ceil(1000)));
        self.send(url, review, patience).await.map_err(|cause| format!("failed to call webhook: {cause}"))
    }

    /// The same for a conversion, whose webhooks are not told how long they have.
    pub async fn convert(&self, review: &Value, patience: Duration) -> Result<Value, String> {
        self.send(self.url()?, review, patience).await
    }

    fn url(&self) -> Result<Url, String> {
        self.url.clone().map_err(|e| format!("could not get REST client: {e}"))
    }

    async fn send(&self, url: Url, review: &Value, patience: Duration) -> Result<Value, String> {
        let failed = |cause: String| format!("Post \"{url}\": {cause}");
        if let Some(service) = &self.service {
            service.address().map_err(&failed)?;
        }
        match tokio::time::timeout(patience, self.exchange(url.clone(), review)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Transport(cause))) => Err(failed(cause)),
            Ok(Err(Failure::Other(cause))) => Err(cause),
            Err(_) => Err(failed("context deadline exceeded".into())),
        }
    }

    async fn exchange(&self, url: Url, review: &Value) -> Result<Value, Failure> {
        let other = Failure::Other;
        let http = self.http().map_err(Failure::Other)?;
        let request = http.post(url).header("accept", "application/json").json(review);
        let mut response = request.send().await.map_err(|e| Failure::Transport(chain(&e.without_url())))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| Failure::Transport(chain(&e.without_url())))? {
            if body.len() + chunk.len() > LARGEST {
                return Err(other(format!("the answer is larger than {LARGEST} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            let text: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
            return Err(other(format!("the server answered {status}: {}", text.trim())));
        }
        let (answer, _) = kinit_apimachinery::decode::json(&body)
            .map_err(|e| other(kinit_apimachinery::decode::problem(&e).to_string()))?;
        Ok(answer)
    }
}

enum Failure {
    Transport(String),
    Other(String),
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = cause.source();
    }
    text
}

/// Where a Service is.
enum Address {
    Cluster(IpAddr),
    External(String),
}

impl ServiceName {
    /// `proxy.ResolveCluster` of kube-aggregator: the address is the Service's as it is now.
    fn address(&self) -> Result<Address, String> {
        let Self { store, namespace, name, port } = self;
        let key = format!("{namespace}/{name}");
        let entry = store.cache("services/specs/").map_or(Ok(None), |c| c.get(&key));
        let service = entry.map_err(|e| e.to_string())?.ok_or_else(|| format!("service \"{name}\" not found"))?.value();
        if service.str_at(&["spec", "type"]) == "ExternalName" {
            return Ok(Address::External(service.str_at(&["spec", "externalName"]).to_owned()));
        }
        let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if !ports.iter().any(|p| p.get("port").and_then(Value::as_u64) == Some(u64::from(*port))) {
            return Err(format!("no service port {port} found for service \"{name}\""));
        }
        match service.str_at(&["spec", "clusterIP"]) {
            "None" => Err(format!("service \"{namespace}/{name}\" is headless: it has no cluster IP to call")),
            ip => ip
                .parse()
                .map(Address::Cluster)
                .map_err(|_| format!("service \"{namespace}/{name}\" has no cluster IP yet")),
        }
    }
}

/// The name of the URL is the Service's, for SNI and the certificate; the address is its cluster IP.
impl Resolve for ServiceName {
    fn resolve(&self, _name: Name) -> Resolving {
        let (address, port) = (self.address(), self.port);
        Box::pin(async move {
            let found: Vec<SocketAddr> = match address? {
                Address::Cluster(ip) => vec![SocketAddr::new(ip, port)],
                Address::External(host) => tokio::net::lookup_host((host.as_str(), port)).await?.collect(),
            };
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
