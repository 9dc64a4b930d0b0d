//! Counters of a client's requests, under the names of client-go (`rest_client_requests_total`).

use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use kinit_component_base::metrics;
use kinit_component_base::metrics::prometheus_client::metrics::counter::Counter;
use kinit_component_base::metrics::prometheus_client::metrics::family::Family;
use kinit_component_base::metrics::prometheus_client::metrics::histogram::Histogram;
use tower::Service;

type Text = (&'static str, String);

struct All {
    requests: Family<[Text; 3], Counter>,
    durations: Family<[Text; 2], Histogram, fn() -> Histogram>,
}

static ALL: LazyLock<All> = LazyLock::new(|| {
    let all = All {
        requests: Family::default(),
        // Upstream's buckets.
        durations: Family::new_with_constructor(|| {
            Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0])
        }),
    };
    let registry = metrics::global();
    let help = "Number of HTTP requests, partitioned by status code, method, and host";
    registry.register("rest_client_requests", help, all.requests.clone());
    let help = "Request latency in seconds. Broken down by verb, and host";
    registry.register("rest_client_request_duration_seconds", help, all.durations.clone());
    all
});

/// A client whose requests are counted.
#[derive(Debug, Clone)]
pub struct Counted<S>(pub S);

impl<S, B, R> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (started, answer) = (Started::of(&request), self.0.call(request));
        async move {
            let answer = answer.await;
            started.answered(answer.as_ref().ok().map(http::Response::status));
            answer
        }
        .boxed()
    }
}

/// A request that is under way.
struct Started {
    method: String,
    host: String,
    at: Instant,
}

impl Started {
    /// Of a request whose URI names a host.
    fn of<B>(request: &http::Request<B>) -> Self {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        Self { method: request.method().to_string(), host, at: Instant::now() }
    }

    /// Its answer has begun, or there is none (`<error>`, as client-go says).
    fn answered(self, code: Option<http::StatusCode>) {
        let took: Duration = self.at.elapsed();
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.as_u16().to_string());
        ALL.durations
            .get_or_create(&[("host", self.host.clone()), ("verb", self.method.clone())])
            .observe(took.as_secs_f64());
        ALL.requests.get_or_create(&[("code", code), ("host", self.host), ("method", self.method)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_became_of_them() {
        let request = || http::Request::get("https://192.0.2.7:6443/api").body(()).unwrap();
        Started::of(&request()).answered(Some(http::StatusCode::NOT_FOUND));
        Started::of(&request()).answered(None);
        let text = metrics::global().render();
        for line in [
            "rest_client_requests_total{code=\"404\",host=\"192.0.2.7:6443\",method=\"GET\"} 1",
            "rest_client_requests_total{code=\"<error>\",host=\"192.0.2.7:6443\",method=\"GET\"} 1",
            "rest_client_request_duration_seconds_count{host=\"192.0.2.7:6443\",verb=\"GET\"} 2",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
