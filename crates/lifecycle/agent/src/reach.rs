//! Whether this host gets through to ports of others. A port that nobody listens on yet answers too: that its host
//! refuses the connection shows that nothing on the way drops packets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// A host in the same network answers within milliseconds; the first packet may be lost.
const PATIENCE: Duration = Duration::from_secs(3);
const AT_ONCE: usize = 32;

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reached {
    /// Somebody listens there.
    Accepted,
    /// The host is there, and nobody listens.
    Refused,
    /// No answer, or that there is no way.
    Lost(String),
}

/// Tries all of these addresses (`192.0.2.11:2380`) at once.
pub(crate) async fn reach(addresses: &[String]) -> Result<Vec<Reached>> {
    let parsed: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| address.parse().with_context(|| format!("{address:?} is no address with a port")))
        .collect::<Result<_>>()?;
    Ok(stream::iter(parsed).map(try_one).buffered(AT_ONCE).collect().await)
}

async fn try_one(address: SocketAddr) -> Reached {
    match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Reached::Accepted,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Reached::Refused,
        Ok(Err(error)) => Reached::Lost(error.to_string()),
        Err(_) => Reached::Lost(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_of_a_host_that_is_there_is_no_problem() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().to_string();
        let closed = {
            let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            other.local_addr().unwrap().to_string()
        };
        assert_eq!(reach(&[open, closed]).await.unwrap(), [Reached::Accepted, Reached::Refused]);
        assert!(reach(&["nowhere".to_owned()]).await.is_err());
    }
}
