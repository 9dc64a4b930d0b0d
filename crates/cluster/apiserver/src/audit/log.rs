//! The file: lines appended by one thread, rotated by size, old ones removed by number and age.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use crate::options::Options;

/// Lines that may wait for the disk before requests are held back.
const QUEUE: usize = 10_000;

/// The open log.
pub struct Log {
    lines: SyncSender<Vec<u8>>,
}

struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    max_backups: usize,
    max_age: Option<Duration>,
}

impl Log {
    /// Opens (and makes) the file, readable for its owner alone.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let (lines, queue) = sync_channel::<Vec<u8>>(QUEUE);
        if path == Path::new("-") {
            std::thread::Builder::new().name("audit".into()).spawn(move || {
                while let Ok(line) = queue.recv() {
                    // Standard output may be gone; there is nobody left to tell.
                    let _ = std::io::stdout().write_all(&line);
                }
            })?;
            return Ok(Self { lines });
        }
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let (file, size) = open(path)?;
        let mut writer = Writer {
            path: path.to_owned(),
            file,
            size,
            max_size: options.audit_log_maxsize * 1024 * 1024,
            max_backups: options.audit_log_maxbackup as usize,
            max_age: (options.audit_log_maxage > 0)
                .then(|| Duration::from_secs(u64::from(options.audit_log_maxage) * 86_400)),
        };
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            while let Ok(line) = queue.recv() {
                if let Err(error) = writer.write(&line) {
                    tracing::error!(error = format!("{error:#}"), "write the audit log");
                }
            }
        })?;
        Ok(Self { lines })
    }

    /// Appends an event.
    pub fn line(&self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        if self.lines.try_send(line).is_err() {
            tracing::error!("the audit log cannot keep up; an event is lost");
        }
    }
}

fn open(path: &Path) -> Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    let size = file.metadata().map(|m| m.len()).unwrap_or(0);
    Ok((file, size))
}

impl Writer {
    fn write(&mut self, line: &[u8]) -> Result<()> {
        if self.max_size > 0 && self.size + line.len() as u64 > self.max_size {
            self.rotate()?;
        }
        self.file.write_all(line).context("append a line")?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// `audit.log` becomes `audit-2026-01-02T03-04-05.678.log` (lumberjack's names, as upstream).
    fn rotate(&mut self) -> Result<()> {
        let stem = self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let ext = self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let stamp = Timestamp::now().strftime("%Y-%m-%dT%H-%M-%S.%3f");
        let old = self.path.with_file_name(format!("{stem}-{stamp}{ext}"));
        std::fs::rename(&self.path, &old).with_context(|| format!("rename to {}", old.display()))?;
        (self.file, self.size) = open(&self.path)?;
        self.prune(&stem, &ext);
        Ok(())
    }

    fn prune(&self, stem: &str, ext: &str) {
        let Some(dir) = self.path.parent() else { return };
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let mut old: Vec<(PathBuf, SystemTime)> = entries
            .filter_map(Result::ok)
            .filter(|e| {
                let name = e.file_name().to_string_lossy().into_owned();
                name.starts_with(&format!("{stem}-")) && name.ends_with(ext) && e.path() != self.path
            })
            .filter_map(|e| Some((e.path(), e.metadata().ok()?.modified().ok()?)))
            .collect();
        old.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        for (i, (path, time)) in old.iter().enumerate() {
            let too_many = self.max_backups > 0 && i >= self.max_backups;
            let too_old = self.max_age.is_some_and(|max| time.elapsed().is_ok_and(|age| age > max));
            if (too_many || too_old)
                && let Err(error) = std::fs::remove_file(path)
            {
                tracing::warn!(%error, path = %path.display(), "remove an old audit log");
            }
        }
    }
}
