//! Requests: health for all, everything else for whom the API server allows it.

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use kinit_apimachinery::ApiError;
use kinit_client::delegated::{Asked, Delegated, User};
use kinit_component_base::health::Checks;
use kinit_component_base::serve::{Connection, health_response};

use crate::api::request::{self, Route};
use crate::api::{Api, GROUP, JSON, VERSION};

/// What requests share.
pub struct Server {
    /// What is served.
    pub api: Api,
    /// Who may.
    pub delegated: Delegated,
    /// `/livez`, `/healthz`.
    pub live: Checks,
    /// `/readyz`.
    pub ready: Checks,
}

impl Server {
    /// Answers.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or(""));
        let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
        match first {
            "livez" | "healthz" => return health_response(&self.live, path, query),
            "readyz" => return health_response(&self.ready, path, query),
            _ => {}
        }
        match self.allowed(&request).await {
            Ok(route) => match route {
                Route::Metrics => health_response(&self.live, "/metrics", ""),
                route => self.api.answer(&route, request.headers()).unwrap_or_else(|error| refuse(&error)),
            },
            Err(error) => refuse(&error),
        }
    }

    /// Where a request leads, if its sender may go there.
    async fn allowed(&self, request: &Request<Incoming>) -> Result<Route, ApiError> {
        let certificates = request.extensions().get::<Connection>().map(|c| c.certificates.clone());
        let who = self.delegated.who(request.headers(), certificates.as_deref().unwrap_or_default()).await;
        let user = who.map_err(|error| trouble("authenticate", &error))?.ok_or_else(ApiError::unauthorized)?;
        let route = request::parse(request.uri())?;
        let verb = request.method().as_str().to_ascii_lowercase();
        let asked = match &route {
            Route::Resource(resource) => match *request.method() {
                Method::GET | Method::HEAD => resource.asked(),
                _ => return Err(ApiError::method_not_supported(GROUP, resource.kind.plural(), &verb)),
            },
            _ => Asked::Path { verb, path: request.uri().path().to_owned() },
        };
        match self.delegated.may(&user, &asked).await.map_err(|error| trouble("authorize", &error))? {
            true if matches!(*request.method(), Method::GET | Method::HEAD) => Ok(route),
            true => Err(ApiError::method_not_allowed()),
            false => Err(forbidden(&user, &asked)),
        }
    }
}

/// Upstream's words (`responsewriters.Forbidden`).
fn forbidden(user: &User, asked: &Asked) -> ApiError {
    let who = &user.name;
    match asked {
        Asked::Resource { verb, resource, namespace, name, .. } => {
            let place = match namespace.as_str() {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace \"{namespace}\""),
            };
            let cause =
                format!("User \"{who}\" cannot {verb} resource \"{resource}\" in API group \"{GROUP}\" {place}");
            ApiError::forbidden(GROUP, resource, name, &cause)
        }
        Asked::Path { verb, path } => {
            ApiError::new(403, "Forbidden", format!("forbidden: User \"{who}\" cannot {verb} path \"{path}\""))
        }
    }
}

/// The caller learns that it did not work, the log why.
fn trouble(doing: &str, error: &anyhow::Error) -> ApiError {
    tracing::warn!(error = format!("{error:#}"), version = VERSION, "{doing} a request");
    ApiError::internal(format!("could not {doing} the request"))
}

fn refuse(error: &ApiError) -> Response<Full<Bytes>> {
    respond(error.code, JSON, error.to_status().to_string())
}

/// An answer.
pub fn respond(status: u16, media: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
