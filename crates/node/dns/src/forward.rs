//! Questions that others answer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use parking_lot::Mutex;

const CACHED: u64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(2);

type Key = (Name, RecordType);
type Questions = Arc<Mutex<HashMap<Key, WeakShared<BoxFuture<'static, Said>>>>>;

/// Asks the host's resolvers. A question that is on its way is not asked a second time: who asks meanwhile gets the
/// same answer, and a resolver that sends our questions back to us goes round once, not for ever.
pub struct Forwarder {
    /// None where the host has no resolvers: a cluster without any network beyond its own.
    resolver: Option<Arc<TokioResolver>>,
    asking: Questions,
}

/// What they said.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// How it went.
    pub code: ResponseCode,
    /// The answer.
    pub answers: Vec<Record>,
    /// The zone's record, with negative answers.
    pub soa: Option<Record>,
}

impl Forwarder {
    /// Reads the resolvers' addresses from a file like `/etc/resolv.conf`. Without any the cluster's own names are
    /// answered all the same, and questions for others are refused.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        if !names_servers(&String::from_utf8_lossy(&text)) {
            tracing::warn!("{} names no resolvers: names of other domains are refused", path.display());
            return Ok(Self { resolver: None, asking: Questions::default() });
        }
        let (config, options) = hickory_resolver::system_conf::parse_resolv_conf(text)
            .with_context(|| format!("parse {}", path.display()))?;
        Self::new(config, options)
    }

    /// Asks the servers of `config`.
    pub fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self> {
        options.cache_size = CACHED;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.edns0 = true;
        // Clients wait five seconds: they are to hear of a failure before they give up.
        options.timeout = TIMEOUT;
        options.attempts = 1;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = Arc::new(builder.build().context("prepare the resolver")?);
        Ok(Self { resolver: Some(resolver), asking: Questions::default() })
    }

    /// Looks a fully qualified name up.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Said {
        let mut name = name.to_lowercase();
        name.set_fqdn(true);
        let key = (name, kind);
        let answer = {
            let mut asking = self.asking.lock();
            match asking.get(&key).and_then(WeakShared::upgrade) {
                Some(answer) => answer,
                None => {
                    let answer = self.start(key.clone());
                    asking.extend(answer.downgrade().map(|weak| (key, weak)));
                    answer
                }
            }
        };
        answer.await
    }

    fn start(&self, key: Key) -> Shared<BoxFuture<'static, Said>> {
        let (resolver, asking) = (self.resolver.clone(), self.asking.clone());
        async move {
            let said = match &resolver {
                Some(resolver) => lookup(resolver, &key.0, key.1).await,
                None => Said { code: ResponseCode::Refused, answers: Vec::new(), soa: None },
            };
            asking.lock().remove(&key);
            said
        }
        .boxed()
        .shared()
    }
}

/// Whether a text in the format of resolv.conf(5) has a server.
fn names_servers(text: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().next() == Some("nameserver"))
}

async fn lookup(resolver: &TokioResolver, name: &Name, kind: RecordType) -> Said {
    // The resolver's own time-out is one server's.
    let answer = tokio::time::timeout(TIMEOUT * 2, resolver.lookup(name.clone(), kind)).await;
    match answer {
        Ok(Ok(lookup)) => Said { code: ResponseCode::NoError, answers: lookup.answers().to_vec(), soa: None },
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => Said {
            code: none.response_code,
            answers: Vec::new(),
            soa: none.soa.map(|soa| {
                let soa = *soa;
                Record::from_rdata(soa.name, soa.ttl, RData::SOA(soa.data))
            }),
        },
        Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => Said { code, answers: Vec::new(), soa: None },
        Ok(Err(error)) => {
            tracing::debug!(%name, %kind, %error, "forward a question");
            Said { code: ResponseCode::ServFail, answers: Vec::new(), soa: None }
        }
        Err(_) => Said { code: ResponseCode::ServFail, answers: Vec::new(), soa: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_resolvers_others_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        for text in ["", "search example.org\n# nameserver 192.0.2.1\noptions edns0\n"] {
            std::fs::write(&file, text).unwrap();
            let said = Forwarder::from_file(&file).unwrap().ask(&"example.org.".parse().unwrap(), RecordType::A).await;
            assert_eq!((said.code, said.answers.len()), (ResponseCode::Refused, 0));
        }
        assert!(names_servers("search x\n nameserver 192.0.2.1\n"));
        assert!(Forwarder::from_file(&folder.path().join("none")).is_err());
    }
}
