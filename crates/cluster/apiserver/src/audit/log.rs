//! The file: lines appended by one thread, rotated by size, old ones removed by number and age.
//!
//! Whoever writes a line waits until it is in the file (`--audit-log-mode=blocking`): a slow disk holds requests back,
//! and no event is lost but those that the disk refuses, which is told in the server's log.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use jiff::Timestamp;
use kinit_component_base::supervise;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::metrics;

/// Lines on their way to the thread; whoever has another one waits.
const QUEUE: usize = 1000;

struct Line {
    text: Vec<u8>,
    /// Told whether the line was written; nobody listens to the last event of a stream.
    written: Option<oneshot::Sender<bool>>,
}

/// When the file is rotated, and what becomes of old ones; 0 and none are "never".
#[derive(Debug, Clone, Copy, Default)]
pub struct Rotation {
    /// Bytes before the file is rotated.
    pub max_size: u64,
    /// Old files that are kept.
    pub max_backups: usize,
    /// How long they are kept.
    pub max_age: Option<Duration>,
}

/// The open log. Dropping it writes what is on its way.
pub struct Log {
    lines: Option<mpsc::Sender<Line>>,
    thread: Option<JoinHandle<()>>,
}

enum Target {
    Output,
    File(Writer),
}

struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Rotation,
}

impl Log {
    /// Opens (and makes) the file, readable for its owner alone.
    pub fn open(path: &Path, rotation: Rotation) -> Result<Self> {
        let mut target = if path == Path::new("-") {
            Target::Output
        } else {
            if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
                std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
            }
            let (file, size) = open(path)?;
            Target::File(Writer { path: path.to_owned(), file, size, rotation })
        };
        Self::writing(move |text| target.write(text))
    }

    fn writing(mut write: impl FnMut(&[u8]) -> Result<()> + Send + 'static) -> Result<Self> {
        let (lines, mut queue) = mpsc::channel::<Line>(QUEUE);
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || {
            // A server whose requests nobody records any more is to end.
            let written = supervise::guarded_sync("the audit log", || write_all(&mut queue, &mut write));
            if let Err(panicked) = written {
                supervise::fail(panicked.to_string());
            }
        })?;
        Ok(Self { lines: Some(lines), thread: Some(thread) })
    }

    /// Appends an event and waits until it is written; whether it was.
    pub async fn line(&self, event: &Value) -> bool {
        metrics::event();
        let (written, done) = oneshot::channel();
        let line = Line { text: text(event), written: Some(written) };
        let Some(lines) = &self.lines else { return false };
        lines.send(line).await.is_ok() && done.await.unwrap_or(false)
    }

    /// Appends an event for somebody who cannot wait. When the log is behind, a task waits in their place.
    pub fn line_later(self: Arc<Self>, event: &Value) {
        let Some(lines) = &self.lines else { return };
        metrics::event();
        match lines.try_send(Line { text: text(event), written: None }) {
            Ok(()) => {}
            Err(TrySendError::Full(line)) => match Handle::try_current() {
                Ok(runtime) => {
                    runtime.spawn(async move {
                        if let Some(lines) = &self.lines
                            && lines.send(line).await.is_err()
                        {
                            ended();
                        }
                    });
                }
                Err(_) => {
                    if lines.blocking_send(line).is_err() {
                        ended();
                    }
                }
            },
            Err(TrySendError::Closed(_)) => ended(),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the audit log's thread panicked");
        }
    }
}

/// Writes lines until nobody has one any more.
fn write_all(queue: &mut mpsc::Receiver<Line>, mut write: impl FnMut(&[u8]) -> Result<()>) {
    while let Some(line) = queue.blocking_recv() {
        let result = write(&line.text);
        if let Err(error) = &result {
            metrics::lost();
            tracing::error!(error = format!("{error:#}"), "an audit event is lost");
        }
        if let Some(written) = line.written {
            // Whoever waited may be gone.
            let _ = written.send(result.is_ok());
        }
    }
}

/// An event is lost with the thread.
fn ended() {
    metrics::lost();
    tracing::error!("an audit event is lost: the log's thread has ended");
}

fn text(event: &Value) -> Vec<u8> {
    let mut line = event.to_string().into_bytes();
    line.push(b'\n');
    line
}

impl Target {
    fn write(&mut self, line: &[u8]) -> Result<()> {
        match self {
            Self::Output => std::io::stdout().write_all(line).context("write to standard output"),
            Self::File(writer) => writer.write(line),
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
        if self.rotation.max_size > 0 && self.size + line.len() as u64 > self.rotation.max_size {
            // A file that has become too long is better than an event that is lost.
            if let Err(error) = self.rotate() {
                tracing::error!(error = format!("{error:#}"), "rotate the audit log");
            }
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
            let too_many = self.rotation.max_backups > 0 && i >= self.rotation.max_backups;
            let too_old = self.rotation.max_age.is_some_and(|max| time.elapsed().is_ok_and(|age| age > max));
            if (too_many || too_old)
                && let Err(error) = std::fs::remove_file(path)
            {
                tracing::warn!(%error, path = %path.display(), "remove an old audit log");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use serde_json::json;

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    #[tokio::test]
    async fn files_are_rotated_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        // A line has some 20 bytes: two of them in a file.
        let rotation = Rotation { max_size: 45, max_backups: 2, max_age: None };
        let log = Log::open(&path, rotation).unwrap();
        for number in 0..10 {
            assert!(log.line(&json!({"number": 1000 + number})).await);
            // Files are told apart by their milliseconds.
            std::thread::sleep(Duration::from_millis(3));
        }
        drop(log);
        let all = files(dir.path());
        assert_eq!(all.len(), 3, "{all:?}");
        let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap().replace('\n', " ");
        let text: Vec<String> = all.iter().map(read).collect();
        let lines = |numbers: [u32; 2]| numbers.map(|n| format!("{{\"number\":{n}}} ")).concat();
        assert_eq!(text, [lines([1004, 1005]), lines([1006, 1007]), lines([1008, 1009])], "the newest stay");
        for file in &all {
            assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
        // What is there counts after a restart, and what is too old goes.
        let log = Log::open(&path, Rotation { max_age: Some(Duration::ZERO), ..rotation }).unwrap();
        assert!(log.line(&json!({"number": 1010})).await);
        drop(log);
        assert_eq!(files(dir.path()), std::slice::from_ref(&path));
        assert_eq!(read(&path), "{\"number\":1010} ");
    }

    #[tokio::test]
    async fn a_server_does_not_go_on_without_its_log() {
        let log = Log::writing(|text| {
            assert!(!text.starts_with(b"\"bad"), "a panic of the writer");
            Ok(())
        })
        .unwrap();
        assert!(log.line(&json!("good")).await);
        assert!(!log.line(&json!("bad")).await, "whoever waits hears that nothing was written");
        assert!(!log.line(&json!("good")).await);
        drop(log);
        let failure = supervise::failure().unwrap();
        assert!(failure.starts_with("the audit log panicked: a panic of the writer"), "{failure}");
    }
}
