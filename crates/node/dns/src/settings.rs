//! What an administrator wants of other domains: ConfigMap `kube-system/kube-dns`, with the keys that the first
//! kube-dns had ("Customizing DNS Service": `stubDomains`, `upstreamNameservers`), and `hosts`.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::Name;

const STUBS: &str = "stubDomains";
const UPSTREAM: &str = "upstreamNameservers";
const HOSTS: &str = "hosts";
const PORT: u16 = 53;

/// What is wanted; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Domains, in lower case, with the servers that know them. The most specific first.
    pub stubs: Vec<(Name, Vec<SocketAddr>)>,
    /// Who is asked for all others, in the place of the host's resolvers; empty for these.
    pub upstream: Vec<SocketAddr>,
    /// Addresses of single names.
    pub hosts: Hosts,
}

/// Names and addresses as in `hosts(5)`, both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// By name, in lower case and fully qualified.
    pub addresses: HashMap<Name, Vec<IpAddr>>,
    /// The first name of an address.
    pub names: HashMap<IpAddr, Name>,
}

impl Settings {
    /// Reads the map's data. An error names everything that is wrong.
    pub fn parse(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let (mut settings, mut wrong) = (Self::default(), Vec::new());
        for (key, text) in data {
            let read = match key.as_str() {
                STUBS => stubs(text).map(|stubs| settings.stubs = stubs),
                UPSTREAM => list(text).map(|servers| settings.upstream = servers),
                HOSTS => hosts(text).map(|hosts| settings.hosts = hosts),
                _ => Err(format!("is not known; known are {HOSTS}, {STUBS} and {UPSTREAM}")),
            };
            wrong.extend(read.err().map(|why| format!("{key}: {why}")));
        }
        if wrong.is_empty() { Ok(settings) } else { Err(wrong.join("; ")) }
    }
}

/// `{"example.com": ["192.0.2.1", "192.0.2.2:5353"]}`
fn stubs(text: &str) -> Result<Vec<(Name, Vec<SocketAddr>)>, String> {
    let map: BTreeMap<String, Vec<String>> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut stubs = Vec::new();
    for (domain, servers) in map {
        let name = qualified(&domain)?;
        if servers.is_empty() {
            return Err(format!("{domain} has no server"));
        }
        stubs.push((name, servers.iter().map(|text| server(text)).collect::<Result<_, _>>()?));
    }
    stubs.sort_by_key(|(name, _)| std::cmp::Reverse(name.num_labels()));
    Ok(stubs)
}

/// `["192.0.2.1", "[2001:db8::1]:53"]`
fn list(text: &str) -> Result<Vec<SocketAddr>, String> {
    let servers: Vec<String> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    servers.iter().map(|text| server(text)).collect()
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse());
    address.map_err(|_| format!("{text:?} is no address, with or without a port"))
}

/// Lines of an address and its names; `#` begins a comment.
fn hosts(text: &str) -> Result<Hosts, String> {
    let mut hosts = Hosts::default();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next() else { continue };
        let place = |why: String| format!("line {}: {why}", number + 1);
        let address: IpAddr = address.parse().map_err(|_| place(format!("{address:?} is no address")))?;
        let mut any = false;
        for word in words {
            let name = qualified(word).map_err(place)?;
            hosts.names.entry(address).or_insert_with(|| name.clone());
            let known = hosts.addresses.entry(name).or_default();
            if !known.contains(&address) {
                known.push(address);
            }
            any = true;
        }
        if !any {
            return Err(place(format!("{address} has no name")));
        }
    }
    Ok(hosts)
}

fn qualified(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|e| format!("{text:?} is no name: {e}"))?.to_lowercase();
    name.set_fqdn(true);
    if name.is_root() { Err(format!("{text:?} is every name")) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn everything_that_can_be_wanted() {
        let data = data(&[
            (STUBS, r#"{"corp.example": ["192.0.2.1"], "A.corp.example.": ["192.0.2.2:5353", "2001:db8::1"]}"#),
            (UPSTREAM, r#"["192.0.2.3", "[2001:db8::2]:54"]"#),
            (HOSTS, "# ours\n192.0.2.9 Registry.example registry # the registry\n\n2001:db8::9 registry.example\n"),
        ]);
        let settings = Settings::parse(&data).unwrap();
        let stubs: Vec<_> = settings.stubs.iter().map(|(name, servers)| format!("{name} {servers:?}")).collect();
        assert_eq!(stubs, ["a.corp.example. [192.0.2.2:5353, [2001:db8::1]:53]", "corp.example. [192.0.2.1:53]"]);
        assert_eq!(format!("{:?}", settings.upstream), "[192.0.2.3:53, [2001:db8::2]:54]");
        let name: Name = "registry.example.".parse().unwrap();
        assert_eq!(settings.hosts.addresses[&name].len(), 2);
        assert_eq!(settings.hosts.names[&"192.0.2.9".parse::<IpAddr>().unwrap()], name);
        assert_eq!(Settings::parse(&BTreeMap::new()), Ok(Settings::default()));
    }

    #[test]
    fn mistakes_are_named_all_at_once() {
        for (pairs, words) in [
            (vec![("federations", "x")], vec!["federations: is not known; known are hosts, stubDomains"]),
            (vec![(STUBS, "[]")], vec!["stubDomains: invalid type"]),
            (vec![(STUBS, r#"{"a.example": []}"#)], vec!["a.example has no server"]),
            (vec![(STUBS, r#"{".": ["192.0.2.1"]}"#)], vec!["is every name"]),
            (vec![(STUBS, r#"{"a..example": ["192.0.2.1"]}"#)], vec!["is no name"]),
            (vec![(UPSTREAM, r#"["dns.example"]"#)], vec!["\"dns.example\" is no address"]),
            (vec![(HOSTS, "192.0.2.1 a\nb 192.0.2.2")], vec!["line 2: \"b\" is no address"]),
            (vec![(HOSTS, "192.0.2.1")], vec!["192.0.2.1 has no name"]),
            (vec![(HOSTS, "192.0.2.1"), (UPSTREAM, "{")], vec!["hosts: line 1", "upstreamNameservers: "]),
        ] {
            let error = Settings::parse(&data(&pairs)).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{pairs:?}: {error}");
        }
    }
}
