//! `kinit certs csr` and `kinit certs import`: an external CA.
//!
//! ```text
//! DIR/HOST/apiserver.csr         a request (kubeadm's names: etcd/server.csr, admin.conf.csr)
//! DIR/HOST/apiserver.crt         what comes back
//! ```
//!
//! The keys stay on their hosts.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use kinit_phases::{Request, SignedFile, State, Wanting};
use serde_json::json;

use crate::change::ChangeArgs;
use crate::config;
use crate::errors::Usage;
use crate::progress::Output;

/// Flags of `kinit certs csr`.
#[derive(Args, Debug)]
pub struct CsrArgs {
    /// Folder for the requests, HOST/NAME.csr
    #[arg(short = 'o', long = "out", value_name = "DIR", default_value = "requests")]
    out: PathBuf,
    /// Requests for certificates that are good too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// Flags of `kinit certs import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Folder with the signed certificates, HOST/NAME.crt
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// Writes requests.
pub(crate) async fn csr(args: CsrArgs) -> Result<()> {
    let started = Instant::now();
    let CsrArgs { out, all, change } = args;
    let run = change.begin(config::load(change.file())?, &Request::SignedElsewhere, "certs csr").await?;
    let wanting = run.signed_elsewhere().await?;
    let mut count = 0;
    for one in wanting.iter().filter(|one| all || matches!(one.state, State::Wanted(_))) {
        let file = file_of(&out, one);
        if !change.common.dry_run {
            write(&file, &run.request_signature(one).await?)?;
        }
        count += 1;
        tell_request(one, &file, change.common.output);
    }
    let handed_in = wanting.iter().filter(|one| one.state == State::HandedIn).count();
    if change.common.output == Output::Jsonl {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        say!("{}", json!({ "event": "done", "changes": count, "milliseconds": milliseconds }));
        return Ok(());
    }
    if handed_in > 0 {
        say!("{handed_in} certificate(s) were handed in already, and wait for the next run");
    }
    let out = out.display();
    match count {
        0 => say!("nothing has to be signed"),
        _ if change.common.dry_run => say!("{count} request(s) would be written to {out}"),
        _ => say!(
            "{count} request(s) in {out}; have them signed, each HOST/NAME.csr as HOST/NAME.crt, and run `kinit certs import {out}`"
        ),
    }
    Ok(())
}

fn file_of(out: &Path, one: &Wanting) -> PathBuf {
    out.join(&one.host).join(format!("{}.csr", one.leaf.request_name()))
}

fn tell_request(one: &Wanting, file: &Path, output: Output) {
    let subject = &one.leaf.subject;
    let names: Vec<String> = subject.dns.iter().cloned().chain(subject.ips.iter().map(ToString::to_string)).collect();
    let organization = subject.organization.as_ref().map(|group| format!("O={group}, ")).unwrap_or_default();
    let name = format!("{organization}CN={}", subject.common_name);
    let why = match &one.state {
        State::Wanted(why) => why.as_str(),
        State::HandedIn | State::Good => "is good",
    };
    let authority = one.leaf.leaf.authority().stem();
    match output {
        Output::Text => {
            let names = if names.is_empty() { String::new() } else { format!(" [{}]", names.join(" ")) };
            say!("{} ({authority}: {name}{names}; {why})", file.display());
        }
        Output::Jsonl => say!(
            "{}",
            json!({
                "event": "request", "host": one.host, "name": one.leaf.request_name(), "file": file.display().to_string(),
                "authority": authority, "subject": name, "names": names,
                "usages": subject.usages.iter().map(|usage| format!("{usage:?}")).collect::<Vec<_>>(),
                "days": subject.days, "why": why,
            })
        ),
    }
}

/// A request is no secret.
fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// Takes certificates.
pub(crate) async fn import(args: ImportArgs) -> Result<()> {
    let started = Instant::now();
    let ImportArgs { dir, change } = args;
    let files = read(&dir)?;
    let run = change.begin(config::load(change.file())?, &Request::SignedElsewhere, "certs import").await?;
    let done = run.import_signed(&files, change.common.dry_run).await?;
    let output = change.common.output;
    for (host, leaf) in &done {
        let (name, path) = (leaf.request_name(), leaf.path());
        match output {
            Output::Text => say!("{host}: {name} fits, for {path}"),
            Output::Jsonl => say!("{}", json!({ "event": "certificate", "host": host, "name": name, "path": path })),
        }
    }
    if change.common.dry_run || run.is_new() {
        let changes = if change.common.dry_run { 0 } else { done.len() };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match output {
            Output::Jsonl => say!("{}", json!({ "event": "done", "changes": changes, "milliseconds": milliseconds })),
            Output::Text if changes > 0 => say!("they are on their hosts; `kinit init` puts them in place"),
            Output::Text => say!("{} certificate(s) fit", done.len()),
        }
        return Ok(());
    }
    let plan = run.plan().await.context("the certificates are on their hosts, and wait for the next run")?;
    change.carry_out(&run, &plan, started).await.map(drop)
}

/// Every certificate in `DIR/HOST`.
fn read(dir: &Path) -> Result<Vec<SignedFile>> {
    let mut files = Vec::new();
    for host in entries(dir)? {
        if host.is_dir() {
            let name = host.file_name().unwrap_or_default().to_string_lossy().into_owned();
            of_host(&name, &host, &host, &mut files)?;
        }
    }
    if files.is_empty() {
        let dir = dir.display();
        return Err(Usage(format!("{dir} has no certificates: they are looked for as {dir}/HOST/NAME.crt")).into());
    }
    Ok(files)
}

fn of_host(host: &str, root: &Path, folder: &Path, files: &mut Vec<SignedFile>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            of_host(host, root, &path, files)?;
            continue;
        }
        let own = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Some(name) = own.strip_suffix(".crt").or_else(|| own.strip_suffix(".pem")) else { continue };
        let certificate = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let (host, name, path) = (host.to_owned(), name.to_owned(), path.display().to_string());
        files.push(SignedFile { host, name, path, certificate });
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).with_context(|| format!("read the folder {}", folder.display()))?;
    let mut all = read.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_by_host_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        assert!(read(dir.path()).unwrap_err().to_string().contains("HOST/NAME.crt"));
        for path in
            ["cp1/etcd/server.crt", "cp1/etcd/server.csr", "cp1/admin.conf.crt", "w1/kubelet-client.pem", "x.crt"]
        {
            put(path);
        }
        let found: Vec<(String, String)> = read(dir.path()).unwrap().into_iter().map(|f| (f.host, f.name)).collect();
        let expected = [("cp1", "admin.conf"), ("cp1", "etcd/server"), ("w1", "kubelet-client")];
        assert_eq!(found, expected.map(|(host, name)| (host.to_owned(), name.to_owned())));
        assert!(read(&dir.path().join("missing")).is_err());
    }
}
