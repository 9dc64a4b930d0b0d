//! `--tls-cipher-suites` and `--tls-min-version`, as Kubernetes names them (`k8s.io/component-base/cli/flag`).
//!
//! What there is to choose from is strong: suites with forward secrecy and authenticated encryption. A weak suite is
//! refused by name.

use std::sync::Arc;

use anyhow::{Result, bail};
use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, ConfigBuilder, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, WantsVerifier};

/// Which versions and suites of TLS a server takes.
#[derive(clap::Args, Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsArgs {
    /// Cipher suites of TLS 1.2, all when none is named; those of TLS 1.3 are always on
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// The oldest version of TLS: VersionTLS12 or VersionTLS13
    #[arg(long, default_value = "VersionTLS12")]
    pub tls_min_version: String,
}

const NEWEST: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Go's names. Those of TLS 1.3 may be listed, and make no difference.
const SUITES: &[(&str, CipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

impl TlsArgs {
    /// The beginning of a server's TLS configuration.
    pub fn server(&self) -> Result<ConfigBuilder<ServerConfig, WantsVerifier>> {
        let provider =
            CryptoProvider { cipher_suites: self.suites()?, ..rustls::crypto::aws_lc_rs::default_provider() };
        Ok(ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(self.versions()?)?)
    }

    fn versions(&self) -> Result<&'static [&'static SupportedProtocolVersion]> {
        match self.tls_min_version.as_str() {
            "" | "VersionTLS12" => Ok(rustls::ALL_VERSIONS),
            "VersionTLS13" => Ok(NEWEST),
            other => bail!("TLS version {other} is not supported; VersionTLS12 and VersionTLS13 are"),
        }
    }

    fn suites(&self) -> Result<Vec<SupportedCipherSuite>> {
        let mut named = Vec::new();
        for name in &self.tls_cipher_suites {
            match SUITES.iter().find(|(known, _)| known == name) {
                Some((_, suite)) => named.push(*suite),
                None => bail!(
                    "cipher suite {name} is not supported; these are: {}",
                    SUITES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
                ),
            }
        }
        let all = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
        let wanted = |suite: &SupportedCipherSuite| suite.tls13().is_some() || named.contains(&suite.suite());
        Ok(if named.is_empty() { all } else { all.into_iter().filter(wanted).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(suites: &[&str], version: &str) -> TlsArgs {
        let tls_cipher_suites = suites.iter().map(ToString::to_string).collect();
        TlsArgs { tls_cipher_suites, tls_min_version: version.into() }
    }

    #[test]
    fn suites_and_versions_are_taken_or_refused() {
        let one = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";
        let chosen = args(&[one], "VersionTLS12").suites().unwrap();
        assert_eq!(chosen.iter().filter(|s| s.tls13().is_none()).count(), 1);
        assert_eq!(chosen.iter().filter(|s| s.tls13().is_some()).count(), 3);
        assert!(args(&[], "").server().is_ok() && args(&[one], "VersionTLS13").server().is_ok());
        let weak = args(&["TLS_RSA_WITH_AES_128_CBC_SHA"], "").server().unwrap_err().to_string();
        assert!(weak.starts_with("cipher suite TLS_RSA_WITH_AES_128_CBC_SHA is not supported"), "{weak}");
        assert!(args(&[], "VersionTLS10").server().is_err());
    }
}
