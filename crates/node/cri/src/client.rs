//! A thin client: one method per CRI call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Streaming};

use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::{self, *};

/// Upstream's `runtimeRequestTimeout` default.
const REQUEST: Duration = Duration::from_secs(120);
/// Creating a sandbox runs CNI plugins; upstream doubles the request timeout for it.
const SANDBOX: Duration = Duration::from_secs(240);
/// Lists of a node with many containers, and exec output, exceed gRPC's 4 MiB (upstream allows 16 MiB).
const MAX_MESSAGE: usize = 16 << 20;

/// A CRI call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {}", status.message())]
pub struct CriError {
    /// The call's name, as in the interface definition.
    pub call: &'static str,
    /// What the runtime answered.
    #[source]
    pub status: Box<tonic::Status>,
}

impl CriError {
    /// The gRPC code.
    pub fn code(&self) -> tonic::Code {
        self.status.code()
    }

    /// Whether the runtime does not know the container, sandbox or image.
    pub fn is_not_found(&self) -> bool {
        self.code() == tonic::Code::NotFound
    }

    /// Whether the runtime could not be reached.
    pub fn is_unavailable(&self) -> bool {
        self.code() == tonic::Code::Unavailable
    }

    /// The runtime's own words.
    pub fn message(&self) -> &str {
        self.status.message()
    }
}

/// Runtime and image service of one endpoint. Cheap to clone; connects when first used and again after the runtime
/// restarted.
#[derive(Clone)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    socket: PathBuf,
    observer: Option<Observer>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Is told of every call that has ended: its name in the interface definition, how long it took, whether it failed.
pub type Observer = Arc<dyn Fn(&'static str, Duration, bool) + Send + Sync>;

macro_rules! call {
    ($service:ident, $(#[$doc:meta])* $name:ident ( $request:ty ) -> $response:ty, $label:literal, $deadline:expr) => {
        $(#[$doc])*
        pub async fn $name(&self, request: $request) -> Result<$response, CriError> {
            let mut request = Request::new(request);
            request.set_timeout($deadline);
            let mut service = self.$service.clone();
            let call = async {
                let answer = tokio::time::timeout($deadline + Duration::from_secs(1), service.$name(request)).await;
                match answer {
                    Ok(Ok(response)) => Ok(response.into_inner()),
                    Ok(Err(status)) => Err(CriError { call: $label, status: Box::new(status) }),
                    Err(_) => Err(late($label)),
                }
            };
            self.observed($label, call).await
        }
    };
}

impl Runtime {
    /// A client of `unix:///path` or `/path`. Does not connect yet.
    pub fn new(endpoint: &str) -> Result<Self, String> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !path.starts_with('/') {
            return Err(format!("container runtime endpoint {endpoint:?} is not unix:///absolute/path"));
        }
        let socket = PathBuf::from(path);
        let connect_to = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = connect_to.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(Duration::from_secs(5))
            .connect_with_connector_lazy(connector);
        let runtime = RuntimeServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let image = ImageServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Self { runtime, image, socket, observer: None })
    }

    /// The same client, telling of its calls.
    #[must_use]
    pub fn with_observer(self, observer: Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    async fn observed<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, CriError>>,
    ) -> Result<T, CriError> {
        let begun = Instant::now();
        let result = call.await;
        if let Some(observer) = &self.observer {
            observer(name, begun.elapsed(), result.is_err());
        }
        result
    }

    /// The runtime's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    call!(runtime, /// Name and version of the runtime.
        version(VersionRequest) -> VersionResponse, "Version", Duration::from_secs(10));
    call!(runtime, /// Conditions of the runtime (`RuntimeReady`, `NetworkReady`).
        status(StatusRequest) -> StatusResponse, "Status", Duration::from_secs(10));
    call!(runtime, /// Makes and starts a pod's sandbox.
        run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse, "RunPodSandbox", SANDBOX);
    call!(runtime, /// Stops a sandbox and gives its network back. Idempotent.
        stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse, "StopPodSandbox", REQUEST);
    call!(runtime, /// Removes a sandbox with its containers. Idempotent.
        remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse, "RemovePodSandbox", REQUEST);
    call!(runtime, /// A sandbox in full.
        pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, "PodSandboxStatus", REQUEST);
    call!(runtime, /// Sandboxes that match a filter.
        list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, "ListPodSandbox", REQUEST);
    call!(runtime, /// Makes a container.
        create_container(CreateContainerRequest) -> CreateContainerResponse, "CreateContainer", REQUEST);
    call!(runtime, /// Starts a container.
        start_container(StartContainerRequest) -> StartContainerResponse, "StartContainer", REQUEST);
    call!(runtime, /// Removes a container. Idempotent.
        remove_container(RemoveContainerRequest) -> RemoveContainerResponse, "RemoveContainer", REQUEST);
    call!(runtime, /// Containers that match a filter.
        list_containers(ListContainersRequest) -> ListContainersResponse, "ListContainers", REQUEST);
    call!(runtime, /// A container in full.
        container_status(ContainerStatusRequest) -> ContainerStatusResponse, "ContainerStatus", REQUEST);
    call!(runtime, /// Changes the limits of a container that runs.
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse, "UpdateContainerResources", REQUEST);
    call!(runtime, /// Tells the runtime that a container's log file was moved away.
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse, "ReopenContainerLog", REQUEST);
    call!(runtime, /// Asks for a URL to stream a new process's input and output.
        exec(ExecRequest) -> ExecResponse, "Exec", REQUEST);
    call!(runtime, /// Asks for a URL to stream the container's own input and output.
        attach(AttachRequest) -> AttachResponse, "Attach", REQUEST);
    call!(runtime, /// Usage figures of containers.
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, "ListContainerStats", REQUEST);
    call!(runtime, /// Usage figures of sandboxes.
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse, "ListPodSandboxStats", REQUEST);
    call!(runtime, /// Hands the node's pod CIDR to runtimes that write their own network configuration.
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse, "UpdateRuntimeConfig", REQUEST);
    call!(image, /// Images on the node.
        list_images(ListImagesRequest) -> ListImagesResponse, "ListImages", REQUEST);
    call!(image, /// One image, `None` inside the answer when it is not there.
        image_status(ImageStatusRequest) -> ImageStatusResponse, "ImageStatus", REQUEST);
    call!(image, /// Removes an image. Idempotent.
        remove_image(RemoveImageRequest) -> RemoveImageResponse, "RemoveImage", REQUEST);
    call!(image, /// Space that images take.
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, "ImageFsInfo", REQUEST);

    /// Stops a container: its stop signal, then SIGKILL after `grace`.
    pub async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<(), CriError> {
        let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let mut request =
            Request::new(StopContainerRequest { container_id: container_id.to_owned(), timeout: seconds });
        let deadline = REQUEST + grace;
        request.set_timeout(deadline);
        let mut service = self.runtime.clone();
        let call = async {
            match tokio::time::timeout(deadline, service.stop_container(request)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(status)) => Err(CriError { call: "StopContainer", status: Box::new(status) }),
                Err(_) => Err(late("StopContainer")),
            }
        };
        self.observed("StopContainer", call).await
    }

    /// Runs a command to its end; `deadline` zero means none.
    pub async fn exec_sync(
        &self,
        container_id: &str,
        cmd: Vec<String>,
        deadline: Duration,
    ) -> Result<ExecSyncResponse, CriError> {
        let timeout = i64::try_from(deadline.as_secs()).unwrap_or(i64::MAX);
        let mut request = Request::new(ExecSyncRequest { container_id: container_id.to_owned(), cmd, timeout });
        if !deadline.is_zero() {
            request.set_timeout(deadline + REQUEST);
        }
        let call = async {
            let answer = self.runtime.clone().exec_sync(request).await;
            answer.map(tonic::Response::into_inner).map_err(|s| CriError { call: "ExecSync", status: Box::new(s) })
        };
        self.observed("ExecSync", call).await
    }

    /// Pulls an image and returns the reference to create containers with. The caller bounds the time.
    pub async fn pull_image(&self, request: PullImageRequest) -> Result<String, CriError> {
        let call = async {
            let answer = self.image.clone().pull_image(request).await;
            answer.map(|r| r.into_inner().image_ref).map_err(|s| CriError { call: "PullImage", status: Box::new(s) })
        };
        self.observed("PullImage", call).await
    }

    /// What happens to containers, from now on.
    pub async fn container_events(&self) -> Result<Streaming<v1::ContainerEventResponse>, CriError> {
        let answer = self.runtime.clone().get_container_events(GetEventsRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|s| CriError { call: "GetContainerEvents", status: Box::new(s) })
    }
}

fn late(call: &'static str) -> CriError {
    CriError {
        call,
        status: Box::new(tonic::Status::deadline_exceeded("the container runtime did not answer in time")),
    }
}
