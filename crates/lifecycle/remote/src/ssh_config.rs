//! The OpenSSH client's configuration, `~/.ssh/config` (ssh_config(5)): lines, blocks, included files.
//!
//! A reader of our own: of the published ones, russh-config refuses settings before the first `Host`, and ssh2-config
//! gives what stands in a `Match` block to the `Host` block above it, so that a host would be reached by another's key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::pattern;

/// Why the configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigProblem {
    /// File and line.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

/// A parsed configuration; an empty one is that of somebody who has none.
#[derive(Debug, Clone, Default)]
pub struct SshConfig {
    pub(crate) settings: Vec<Setting>,
}

/// One line that sets something, for hosts that fulfil all conditions.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) conditions: Vec<Arc<Condition>>,
    /// Lower-case.
    pub(crate) keyword: String,
    pub(crate) arguments: Vec<String>,
    /// What stands behind the keyword as it is.
    pub(crate) rest: String,
    pub(crate) place: String,
}

/// When the lines of a block count.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    /// `Host PATTERN...`
    Host(Vec<String>),
    /// `Match CRITERION...`: each a name, whether it is negated, and its argument.
    Match(Vec<(String, bool, String)>),
}

/// OpenSSH's own limit (`READCONF_MAX_DEPTH`).
const DEEPEST: usize = 16;
/// Configurations are small; what is above is another file.
const LONGEST: u64 = 1 << 20;

impl SshConfig {
    /// Reads a file and what it includes; a missing file is an empty one. `home` is for `~` and for relative names of
    /// included files, which are below its `.ssh`.
    pub fn read(file: &Path, home: &Path) -> Result<Self, ConfigProblem> {
        let mut config = Self::default();
        if file.exists() {
            read_into(&mut config.settings, file, home, &[], 0)?;
        }
        Ok(config)
    }
}

fn read_into(
    settings: &mut Vec<Setting>,
    file: &Path,
    home: &Path,
    outer: &[Arc<Condition>],
    depth: usize,
) -> Result<(), ConfigProblem> {
    let place = |line: usize| format!("{} line {line}", file.display());
    let cannot = |message: String| ConfigProblem { place: file.display().to_string(), message };
    let meta = std::fs::metadata(file).map_err(|e| cannot(e.to_string()))?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(cannot("is not a configuration of ssh".to_owned()));
    }
    let text = std::fs::read(file).map_err(|e| cannot(e.to_string()))?;
    let mut conditions = outer.to_vec();
    for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
        let problem = |message: &str| ConfigProblem { place: place(number + 1), message: message.to_owned() };
        let Some((keyword, rest)) = split_keyword(line) else { continue };
        let Some(arguments) = words(rest) else { return Err(problem("a quote is not closed")) };
        match keyword.as_str() {
            "host" | "match" => {
                let condition = match keyword.as_str() {
                    "host" => Condition::Host(arguments),
                    _ => Condition::Match(criteria(&arguments).ok_or_else(|| problem("a Match without its argument"))?),
                };
                conditions = [outer, &[Arc::new(condition)]].concat();
            }
            "include" if depth >= DEEPEST => return Err(problem("Include is nested too deeply")),
            "include" => {
                for pattern in &arguments {
                    for file in included(pattern, home).map_err(|m| problem(&m))? {
                        read_into(settings, &file, home, &conditions, depth + 1)?;
                    }
                }
            }
            _ if arguments.is_empty() => return Err(problem(&format!("{keyword} has no value"))),
            _ => settings.push(Setting {
                conditions: conditions.clone(),
                keyword,
                arguments,
                rest: rest.trim().to_owned(),
                place: place(number + 1),
            }),
        }
    }
    Ok(())
}

/// `Keyword arguments` or `Keyword=arguments`; `None` for empty lines and comments.
fn split_keyword(line: &str) -> Option<(String, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start();
    Some((keyword.to_lowercase(), rest.strip_prefix('=').unwrap_or(rest).trim_start()))
}

/// Words of a line, with quotes and backslashes as OpenSSH's `argv_split` takes them; `None` when a quote is not
/// closed. A `#` at a word's start begins a comment.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', _) if characters.peek().is_some_and(|n| "\\\"'".contains(*n) || (quote.is_none() && *n == ' ')) => {
                word.get_or_insert_default().extend(characters.next());
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// `all`, `canonical` and `final` stand alone, everything else has an argument; `!` negates.
fn criteria(arguments: &[String]) -> Option<Vec<(String, bool, String)>> {
    let (mut found, mut words) = (Vec::new(), arguments.iter());
    while let Some(word) = words.next() {
        let lower = word.to_lowercase();
        let (negated, name) = (lower.starts_with('!'), lower.trim_start_matches('!').to_owned());
        let (name, argument) = match name.split_once('=') {
            Some((name, _)) => (name.to_owned(), word.split_once('=').map(|(_, a)| a.to_owned())?),
            None if ["all", "canonical", "final"].contains(&name.as_str()) => (name, String::new()),
            None => (name, words.next()?.clone()),
        };
        found.push((name, negated, argument));
    }
    (!found.is_empty()).then_some(found)
}

/// Files that an `Include` names, in the order of their names; wildcards in the last part alone.
fn included(pattern: &str, home: &Path) -> Result<Vec<PathBuf>, String> {
    let path = match pattern.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => home.join(".ssh").join(pattern),
    };
    let wild = |text: &str| text.contains(['*', '?', '[']);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new("/"));
    if wild(&folder.to_string_lossy()) || name.contains('[') || pattern.starts_with('~') && !pattern.starts_with("~/") {
        return Err(format!("Include {pattern}: wildcards * and ? in the file's name alone are supported"));
    }
    if !wild(&name) {
        return Ok(if path.exists() { vec![path] } else { Vec::new() });
    }
    // As in a shell, a folder that is not there holds nothing.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let fits = |entry: &std::fs::DirEntry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        (!file.starts_with('.') || name.starts_with('.')) && pattern::matches(&name, &file)
    };
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).filter(fits).map(|e| e.path()).collect();
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_openssh_reads_them() {
        for (line, keyword, expected) in [
            ("  Port 22", "port", vec!["22"]),
            ("Port=22", "port", vec!["22"]),
            ("Port\t= 22 # not 23", "port", vec!["22"]),
            ("IdentityFile \"~/my keys/a\" 'b c'", "identityfile", vec!["~/my keys/a", "b c"]),
            ("User AD\\\\me", "user", vec!["AD\\me"]),
            ("IdentityFile my\\ key", "identityfile", vec!["my key"]),
            ("UserKnownHostsFile \"\"", "userknownhostsfile", vec![""]),
            ("ForwardAgent", "forwardagent", vec![]),
        ] {
            let (found, rest) = split_keyword(line).unwrap();
            assert_eq!(
                (found.as_str(), words(rest).unwrap()),
                (keyword, expected.iter().map(|s| (*s).to_owned()).collect()),
                "{line}"
            );
        }
        assert!(split_keyword(" # comment").is_none() && split_keyword("").is_none());
        assert!(words("\"open").is_none());
    }

    #[test]
    fn files_include_others_and_mistakes_have_a_place() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".ssh");
        std::fs::create_dir_all(dir.join("d")).unwrap();
        let config = dir.join("config");
        let read = |text: &str| {
            std::fs::write(&config, text).unwrap();
            SshConfig::read(&config, home.path())
        };
        std::fs::write(dir.join("d/2.conf"), "User two\n").unwrap();
        std::fs::write(dir.join("d/1.conf"), "Host x\nUser one\n").unwrap();
        std::fs::write(dir.join("d/.hidden.conf"), "User hidden\n").unwrap();
        let settings = read("Host a\nInclude d/*.conf none/* missing\nPort 1\n").unwrap().settings;
        let seen: Vec<_> = settings.iter().map(|s| (s.arguments.concat(), s.conditions.len())).collect();
        assert_eq!(seen, [("one".to_owned(), 2), ("two".to_owned(), 1), ("1".to_owned(), 1)]);
        assert!(read("Include config\n").unwrap_err().message.contains("too deeply"));
        assert!(read("Port 1\nUser\n").unwrap_err().to_string().ends_with("config line 2: user has no value"));
        assert!(read("Include */x\n").is_err() && read("Match host\n").is_err() && read("User \"x\n").is_err());
        assert!(SshConfig::read(&dir.join("none"), home.path()).unwrap().settings.is_empty());
        assert!(SshConfig::read(&dir, home.path()).is_err());
    }
}
