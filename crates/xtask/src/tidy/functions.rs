//! Functions that ask to be split.

/// Lines between a function's braces.
const MAX_BODY: usize = 60;
/// `LINES FILE FUNCTION` of those that were longer when the rule came. The list only shrinks: a function that is short
/// enough leaves it, and none may grow or be added.
const KNOWN: &str = include_str!("long-functions.txt");

/// A function whose body is too long.
#[derive(Debug, PartialEq)]
pub struct Long {
    file: String,
    name: String,
    lines: usize,
}

/// The functions of a file that are too long. The file is formatted by rustfmt: a body begins with a brace at the end
/// of a line and ends with one in the function's own column.
pub fn too_long(shown: &str, text: &str) -> Vec<Long> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some(name) = function(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indent}}}");
        let mut head = lines[i..].iter().position(|l| l.ends_with('{') || l.ends_with(['}', ';'])).map(|n| i + n);
        head = head.filter(|n| lines[*n].ends_with('{'));
        let Some(head) = head else { continue };
        let Some(body) = lines[head + 1..].iter().position(|l| *l == closing) else { continue };
        if body > MAX_BODY {
            found.push(Long { file: shown.to_owned(), name: name.to_owned(), lines: body });
        }
    }
    found
}

/// The name, if a function begins in this line.
fn function(line: &str) -> Option<&str> {
    let (before, after) = line.trim_start().split_once("fn ")?;
    let word = |w: &str| matches!(w, "const" | "async" | "unsafe" | "extern" | "\"C\"") || w.starts_with("pub");
    before.split_whitespace().all(|w| word(w) || w.ends_with(')')).then_some(())?;
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    (end > 0).then(|| &after[..end])
}

/// Offenders that are not known, known ones that grew, and entries of the list that are out of date.
pub fn compare(found: &[Long]) -> Vec<String> {
    against(found, KNOWN)
}

fn against(found: &[Long], known: &str) -> Vec<String> {
    let known: Vec<Long> = known.lines().filter_map(entry).collect();
    let same = |a: &Long, b: &Long| a.file == b.file && a.name == b.name;
    let mut problems = Vec::new();
    for Long { file, name, lines } in found.iter().filter(|f| !known.iter().any(|k| same(f, k) && f.lines <= k.lines)) {
        problems.push(format!("{file}: {name} has {lines} lines; split it (at most {MAX_BODY})"));
    }
    for entry in &known {
        let now = found.iter().filter(|f| same(f, entry)).map(|f| f.lines).max();
        if now.is_none_or(|now| now < entry.lines) {
            let now = now.map_or_else(|| "is short enough".to_owned(), |n| format!("has {n} lines"));
            problems.push(format!("long-functions.txt: {} in {} {now} now; say so", entry.name, entry.file));
        }
    }
    problems
}

fn entry(line: &str) -> Option<Long> {
    let mut words = line.split_whitespace();
    let (lines, file, name) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    Some(Long { file: file.to_owned(), name: name.to_owned(), lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &str, lines: usize) -> String {
        format!("impl T {{\n    {head} {{\n{}    }}\n}}\n", "        if x {\n        }\n".repeat(lines / 2))
    }

    #[test]
    fn bodies_are_measured() {
        for head in
            ["pub(crate) async fn f()", "fn f(\n        a: u8,\n    ) -> u8", "const fn f<T>()\n    where T: A,\n   "]
        {
            assert_eq!(too_long("a.rs", &text(head, 60)), []);
            let long = Long { file: "a.rs".to_owned(), name: "f".to_owned(), lines: 62 };
            assert_eq!(too_long("a.rs", &text(head, 62)), [long], "{head}");
        }
        assert_eq!(too_long("a.rs", &text("/// a fn f()", 62)), []);
        assert_eq!(too_long("a.rs", &format!("trait T {{\n    fn f();\n{}}}\n", "    // x\n".repeat(90))), []);
    }

    #[test]
    fn the_list_of_offenders_only_shrinks() {
        let found = |lines| vec![Long { file: "a.rs".to_owned(), name: "f".to_owned(), lines }];
        assert_eq!(against(&found(70), "70 a.rs f\n"), Vec::<String>::new());
        assert_eq!(against(&found(71), "70 a.rs f\n"), ["a.rs: f has 71 lines; split it (at most 60)"]);
        assert_eq!(against(&found(61), ""), ["a.rs: f has 61 lines; split it (at most 60)"]);
        assert_eq!(against(&found(69), "70 a.rs f\n"), ["long-functions.txt: f in a.rs has 69 lines now; say so"]);
        assert_eq!(against(&[], "70 a.rs f\n"), ["long-functions.txt: f in a.rs is short enough now; say so"]);
    }
}
