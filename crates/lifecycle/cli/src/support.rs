//! `kinit support-bundle`: one file for whoever is to find a fault.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kinit_phases::{Request, Support};
use serde_json::json;

use crate::cluster::{Common, Flags, Lock, begin, connect};
use crate::config;
use crate::desk::known_authority;
use crate::progress::Output;

/// Flags of `kinit support-bundle`.
#[derive(Args, Debug)]
pub struct SupportArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Where to write it [default: kinit-support-CLUSTER-TIME.tar.zst in this folder]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// How many of the last lines of each unit's log
    #[arg(long, default_value_t = 5000, value_name = "LINES")]
    tail: u32,
    /// Bundle that the cluster was made of, for what differs from the file [default: the folder of kinit itself]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
}

const LEVEL: i32 = 10;

/// Gathers it and writes it, readable by its owner alone.
pub async fn run(args: SupportArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let now = jiff::Timestamp::now();
    let name = &cluster.metadata.name;
    let file = args
        .to
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("kinit-support-{name}-{}.tar.zst", now.strftime("%Y%m%dT%H%M%SZ"))));
    let known = known_authority(&args.common.file.with_file_name("admin.conf"), name, None)?;
    let hosts = connect(&cluster, &args.common, "support-bundle", Lock::Look).await?;
    let mut support = kinit_phases::gather_support(&hosts, &cluster, args.tail).await;
    match kinit_phases::diagnose(&hosts, &cluster, known.as_deref(), now.as_second()).await {
        Ok(diagnosis) => support.add_value("doctor.json", &findings(&diagnosis)),
        Err(error) => support.missed("doctor.json", &error),
    }
    drop(hosts);
    match plan(&args, cluster.clone(), known).await {
        Ok(text) => support.add("plan.txt", &text),
        Err(error) => support.missed("plan.txt", &error),
    }
    support.add_value("versions.json", &json!({ "kinit": env!("CARGO_PKG_VERSION"), "created": now.to_string() }));
    let files = finish(support, &file)?;
    let size = std::fs::metadata(&file).map(|meta| meta.len()).unwrap_or_default();
    match args.common.output {
        Output::Jsonl => say!("{}", json!({ "event": "done", "file": file, "files": files.len(), "bytes": size })),
        Output::Text => {
            say!("{}: {} files, {} KiB, keys and tokens taken out", file.display(), files.len(), size >> 10);
            if let Some(errors) = files.get("errors.txt") {
                tell!("what could not be had (errors.txt):\n{}", errors.trim_end());
            }
        }
    }
    Ok(())
}

fn findings(diagnosis: &kinit_phases::Diagnosis) -> serde_json::Value {
    let one = |finding: &kinit_planner::Finding| json!({ "host": finding.host, "check": finding.check, "message": finding.message, "warning": finding.warning });
    json!({ "checks": diagnosis.checks, "findings": diagnosis.findings.iter().map(one).collect::<Vec<_>>() })
}

/// What `kinit apply` would do.
async fn plan(args: &SupportArgs, cluster: kinit_config::Cluster, known: Option<String>) -> Result<String> {
    let flags = Flags { bundle: args.bundle.clone(), look: true, known, ..Flags::default() };
    let run = begin(cluster, &Request::Apply { only: Vec::new() }, "support-bundle", &args.common, flags).await?;
    Ok(run.plan().await?.to_string())
}

fn finish(support: Support, file: &Path) -> Result<BTreeMap<String, String>> {
    let files = support.finish()?;
    write(&files, file).with_context(|| format!("write {}", file.display()))?;
    Ok(files)
}

fn write(files: &BTreeMap<String, String>, file: &Path) -> Result<()> {
    let temporary = file.with_extension("part");
    std::fs::remove_file(&temporary).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let mut archive = tar::Builder::new(zstd::Encoder::new(out, LEVEL)?);
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("kinit-support/{path}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.sync_all()?;
    Ok(std::fs::rename(&temporary, file)?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_file_for_its_owner_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s.tar.zst");
        let mut support = Support::default();
        support.add("hosts/cp1/logs/kubelet.service.log", "started with token: abcdef.0123456789abcdef\n");
        finish(support, &file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut archive = tar::Archive::new(zstd::Decoder::new(std::fs::File::open(&file).unwrap()).unwrap());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().display().to_string(), "kinit-support/hosts/cp1/logs/kubelet.service.log");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("started with token: {}\n", kinit_phases::REDACTED));
        assert!(finish(Support::default(), &folder.path().join("no/such/folder")).is_err());
    }
}
