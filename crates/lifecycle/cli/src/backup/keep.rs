//! Folders of backups on the desk: listing them, and deleting from them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use jiff::Timestamp;
use kinit_backup::{Card, EXTENSION, Retention, is_backup_name, listing, outdated};
use serde_json::json;

use crate::errors::Usage;
use crate::progress::Output;

/// Flags of `kinit backup list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The folder
    #[arg(value_name = "DIR", default_value = "backups")]
    folder: PathBuf,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Flags of `kinit backup prune`.
#[derive(Args, Debug)]
pub struct PruneArgs {
    /// The folder
    #[arg(value_name = "DIR", default_value = "backups")]
    folder: PathBuf,
    /// Keep as spec.backup.retention of this cluster file says
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with_all = ["last", "hourly", "daily", "weekly", "monthly"])]
    file: Option<PathBuf>,
    /// Keep that many of the newest
    #[arg(long, value_name = "N", default_value_t = 0)]
    last: u32,
    /// Keep the newest of each of the last N hours that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    hourly: u32,
    /// Keep the newest of each of the last N days that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    daily: u32,
    /// Keep the newest of each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    weekly: u32,
    /// Keep the newest of each of the last N months that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    monthly: u32,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Flags of `kinit backup delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// The backups' files
    #[arg(required = true, value_name = "BACKUP")]
    files: Vec<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// A backup in a folder.
pub(super) struct Found {
    name: String,
    time: Timestamp,
    card: Option<Card>,
    /// What is wrong with it, as far as that can be seen from outside.
    trouble: Option<String>,
}

/// What the name says when there is no card.
fn time_of(name: &str) -> Option<Timestamp> {
    let stem = name.strip_suffix(EXTENSION)?;
    let (_, time) = stem.rsplit_once('-')?;
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// The backups of a folder, of the cluster with this authority where one is given, newest first.
pub(super) fn read(folder: &Path, authority: Option<&str>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(time) = time_of(&name).filter(|_| is_backup_name(&name)) else { continue };
        let card = std::fs::read(folder.join(format!("{name}.json"))).ok().and_then(|text| Card::parse(&text));
        let bytes = entry.metadata().with_context(|| format!("look at {name}"))?.len();
        let trouble = card.as_ref().filter(|card| card.bytes != bytes).map(|card| {
            let what = if bytes < card.bytes { "truncated" } else { "changed" };
            format!("{what}: it has {bytes} bytes, and had {}", card.bytes)
        });
        let is_other = |card: &Card| authority.is_some_and(|own| own != card.manifest.cluster.authority);
        if !card.as_ref().is_some_and(is_other) {
            found.push(Found { name, time, card, trouble });
        }
    }
    found.sort_by(|a, b| (b.time, &b.name).cmp(&(a.time, &a.name)));
    Ok(found)
}

/// What retention looks at. One that is damaged is not proven, whatever its card says.
pub(super) fn times(found: &[Found]) -> Vec<(String, Timestamp, bool)> {
    let proven = |f: &Found| f.trouble.is_none() && f.card.as_ref().is_some_and(|card| card.manifest.proof.is_some());
    found.iter().map(|f| (f.name.clone(), f.time, proven(f))).collect()
}

/// Lists a folder.
pub(super) fn list(args: &ListArgs) -> Result<()> {
    let found = read(&args.folder, None)?;
    for backup in &found {
        match (args.output, &backup.card) {
            (Output::Jsonl, card) => {
                say!(
                    "{}",
                    json!({"file": backup.name, "time": backup.time.to_string(), "trouble": backup.trouble, "card": card})
                );
            }
            (Output::Text, Some(card)) => {
                let trouble = backup.trouble.as_ref().map(|why| format!("  {why}")).unwrap_or_default();
                say!("{}{trouble}", listing(card));
            }
            (Output::Text, None) => say!("{:<48} (without a card; `kinit backup show` reads it)", backup.name),
        }
    }
    if found.is_empty() && args.output == Output::Text {
        say!("no backups in {}", args.folder.display());
    }
    Ok(())
}

/// Deletes backups of a folder with their cards.
pub(super) fn remove(folder: &Path, names: &[String], output: Output) -> Result<()> {
    for name in names {
        let path = folder.join(name);
        std::fs::remove_file(&path).with_context(|| format!("delete {}", path.display()))?;
        std::fs::remove_file(folder.join(format!("{name}.json"))).ok();
        match output {
            Output::Text => say!("deleted {}", path.display()),
            Output::Jsonl => say!("{}", json!({"event": "deleted", "file": path})),
        }
    }
    Ok(())
}

/// Deletes what is outdated.
pub(super) fn prune(args: &PruneArgs) -> Result<()> {
    let rule = match &args.file {
        Some(file) => crate::config::load(file)?.spec.backup.map(|backup| backup.retention).unwrap_or_default(),
        None => Retention {
            last: args.last,
            hourly: args.hourly,
            daily: args.daily,
            weekly: args.weekly,
            monthly: args.monthly,
        },
    };
    if rule.keeps_all() {
        let why = "how many are to be kept? --last, --hourly, --daily, --weekly, --monthly, or spec.backup.retention";
        return Err(Usage(why.to_owned()).into());
    }
    let gone = outdated(&times(&read(&args.folder, None)?), rule);
    if args.dry_run {
        gone.iter().for_each(|name| say!("would delete {name}"));
        return Ok(());
    }
    remove(&args.folder, &gone, args.output)
}

/// Deletes these.
pub(super) fn delete(args: &DeleteArgs) -> Result<()> {
    for path in &args.files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        ensure!(is_backup_name(name), "{} is not named as a backup is (*{EXTENSION}): it stays", path.display());
        let folder = path.parent().unwrap_or(Path::new(""));
        remove(folder, &[name.to_owned()], args.output)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_time() {
        let time = time_of("a-b-20261129T033500Z.kinit-backup").unwrap();
        assert_eq!(time.to_string(), "2026-11-29T03:35:00Z");
        for other in ["x", "a-20261129.kinit-backup", "a-20269929T033500Z.kinit-backup", ".kinit-backup"] {
            assert!(time_of(other).is_none(), "{other}");
        }
    }

    #[test]
    fn what_is_no_backup_is_never_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, "x").unwrap();
        delete(&DeleteArgs { files: vec![path.clone()], output: Output::Text }).unwrap_err();
        assert!(path.exists());
        for day in 1..=3 {
            std::fs::write(dir.path().join(format!("c-2026110{day}T000000Z.kinit-backup")), "x").unwrap();
        }
        let found = read(dir.path(), None).unwrap();
        assert_eq!(found.len(), 3);
        let gone = outdated(&times(&found), Retention { last: 2, ..Retention::default() });
        remove(dir.path(), &gone, Output::Text).unwrap();
        assert!(path.exists() && !dir.path().join("c-20261101T000000Z.kinit-backup").exists());
        assert_eq!(read(dir.path(), None).unwrap().len(), 2);
    }
}
