//! Metrics APIs whose answers the test decides, behind the API server's aggregation.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kinit_component_base::Shutdown;
use kinit_component_base::ciphers::TlsArgs;
use kinit_component_base::serve::serve;
use kinit_component_base::tls::{ClientAuth, ReloadingCert, server_config};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::{Cluster, eventually};

type Answers = Arc<Mutex<BTreeMap<String, Value>>>;

/// A server of metrics; it ends with this value.
pub struct Measured {
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
    shutdown: Shutdown,
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Measured {
    /// Serves these group versions.
    pub async fn start(cluster: &Cluster, groups: &[(&str, &str)]) -> Self {
        let pki = &cluster.server.pki;
        pki.server("measured", "measured", &[], &["measured.kube-system.svc"]).unwrap();
        let cert = ReloadingCert::load(&pki.file("measured.crt"), &pki.file("measured.key")).unwrap();
        let clients = ClientAuth::Required(pki.file("front-proxy-ca.crt"));
        let tls = server_config(cert, &clients, &TlsArgs::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let out = Self { answers: Answers::default(), asked: Arc::default(), shutdown: Shutdown::new() };
        let (answers, asked) = (out.answers.clone(), out.asked.clone());
        tokio::spawn(serve(listener, Some(tls), out.shutdown.clone(), move |request| {
            let answer = answer(&answers, &asked, &request);
            async move { answer }
        }));
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "measured"},
            "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}}))
        .unwrap();
        let services: Api<Service> = Api::namespaced(cluster.client.clone(), "kube-system");
        services.create(&PostParams::default(), &service).await.unwrap();
        let ca = base64::engine::general_purpose::STANDARD.encode(std::fs::read(pki.file("ca.crt")).unwrap());
        for (group, version) in groups {
            let name = format!("{version}.{group}");
            let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": []});
            out.says(&format!("/apis/{group}/{version}"), list);
            let versions = json!([{"groupVersion": format!("{group}/{version}"), "version": version}]);
            out.says(&format!("/apis/{group}"), json!({"kind": "APIGroup", "name": group, "versions": versions}));
            let object: APIService = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
                "group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100, "caBundle": ca,
                "service": {"namespace": "kube-system", "name": "measured", "port": port}}}))
            .unwrap();
            let api: Api<APIService> = Api::all(cluster.client.clone());
            api.create(&PostParams::default(), &object).await.unwrap();
            eventually("an API service that is available", async || {
                let status = api.get(&name).await.unwrap().status?;
                status.conditions?.iter().any(|c| c.type_ == "Available" && c.status == "True").then_some(())
            })
            .await;
        }
        out
    }

    /// From now on this is at that path.
    pub fn says(&self, path: &str, value: Value) {
        self.answers.lock().insert(path.to_owned(), value);
    }

    /// Each of the pods uses so much CPU and memory.
    pub fn pods(&self, names: &[String], cpu: &str, memory: &str) {
        let now = jiff::Timestamp::now().to_string();
        let item = |name: &String| {
            json!({"metadata": {"name": name, "namespace": "default"}, "timestamp": now, "window": "15s",
                "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": memory}}]})
        };
        let items: Vec<Value> = names.iter().map(item).collect();
        let list =
            json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
        self.says("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", list);
    }

    /// Whether there was a request with all of this in its path and query.
    pub fn was_asked(&self, parts: &[&str]) -> bool {
        self.asked.lock().iter().any(|uri| parts.iter().all(|part| uri.contains(part)))
    }
}

fn answer(answers: &Answers, asked: &Mutex<Vec<String>>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    asked.lock().push(request.uri().to_string());
    let found = answers.lock().get(request.uri().path()).cloned();
    let body = found.as_ref().map_or_else(|| "404 page not found".to_owned(), Value::to_string);
    let mut response: Response<Full<Bytes>> = Response::new(Full::<Bytes>::from(body));
    if found.is_none() {
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}
