//! Facts of the API types as one compact data file.
//!
//! Three sources are joined, facts only: the `.proto` files (fields, numbers, types, patch markers), the struct tags of
//! `types.go` (what is inlined, pointers, `omitempty`), and client-go's apply schema (list relations, keys, defaults).

mod apply;
pub mod prose;
mod proto;
mod tags;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

/// The group versions whose types are kept, with the API group's full name.
const GROUPS: &[(&str, &str, &str)] = &[
    ("core", "v1", ""),
    ("admissionregistration", "v1", "admissionregistration.k8s.io"),
    ("admission", "v1", "admission.k8s.io"),
    ("apps", "v1", "apps"),
    ("authentication", "v1", "authentication.k8s.io"),
    ("authorization", "v1", "authorization.k8s.io"),
    ("autoscaling", "v1", "autoscaling"),
    ("autoscaling", "v2", "autoscaling"),
    ("batch", "v1", "batch"),
    ("certificates", "v1", "certificates.k8s.io"),
    ("coordination", "v1", "coordination.k8s.io"),
    ("discovery", "v1", "discovery.k8s.io"),
    ("events", "v1", "events.k8s.io"),
    ("flowcontrol", "v1", "flowcontrol.apiserver.k8s.io"),
    ("networking", "v1", "networking.k8s.io"),
    ("node", "v1", "node.k8s.io"),
    ("policy", "v1", "policy"),
    ("rbac", "v1", "rbac.authorization.k8s.io"),
    ("resource", "v1", "resource.k8s.io"),
    ("scheduling", "v1", "scheduling.k8s.io"),
    ("storage", "v1", "storage.k8s.io"),
];

/// One field, joined from the sources.
#[derive(Debug, Clone, Default)]
pub struct Field {
    pub json: String,
    pub number: u32,
    /// In the notation of the data file, see [`generate`].
    pub ty: String,
    pub inline: bool,
    pub pointer: bool,
    pub omitempty: bool,
    pub omitzero: bool,
    pub optional: bool,
    pub patch_key: Option<String>,
    pub patch_strategy: Option<String>,
    pub list: Option<String>,
    pub default: Option<String>,
}

/// Types by short name (`core.v1.Pod`), each a list of fields in the order of declaration.
pub type Types = BTreeMap<String, Vec<Field>>;

/// Writes the data file.
pub fn generate(from: &Path, version: &str, out: &Path) -> Result<()> {
    let mut types = Types::new();
    for file in [
        "apimachinery/pkg/apis/meta/v1",
        "apimachinery/pkg/runtime",
        "apimachinery/pkg/util/intstr",
        "apimachinery/pkg/api/resource",
    ] {
        read_package(&from.join(file), &mut types)?;
    }
    for (dir, v, _) in GROUPS {
        read_package(&from.join("api").join(dir).join(v), &mut types)?;
    }
    let applied = apply::read(&from.join("client-go/applyconfigurations/internal/internal.go"))?;
    apply::join(&mut types, &applied);
    let kinds = kinds(&types);
    let kept = reachable(&types, kinds.iter().map(|k| k.3.clone()));
    let text = render(version, &types, &kinds, &kept, &apply::atomic(&applied))?;
    std::fs::create_dir_all(out.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(out, &text).with_context(|| format!("write {}", out.display()))?;
    println!("{}: {} types, {} kinds, {} bytes", out.display(), kept.len(), kinds.len(), text.len());
    Ok(())
}

fn read_package(dir: &Path, types: &mut Types) -> Result<()> {
    let path = dir.join("generated.proto");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut found = proto::parse(&text).with_context(|| format!("parse {}", path.display()))?;
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".go") && !name.starts_with("zz_") && !name.contains("generated") && !name.contains("_test") {
            let go = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            tags::join(&go, &mut found);
        }
    }
    for (name, fields) in found.messages {
        types.insert(format!("{}.{name}", found.package), fields);
    }
    Ok(())
}

/// (group, version, kind, type) of everything that has a TypeMeta: a message with `metadata` of ObjectMeta or ListMeta,
/// plus the meta types that travel as documents of their own.
fn kinds(types: &Types) -> Vec<(String, String, String, String)> {
    let mut out = Vec::new();
    for (name, fields) in types {
        let Some((package, kind)) = name.rsplit_once('.') else { continue };
        let root =
            fields.iter().any(|f| f.json == "metadata" && (f.ty == "meta.v1.ObjectMeta" || f.ty == "meta.v1.ListMeta"));
        let Some((_, v, group)) = GROUPS.iter().find(|(d, v, _)| format!("{d}.{v}") == package) else { continue };
        // Templates carry metadata but are no documents; options are documents without metadata.
        let template = matches!(
            kind,
            "PodTemplateSpec" | "JobTemplateSpec" | "PersistentVolumeClaimTemplate" | "ResourceClaimTemplateSpec"
        );
        let options = package == "core.v1" && (kind.ends_with("Options"));
        if (root && !template) || options {
            out.push(((*group).to_owned(), (*v).to_owned(), kind.to_owned(), name.clone()));
        }
    }
    for kind in [
        "Status",
        "DeleteOptions",
        "CreateOptions",
        "UpdateOptions",
        "PatchOptions",
        "ListOptions",
        "GetOptions",
        "WatchEvent",
        "APIResourceList",
        "APIGroup",
        "APIGroupList",
        "APIVersions",
        "PartialObjectMetadata",
        "PartialObjectMetadataList",
    ] {
        let name = format!("meta.v1.{kind}");
        if types.contains_key(&name) {
            out.push(("meta.k8s.io".to_owned(), "v1".to_owned(), kind.to_owned(), name));
        }
    }
    out
}

fn reachable(types: &Types, roots: impl Iterator<Item = String>) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    let mut open: Vec<String> = roots.collect();
    while let Some(name) = open.pop() {
        let Some(fields) = types.get(&name) else { continue };
        if kept.insert(name) {
            open.extend(
                fields.iter().map(|f| {
                    f.ty.trim_start_matches("[]").trim_start_matches("{}").trim_start_matches("[]").to_owned()
                }),
            );
        }
    }
    kept
}

fn render(
    version: &str,
    types: &Types,
    kinds: &[(String, String, String, String)],
    kept: &BTreeSet<String>,
    atomic: &BTreeSet<String>,
) -> Result<String> {
    let quote = |s: &str| serde_json::to_string(s);
    let mut text = String::from("{\n");
    text.push_str(&format!(
        "\"provenance\": {},\n\"kinds\": [\n",
        quote(&format!(
            "Facts (names, numbers, types, list keys, atomic types, patch markers, defaults) taken from k8s.io/api, k8s.io/apimachinery and \
             k8s.io/client-go {version} by `cargo xtask schema`; no prose and no code. Those are Apache-2.0, The Kubernetes Authors."
        ))?
    ));
    let lines: Vec<String> = kinds.iter().map(|(g, v, k, t)| format!("[\"{g}\",\"{v}\",\"{k}\",\"{t}\"]")).collect();
    text.push_str(&lines.join(",\n"));
    text.push_str("\n],\n\"atomic\": [\n");
    let whole: Vec<String> = atomic.intersection(kept).map(|name| quote(name)).collect::<Result<_, _>>()?;
    text.push_str(&whole.join(",\n"));
    text.push_str("\n],\n\"types\": {\n");
    let mut lines = Vec::new();
    for name in kept {
        let fields = &types[name];
        let cells: Vec<String> = fields.iter().map(|f| quote(&cell(f))).collect::<Result<_, _>>()?;
        lines.push(format!("{}: [{}]", quote(name)?, cells.join(",")));
    }
    text.push_str(&lines.join(",\n"));
    text.push_str("\n}\n}\n");
    Ok(text)
}

/// One field as words: `name number type`, then flags (`p` pointer, `o` omitempty, `r` required, `i` inline, `z`
/// omitzero) and `m=` patch merge key, `s=` patch strategy, `l=` list relation (`set`, `atomic`, or map keys), `d=`
/// default as JSON (last).
fn cell(f: &Field) -> String {
    let mut out = format!("{} {} {}", f.json, f.number, f.ty);
    let flags: String =
        [(f.pointer, 'p'), (f.omitempty, 'o'), (!f.optional && !f.omitempty, 'r'), (f.inline, 'i'), (f.omitzero, 'z')]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, c)| *c)
            .collect();
    if !flags.is_empty() {
        out.push_str(&format!(" {flags}"));
    }
    for (key, value) in [("m", &f.patch_key), ("s", &f.patch_strategy), ("l", &f.list), ("d", &f.default)] {
        if let Some(value) = value {
            out.push_str(&format!(" {key}={value}"));
        }
    }
    out
}
