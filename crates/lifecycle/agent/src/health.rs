//! Asking whether something answers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const PAUSE: Duration = Duration::from_millis(100);

/// One `GET` that must answer 200, over TLS verified against `authority_file` for https.
pub(crate) async fn check(url: &str, authority_file: Option<&str>) -> Result<()> {
    let mut builder = reqwest::Client::builder().timeout(Duration::from_secs(3));
    if let Some(file) = authority_file {
        let pem = std::fs::read(file).with_context(|| format!("read {file}"))?;
        builder =
            builder.tls_certs_only([reqwest::Certificate::from_pem(&pem).with_context(|| format!("parse {file}"))?]);
    }
    let response =
        builder.build().context("build an HTTP client")?.get(url).send().await.with_context(|| format!("get {url}"))?;
    ensure!(response.status().is_success(), "{url} answers {}", response.status());
    Ok(())
}

/// Asks until it answers 200. Nothing tells when a server starts to listen, so it is asked ten times a second.
pub(crate) async fn wait(url: &str, authority_file: Option<&str>, seconds: u32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    loop {
        match check(url, authority_file).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                bail!("{url} did not become healthy within {seconds} s: {error:#}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
