//! gRPC health checks (`grpc.health.v1.Health/Check`), small enough to speak by hand over HTTP/2.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

const SERVING: u8 = 1;

/// Asks; `Ok` means SERVING.
pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    tokio::time::timeout(timeout, ask(host, port, service))
        .await
        .map_err(|_| format!("timeout: failed to connect service \"{host}:{port}\" within {timeout:?}"))?
}

async fn ask(host: &str, port: u16, service: &str) -> Result<(), String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|e| format!("connect to {host}:{port}: {e}"))?;
    let text = |e: hyper::Error| format!("gRPC health check of {host}:{port}: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
    let connection = tokio::spawn(connection);
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = hyper::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(request(service)))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(text)?;
    let early = answer.headers().get("grpc-status").cloned();
    let collected = Limited::new(answer.into_body(), 64 << 10).collect().await.map_err(|e| e.to_string())?;
    let code = early.or_else(|| collected.trailers().and_then(|t| t.get("grpc-status").cloned()));
    connection.abort();
    match code.as_ref().map(|c| c.as_bytes()) {
        Some(b"0") if status(&collected.to_bytes()) == Some(SERVING) => Ok(()),
        Some(b"0") => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
        code => Err(format!("gRPC status {}", code.map_or("missing".into(), String::from_utf8_lossy))),
    }
}

/// One uncompressed message: `service` is field 1.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8((length & 0x7f) as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(0));
    frame.put(message);
    frame.freeze()
}

/// `status` is field 1, an enum; an empty message means UNKNOWN.
fn status(frame: &[u8]) -> Option<u8> {
    match frame.get(5..)? {
        [0x08, value, ..] => Some(*value),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!((status(&[0, 0, 0, 0, 2, 8, 1]), status(&[0, 0, 0, 0, 0]), status(&[0])), (Some(1), Some(0), None));
    }
}
