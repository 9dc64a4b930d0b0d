//! Which lines of a file would change, for plans.

use anyhow::Result;
use kinit_resource::Observed;
use similar::TextDiff;

use crate::files;
use crate::ledger::Ledger;

/// As many lines are shown; a plan is read by people.
const MOST: usize = 40;

/// The change from the file that is there to `wanted`. A file that kinit did not make is not shown: nobody knows what
/// its owner keeps in it.
pub(crate) fn of(path: &str, wanted: &str) -> Result<Option<Observed>> {
    let ledger = Ledger::load()?;
    if !ledger.is_ours(path) {
        return Ok(None);
    }
    let Ok(Some(actual)) = files::read_optional(path) else { return Ok(None) };
    Ok(Some(Observed::TextDiffers(lines(&actual, wanted))))
}

fn lines(actual: &str, wanted: &str) -> String {
    let diff = TextDiff::from_lines(actual, wanted);
    let text = diff.unified_diff().context_radius(1).missing_newline_hint(false).to_string();
    let all: Vec<&str> = text.lines().collect();
    let mut shown = all.get(..MOST.min(all.len())).unwrap_or_default().join("\n");
    if all.len() > MOST {
        shown.push_str(&format!("\n... and {} more lines", all.len() - MOST));
    }
    // Control characters would speak to the terminal.
    shown.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn changed_lines_are_shown_with_their_neighbours() {
        let text = lines("a\nb\nc\nd\ne\n", "a\nb\nC\u{1b}\nd\ne\n");
        assert_eq!(text, "@@ -2,3 +2,3 @@\n b\n-c\n+C\n d");
        let long: String = (0..100).map(|i| format!("{i}\n")).collect();
        assert!(lines("", &long).ends_with("... and 61 more lines"), "{}", lines("", &long));
    }
}
