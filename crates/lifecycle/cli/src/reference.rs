//! docs/cli.md, from the same tree that reads the command line.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;

const HEAD: &str = "# Command line

Made by `cargo xtask docs` from what `kinit` itself reads; do not edit.

Answers go to standard output; progress, findings, errors and hints to standard error. `RUST_LOG=debug` adds a log there.
With `--output jsonl` standard output is one JSON object per line, each with a field `event`: `preflight`, `planned`, `phaseStarted`, `laneStarted`,
`stepDone`, `stepFailed`, `phaseDone`, `done`, `error`.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | any other failure, including a reset that left something behind |
| 2 | wrong usage; of `kinit plan`: something differs |
| 3 | the cluster file cannot be read, or has mistakes |
| 4 | hosts were not reached, whether or not another kinit works on the others; nothing was changed |
| 5 | preflight checks failed, including the one for hosts of another cluster; nothing was changed |
| 6 | conflict: another kinit works on hosts, and all others were reached; a reset met hosts of another cluster, or of a cluster that nothing on the desk names; what the hosts have contradicts itself or the file (lost keys); nothing was changed, but for a rotation that stopped, which keeps what it has done |
| 7 | a step failed; completed steps are kept, and the same command continues from there |
| 8 | not healthy: what `kinit status`, `etcd status`, `doctor` or `certs check` prints says what |
| 9 | a backup cannot be used: truncated, tampered with, wrongly signed, of another cluster, of a newer format, or not to be opened with what was given; nothing was changed |
| 10 | a bundle cannot be used: none there, damaged, unsigned or signed by somebody else, not of this desk; nothing was changed |
| 130, 143 | stopped by SIGINT, SIGTERM; each host finishes its current step |
";

/// The reference of all verbs and flags, as Markdown.
pub fn markdown(mut root: Command) -> String {
    root.build();
    let mut text = HEAD.to_owned();
    root.get_subcommands().for_each(|verb| section(verb, "kinit", &mut text));
    text
}

fn section(verb: &Command, parent: &str, text: &mut String) {
    if verb.is_hide_set() || verb.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", verb.get_name());
    if verb.has_subcommands() {
        return verb.get_subcommands().for_each(|inner| section(inner, &name, text));
    }
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    // A text is all that `write!` can fail on.
    write!(text, "\n## `{name}`\n\n{about}.\n").unwrap_or_default();
    if let Some(more) = verb.get_after_long_help() {
        write!(text, "\n```\n{more}\n```\n").unwrap_or_default();
    }
    let rows: Vec<String> =
        verb.get_arguments().filter(|a| !a.is_hide_set() && a.get_id() != "help").map(row).collect();
    if !rows.is_empty() {
        write!(text, "\n| | |\n|---|---|\n{}", rows.concat()).unwrap_or_default();
    }
}

fn row(argument: &clap::Arg) -> String {
    let mut flags: Vec<String> = argument.get_short().map(|c| format!("-{c}")).into_iter().collect();
    flags.extend(argument.get_long().map(|l| format!("--{l}")));
    let value = argument.get_value_names().and_then(|names| names.first()).map(|n| n.to_string()).unwrap_or_default();
    let value = if argument.get_action().takes_values() { value } else { String::new() };
    let shown = format!("{} {value}", flags.join(", "));
    let mut notes = vec![argument.get_help().map(ToString::to_string).unwrap_or_default()];
    let defaults: Vec<_> = argument.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    if !defaults.is_empty() && argument.get_action().takes_values() {
        notes.push(format!("default: `{}`", defaults.join(",")));
    }
    if argument.is_required_set() {
        notes.push("required".to_owned());
    }
    format!("| `{}` | {} |\n", shown.trim(), notes.join("; ").replace('|', "\\|"))
}

/// Writes a man page for each verb that is not hidden.
pub fn man(command: Command, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    clap_mangen::generate_to(command, directory).with_context(|| format!("write man pages to {}", directory.display()))
}

#[cfg(test)]
mod tests {
    /// `cargo xtask docs` makes the file anew.
    #[test]
    fn the_reference_is_current() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/cli.md");
        let written = std::fs::read_to_string(file).unwrap_or_default();
        assert!(written == crate::command::reference(), "docs/cli.md is stale: run `cargo xtask docs`");
    }
}
