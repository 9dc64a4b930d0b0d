//! What was done on this host: who, when, which operation, under which plan, and how each step ended. A line of JSON an
//! event; read by `kinit history`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ledger::{HOME, Ledger};
use crate::opening::{Caller, unix_time};

const PATH: &str = "/var/lib/kinit/journal.jsonl";
/// A journal of this many bytes is put aside, in place of the one put aside before. A step takes some 100 bytes.
const LARGEST: u64 = 1 << 20;
/// An error's words beyond that many bytes are cut.
const LONGEST: usize = 2 << 10;

/// An event, as it is in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// When, by the host's clock, in seconds since 1970.
    pub time: i64,
    /// Tells the runs apart.
    pub run: String,
    /// What happened.
    #[serde(flatten)]
    pub event: JournalEvent,
}

/// What can happen in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum JournalEvent {
    /// The run's first step on this host is about to be done.
    Begin {
        /// Who, and which operation.
        #[serde(flatten)]
        caller: Caller,
        /// The plan's hash, where there is a plan.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
    },
    /// A step has ended.
    Step {
        /// What was brought about.
        what: String,
        /// How long it took.
        milliseconds: u64,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The run has ended on this host. A run without an end was cut off with its agent.
    End {
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

/// A host's journal, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Its events.
    pub entries: Vec<JournalEntry>,
    /// Lines that cannot be read: the last one before a crash.
    pub unreadable: usize,
}

/// A run's events, on their way into the journal. It begins with the first step: a run that does nothing on a host
/// leaves no trace there.
pub(crate) struct Journal {
    path: PathBuf,
    run: String,
    caller: Caller,
    plan: Option<String>,
    begun: bool,
}

impl Journal {
    /// This host's.
    pub(crate) fn host(caller: Caller) -> Self {
        Self::at(PATH.into(), caller)
    }

    pub(crate) fn at(path: PathBuf, caller: Caller) -> Self {
        // Two runs have not both the same second and the same process.
        let run = format!("{:x}-{:x}", unix_time(), std::process::id());
        Self { path, run, caller, plan: None, begun: false }
    }

    /// The plan of this run.
    pub(crate) fn set_plan(&mut self, plan: String) {
        self.plan = Some(plan);
    }

    /// Writes the run's first line, unless it is there already. The journal is made if there is none.
    pub(crate) fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            let event = JournalEvent::Begin { caller: self.caller.clone(), plan: self.plan.clone() };
            self.write(event, true);
        }
    }

    /// Notes a step's end.
    pub(crate) fn step(&mut self, what: String, milliseconds: u64, error: Option<&str>) {
        self.begin();
        self.write(JournalEvent::Step { what, milliseconds, error: error.map(cut) }, false);
    }

    /// Notes the end of a step before which the run may not have begun: a reset of a host where nothing was done.
    pub(crate) fn step_if_begun(&mut self, what: String, milliseconds: u64, error: Option<&str>) {
        if self.begun {
            self.step(what, milliseconds, error);
        }
    }

    /// Notes the run's end, if it has begun.
    pub(crate) fn end(&mut self, error: Option<&str>) {
        if std::mem::take(&mut self.begun) {
            self.write(JournalEvent::End { error: error.map(cut) }, false);
        }
    }

    /// A journal that cannot be written (a full disk) stops no work: it is told in the agent's log.
    fn write(&self, event: JournalEvent, create: bool) {
        let entry = JournalEntry { time: unix_time(), run: self.run.clone(), event };
        match self.append(&entry, create) {
            // Reset has removed it.
            Err(error) if is_missing(&error) && !create => {}
            Err(error) => tracing::warn!("the journal lacks an event: {error:#}"),
            Ok(()) => {}
        }
    }

    fn append(&self, entry: &JournalEntry, create: bool) -> Result<()> {
        if create && self.path == Path::new(PATH) {
            Ledger::note_path(HOME)?;
            std::fs::create_dir_all(HOME).with_context(|| format!("create {HOME}"))?;
        }
        if std::fs::metadata(&self.path).is_ok_and(|meta| meta.len() >= LARGEST) {
            std::fs::rename(&self.path, aside(&self.path)).context("put the journal aside")?;
        }
        let aside_is_there = aside(&self.path).exists();
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(create || aside_is_there).mode(0o600);
        let mut file = options.open(&self.path).with_context(|| format!("open {}", self.path.display()))?;
        let mut line = Vec::new();
        if is_torn(&mut file)? {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, entry).context("encode an event")?;
        line.push(b'\n');
        file.write_all(&line).with_context(|| format!("write {}", self.path.display()))?;
        if matches!(entry.event, JournalEvent::Step { .. }) { Ok(()) } else { Ok(file.sync_all()?) }
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Where the journal goes when it is full.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

/// Whether the last line was cut by a crash.
fn is_torn(file: &mut File) -> Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

fn cut(text: &str) -> String {
    text.char_indices().take_while(|(at, _)| *at < LONGEST).map(|(_, c)| c).collect()
}

/// Reads this host's journal; empty where there is none.
pub(crate) fn history() -> Result<History> {
    read(Path::new(PATH))
}

pub(crate) fn read(path: &Path) -> Result<History> {
    let mut history = History::default();
    for file in [aside(path), path.to_owned()] {
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(entry) => history.entries.push(entry),
                Err(_) => history.unreadable += 1,
            }
        }
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn journal(dir: &Path) -> Journal {
        let caller = Caller { by: "alice@desk".into(), pid: 7, operation: "init".into() };
        Journal::at(dir.join("journal.jsonl"), caller)
    }

    #[test]
    fn a_run_is_told_from_begin_to_end_and_one_without_steps_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut idle = journal(dir.path());
        idle.set_plan("p".into());
        idle.end(None);
        assert!(!path.exists());
        let mut run = journal(dir.path());
        run.set_plan("sha256:1".into());
        run.step("/etc/x".into(), 3, None);
        run.step("etcd.service".into(), 5, Some(&"é".repeat(LONGEST)));
        run.end(Some("a step failed"));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let history = read(&path).unwrap();
        let [begin, one, two, end] = &history.entries[..] else { panic!("{history:?}") };
        assert!(matches!(&begin.event, JournalEvent::Begin { caller, plan: Some(plan) }
            if caller.by == "alice@desk" && caller.operation == "init" && plan == "sha256:1"));
        assert!(matches!(&one.event, JournalEvent::Step { what, error: None, .. } if what == "/etc/x"));
        assert!(matches!(&two.event, JournalEvent::Step { error: Some(e), .. } if e.len() == LONGEST));
        assert!(matches!(&end.event, JournalEvent::End { error: Some(e) } if e == "a step failed"));
        assert!(history.entries.iter().all(|entry| entry.run == begin.run));
    }

    #[test]
    fn a_journal_that_reset_removed_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = journal(dir.path());
        run.begin();
        std::fs::remove_file(dir.path().join("journal.jsonl")).unwrap();
        run.step("reset".into(), 1, None);
        run.end(None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_line_cut_by_a_crash_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        std::fs::write(&path, "{\"time\":1,\"run\":\"x\",\"ev").unwrap();
        journal(dir.path()).begin();
        let history = read(&path).unwrap();
        assert_eq!((history.entries.len(), history.unreadable), (1, 1));
    }

    #[test]
    fn its_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = journal(dir.path());
        let error = "x".repeat(LONGEST);
        for _ in 0..3 * LARGEST / LONGEST as u64 {
            run.step("s".into(), 1, Some(&error));
        }
        let sizes: Vec<u64> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size < LARGEST + 2 * LONGEST as u64), "{sizes:?}");
        assert!(matches!(read(&run.path).unwrap().entries.last().unwrap().event, JournalEvent::Step { .. }));
    }
}
