//! Lifecycle handlers (`pkg/kubelet/lifecycle/handlers.go`).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::kubelet::Kubelet;
use crate::probe::http;

/// Runs a handler to its end; the caller bounds the time.
pub async fn run(
    kubelet: &Kubelet,
    handler: &LifecycleHandler,
    container: &Container,
    id: &str,
    pod_ip: Option<&str>,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer = kubelet.runtime.exec_sync(id, command.clone(), Duration::ZERO).await;
        let answer = answer.map_err(|e| format!("command {command:?}: {}", e.message()))?;
        return if answer.exit_code == 0 {
            Ok(())
        } else {
            Err(format!(
                "command {command:?} exited with {}: {}",
                answer.exit_code,
                String::from_utf8_lossy(&answer.stderr)
            ))
        };
    }
    if let Some(get) = &handler.http_get {
        let target = http::target(get, container, pod_ip)?;
        return http::get(&target, Duration::from_secs(30)).await.and_then(|answer| answer.into_result());
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if handler.tcp_socket.is_some() {
        // Upstream accepts the field for old objects and does nothing with it.
        return Err("tcpSocket is no lifecycle handler".to_owned());
    }
    Err("the lifecycle handler is empty".to_owned())
}
