//! Adding a host to a cluster file, and removing one, without touching anything else in it: comments, order and
//! spelling stay. The result is read again and compared; a file in a form that this does not understand is left alone.

use crate::load::{LoadError, load};
use crate::types::{Cluster, HostSpec, Role};
use crate::version::Version;

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file itself.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The hosts are not written as a list with a host's fields below each other.
    #[error("its list of hosts has a form that kinit cannot change without touching the rest; change it by hand")]
    Form,
}

/// A host as lines of a cluster file.
pub fn host_lines(host: &HostSpec) -> String {
    lines(host, 2)
}

fn lines(host: &HostSpec, indent: usize) -> String {
    let role = |role: &Role| match role {
        Role::ControlPlane => "control-plane",
        Role::Worker => "worker",
        Role::LoadBalancer => "loadbalancer",
    };
    let roles = host.roles.iter().map(role).collect::<Vec<_>>().join(", ");
    let pad = " ".repeat(indent);
    format!("{pad}- name: {}\n{pad}  address: {}\n{pad}  roles: [{roles}]\n", scalar(&host.name), host.address)
}

/// A name that YAML would take for a number or a truth value is quoted.
fn scalar(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&name);
    if plain { name.to_owned() } else { format!("\"{name}\"") }
}

/// The text with a host at the end of the list.
pub fn add_host(text: &str, host: &HostSpec) -> Result<String, EditError> {
    let list = List::find(text).ok_or(EditError::Form)?;
    let mut all: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
    let end = list.items.last().map_or(list.start, |item| item.end);
    all.insert(end, lines(host, list.indent));
    let mut expected = load(text)?;
    expected.spec.hosts.push(host.clone());
    checked(&all.concat(), &expected)
}

/// The text without a host.
pub fn remove_host(text: &str, name: &str) -> Result<String, EditError> {
    let list = List::find(text).ok_or(EditError::Form)?;
    let item = list.items.iter().find(|item| item.name == name).ok_or(EditError::Form)?;
    let kept = text.lines().enumerate().filter(|(at, _)| !(item.start..item.end).contains(at));
    let mut expected = load(text)?;
    expected.spec.hosts.retain(|host| host.name != name);
    checked(&kept.map(|(_, line)| format!("{line}\n")).collect::<String>(), &expected)
}

/// The text with another `spec.kubernetesVersion`, where there is one.
pub fn set_version(text: &str, version: &Version) -> Result<String, EditError> {
    const FIELD: &str = "kubernetesVersion:";
    let mut expected = load(text)?;
    expected.spec.kubernetes_version = Some(version.clone());
    let line = |line: &str| match line.trim_start().strip_prefix(FIELD) {
        Some(rest) => {
            let indent = line.len() - line.trim_start().len();
            let comment = rest.find(" #").and_then(|at| rest.get(at..)).unwrap_or_default();
            format!("{}{FIELD} {version}{comment}\n", " ".repeat(indent))
        }
        None => format!("{line}\n"),
    };
    checked(&text.lines().map(line).collect::<String>(), &expected)
}

/// The text, if it is what was meant.
fn checked(text: &str, expected: &Cluster) -> Result<String, EditError> {
    let mut now = load(text)?;
    // Its default is the first host's address.
    now.spec.control_plane_endpoint.clone_from(&expected.spec.control_plane_endpoint);
    if now == *expected { Ok(text.to_owned()) } else { Err(EditError::Form) }
}

/// Where the hosts are, in lines.
struct List {
    /// The line after `hosts:`.
    start: usize,
    indent: usize,
    items: Vec<Item>,
}

struct Item {
    name: String,
    start: usize,
    end: usize,
}

impl List {
    fn find(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().collect();
        let header = |line: &str| without_comment(line).trim() == "hosts:" && line.starts_with(' ');
        let start = lines.iter().position(|line| header(line))? + 1;
        let first = lines.get(start..)?.iter().find(|line| !is_blank(line))?;
        let indent = indent(first);
        if !first.trim_start().starts_with("- ") {
            return None;
        }
        let mut items: Vec<Item> = Vec::new();
        let mut last = start;
        for (at, line) in lines.iter().enumerate().skip(start).filter(|(_, line)| !is_blank(line)) {
            let is_item = self::indent(line) == indent && line.trim_start().starts_with("- ");
            if !is_item && self::indent(line) <= indent {
                break;
            }
            if is_item {
                if let Some(before) = items.last_mut() {
                    before.end = last;
                }
                items.push(Item { name: String::new(), start: at, end: at + 1 });
            }
            if let Some(item) = items.last_mut()
                && let Some(name) = name(line)
                && item.name.is_empty()
            {
                item.name = name;
            }
            last = at + 1;
        }
        if let Some(item) = items.last_mut() {
            item.end = last;
        }
        Some(Self { start, indent, items })
    }
}

fn is_blank(line: &str) -> bool {
    without_comment(line).trim().is_empty()
}

fn without_comment(line: &str) -> &str {
    let start = line.match_indices('#').map(|(at, _)| at).find(|at| *at == 0 || line[..*at].ends_with([' ', '\t']));
    start.map_or(line, |at| &line[..at])
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The value of a line's `name:`.
fn name(line: &str) -> Option<String> {
    let rest = without_comment(line).trim().trim_start_matches("- ").trim().trim_start_matches('{').trim();
    let value = rest.strip_prefix("name:")?.split([',', '}']).next()?.trim();
    Some(value.trim_matches(['"', '\'']).to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::example;

    fn host(name: &str) -> HostSpec {
        let mut host = load(example()).unwrap().spec.hosts.pop().unwrap();
        (host.name, host.address) = (name.to_owned(), "192.0.2.23".to_owned());
        host
    }

    #[test]
    fn hosts_come_and_go_and_the_rest_stays() {
        let text = example().replace("  - name: w1", "  # the old machine\n  - name: w1 # rack 3");
        let more = add_host(&text, &host("w3")).unwrap();
        assert!(
            more.starts_with(&text) && more.ends_with("  - name: w3\n    address: 192.0.2.23\n    roles: [worker]\n"),
            "{more}"
        );
        assert_eq!(remove_host(&more, "w3").unwrap(), text);
        let less = remove_host(&text, "w1").unwrap();
        assert!(
            !less.contains("192.0.2.21") && less.contains("192.0.2.22") && less.contains("# the old machine"),
            "{less}"
        );
        // What stands behind the list stays behind it.
        let behind = text.replace("  ssh:\n    user: root\n    # identityFile: ~/.ssh/id_ed25519\n", "")
            + "  ssh:\n    user: root\n";
        let more = add_host(&behind, &host("1e3")).unwrap();
        assert!(more.ends_with("  ssh:\n    user: root\n") && more.contains("name: \"1e3\""), "{more}");
    }

    #[test]
    fn hosts_may_be_a_line_each() {
        let text = "apiVersion: kinit.dev/v1alpha1\nkind: Cluster\nspec:\n  hosts:\n  - {name: cp1, address: 192.0.2.11, roles: [control-plane]}\n  - {name: w1, address: 192.0.2.21, roles: [worker]}\n";
        let more = add_host(text, &host("w3")).unwrap();
        assert!(
            more.starts_with(text) && more.ends_with("  - name: w3\n    address: 192.0.2.23\n    roles: [worker]\n"),
            "{more}"
        );
        assert!(!remove_host(&more, "w1").unwrap().contains("w1"));
    }

    #[test]
    fn a_version_is_replaced_where_it_stands() {
        let text = crate::example().replacen("spec:\n", "spec:\n  kubernetesVersion: v1.36.0 # ours\n", 1);
        let changed = set_version(&text, &"v1.36.1".parse().unwrap()).unwrap();
        assert_eq!(changed, text.replace("v1.36.0 # ours", "v1.36.1 # ours"));
        assert!(set_version(crate::example(), &"v1.36.1".parse().unwrap()).is_err(), "none is named");
    }

    #[test]
    fn other_forms_are_left_alone() {
        let flow = "apiVersion: kinit.dev/v1alpha1\nkind: Cluster\nspec:\n  hosts: [{name: cp1, address: 192.0.2.11, roles: [control-plane]}]\n";
        assert!(load(flow).is_ok());
        assert!(matches!(add_host(flow, &host("w3")), Err(EditError::Form)));
        assert!(matches!(remove_host(flow, "cp1"), Err(EditError::Form)));
        assert!(matches!(remove_host(example(), "nobody"), Err(EditError::Form)));
    }
}
