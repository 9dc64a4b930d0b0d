//! Licences of dependencies: each must be one that a product under Apache-2.0 may contain. The list is that of
//! deny.toml, which `cargo deny` reads too.

use anyhow::{Context, Result, ensure};

use super::metadata::Metadata;

/// Crates without a licence, or with one that the list does not allow.
pub fn check(deny: &str, metadata: &Metadata) -> Result<Vec<String>> {
    let allowed = allowed(deny)?;
    let mut problems = Vec::new();
    for package in metadata.packages.iter().filter(|p| p.source.is_some()) {
        let shown = format!("{} {}", package.name, package.version);
        let Some(licence) = &package.license else {
            problems.push(format!("{shown}: names no licence"));
            continue;
        };
        if !permits(licence, &allowed).with_context(|| format!("licence of {shown}"))? {
            problems.push(format!("{shown}: licence {licence} is not allowed (deny.toml)"));
        }
    }
    Ok(problems)
}

/// The strings of `allow = [...]` under `[licenses]`.
fn allowed(deny: &str) -> Result<Vec<&str>> {
    let section = deny.split("\n[").find(|s| s.trim_start_matches('[').starts_with("licenses]"));
    let list = section.and_then(|s| s.split_once("\nallow = ["));
    let (_, list) = list.context("deny.toml has no list `allow` under [licenses]")?;
    let (list, _) = list.split_once(']').context("deny.toml: the list of licences does not end")?;
    Ok(list.split('"').skip(1).step_by(2).collect())
}

/// Whether an SPDX expression can be met with the allowed licences alone (spdx.github.io, annex D: AND binds before
/// OR). An older form has a slash for OR.
fn permits(expression: &str, allowed: &[&str]) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().collect::<Vec<_>>();
    words.reverse();
    let good = any(&mut words, allowed)?;
    ensure!(words.is_empty(), "cannot read {expression:?}");
    Ok(good)
}

/// `all OR all ...`; the next word is at the end.
fn any(words: &mut Vec<&str>, allowed: &[&str]) -> Result<bool> {
    let mut good = all(words, allowed)?;
    while words.last() == Some(&"OR") {
        words.pop();
        good |= all(words, allowed)?;
    }
    Ok(good)
}

/// `one AND one ...`.
fn all(words: &mut Vec<&str>, allowed: &[&str]) -> Result<bool> {
    let mut good = one(words, allowed)?;
    while words.last() == Some(&"AND") {
        words.pop();
        good &= one(words, allowed)?;
    }
    Ok(good)
}

/// A licence, a licence WITH an exception, or an expression in brackets.
fn one(words: &mut Vec<&str>, allowed: &[&str]) -> Result<bool> {
    let word = words.pop().context("the expression ends too early")?;
    if word == "(" {
        let good = any(words, allowed)?;
        ensure!(words.pop() == Some(")"), "a bracket is not closed");
        return Ok(good);
    }
    ensure!(!matches!(word, ")" | "AND" | "OR" | "WITH"), "{word} where a licence is expected");
    if words.last() != Some(&"WITH") {
        return Ok(allowed.contains(&word));
    }
    words.pop();
    let exception = words.pop().context("an exception is missing")?;
    Ok(allowed.contains(&format!("{word} WITH {exception}").as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_says() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
        let good = |e| permits(e, &allowed).unwrap();
        assert!(good("MIT"));
        assert!(good("GPL-3.0-only OR MIT"));
        assert!(good("Apache-2.0/GPL-2.0"));
        assert!(good("Apache-2.0 WITH LLVM-exception"));
        assert!(good("(GPL-3.0-only OR MIT) AND Apache-2.0"));
        assert!(good("GPL-3.0-only AND LGPL-2.1 OR MIT"));
        assert!(!good("GPL-3.0-only"));
        assert!(!good("MIT AND GPL-3.0-only"));
        assert!(!good("MIT WITH LLVM-exception"));
        assert!(!good("MIT AND (GPL-3.0-only OR LGPL-2.1)"));
        for bad in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT", "AND MIT", "MIT WITH"] {
            assert!(permits(bad, &allowed).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_list_comes_from_deny_toml() {
        let deny = "[bans]\nallow = [\"x\"]\n\n[licenses]\nconfidence = 1\nallow = [\n  \"MIT\", # why\n  \"ISC\",\n]\n\n[sources]\n";
        assert_eq!(allowed(deny).unwrap(), ["MIT", "ISC"]);
        assert!(allowed("[bans]\nallow = []\n").is_err());
    }

    #[test]
    fn a_crate_with_another_licence_is_named() {
        let metadata = serde_json::json!({"packages": [
            {"name": "good", "version": "1.0.0", "license": "MIT", "source": "registry", "manifest_path": "", "dependencies": []},
            {"name": "bad", "version": "1.0.0", "license": "AGPL-3.0", "source": "registry", "manifest_path": "", "dependencies": []},
            {"name": "none", "version": "1.0.0", "license": null, "source": "registry", "manifest_path": "", "dependencies": []},
            {"name": "own", "version": "1.0.0", "license": null, "source": null, "manifest_path": "", "dependencies": []},
        ]});
        let metadata = serde_json::from_value(metadata).unwrap();
        let problems = check("[licenses]\nallow = [\"MIT\"]\n", &metadata).unwrap();
        assert_eq!(
            problems,
            ["bad 1.0.0: licence AGPL-3.0 is not allowed (deny.toml)", "none 1.0.0: names no licence"]
        );
    }
}
