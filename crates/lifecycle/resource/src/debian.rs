//! Versions of Debian packages, and what an index of packages says of them.

use std::cmp::Ordering;

/// Compares two versions as dpkg does (deb-version(7)).
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (a, b) = (Parts::of(a), Parts::of(b));
    a.epoch.cmp(&b.epoch).then_with(|| order(a.upstream, b.upstream)).then_with(|| order(a.revision, b.revision))
}

/// The upstream version's first two numbers: `3.5` of `3.5.16-4`, where there are two.
pub fn upstream_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = Parts::of(version).upstream.split('.');
    let mut next = || {
        let text = numbers.next()?;
        text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
    };
    Some((next()?, next()?))
}

struct Parts<'a> {
    epoch: u64,
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Parts<'a> {
    fn of(version: &'a str) -> Self {
        let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        Self { epoch: epoch.parse().unwrap_or(0), upstream, revision }
    }
}

/// Text that is no number and numbers, in turn. `~` is before everything, even the end; letters are before the rest.
fn order(mut a: &str, mut b: &str) -> Ordering {
    let weight = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
        Some(c) => i64::from(u32::from(c)) + 256,
    };
    loop {
        let (text_a, text_b) = (split(&mut a, |c| !c.is_ascii_digit()), split(&mut b, |c| !c.is_ascii_digit()));
        let (mut left, mut right) = (text_a.chars(), text_b.chars());
        for _ in 0..text_a.len().max(text_b.len()) {
            let ordering = weight(left.next()).cmp(&weight(right.next()));
            if ordering.is_ne() {
                return ordering;
            }
        }
        let (number_a, number_b) = (split(&mut a, |c| c.is_ascii_digit()), split(&mut b, |c| c.is_ascii_digit()));
        let (number_a, number_b) = (number_a.trim_start_matches('0'), number_b.trim_start_matches('0'));
        // Longer numbers are larger ones; no number is zero.
        let ordering = number_a.len().cmp(&number_b.len()).then_with(|| number_a.cmp(number_b));
        if ordering.is_ne() || (a.is_empty() && b.is_empty()) {
            return ordering;
        }
    }
}

/// Takes the beginning off whose characters are of a kind.
fn split<'a>(text: &mut &'a str, is_kind: impl Fn(char) -> bool) -> &'a str {
    let end = text.find(|c| !is_kind(c)).unwrap_or(text.len());
    let (head, tail) = text.split_at(end);
    *text = tail;
    head
}

/// A package of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPackage {
    /// `etcd-server`.
    pub name: String,
    /// `3.5.16-4`.
    pub version: String,
    /// SHA-256 of its file, in hexadecimal.
    pub sha256: String,
    /// The file's name beside the index.
    pub file: String,
}

/// The packages of an index in apt's format; paragraphs without these fields are left out.
pub fn indexed_packages(index: &str) -> Vec<IndexedPackage> {
    let field = |paragraph: &str, name: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let package = |paragraph: &str| {
        let file = field(paragraph, "Filename")?;
        Some(IndexedPackage {
            name: field(paragraph, "Package")?,
            version: field(paragraph, "Version")?,
            sha256: field(paragraph, "SHA256")?,
            file: file.strip_prefix("./").unwrap_or(&file).to_owned(),
        })
    };
    index.split("\n\n").filter_map(package).collect()
}

/// The latest version of a package in an index.
pub fn version_in<'a>(index: &'a [IndexedPackage], name: &str) -> Option<&'a str> {
    let versions = index.iter().filter(|package| package.name == name).map(|package| package.version.as_str());
    versions.max_by(|a, b| compare_versions(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_dpkg_does() {
        // Each checked with `dpkg --compare-versions A lt B`.
        for (less, more) in [
            ("3.5.16-4", "3.5.16-5"),
            ("3.5.9-1", "3.5.16-1"),
            ("3.5.16-4", "3.5.16-4+b2"),
            ("1.0~rc1-1", "1.0-1"),
            ("1.0~~", "1.0~"),
            ("9.9-1", "1:0.1-1"),
            ("2.41-12+deb13u1", "2.41-12+deb13u5"),
            ("1.7.24~ds1-6", "1.7.24~ds1-6+deb13u1"),
            ("1.7.24~ds1-6", "1.7.24+ds1-6"),
            ("1.0a", "1.0+"),
            ("1.09", "1.10"),
            ("1.2", "1.2.1"),
        ] {
            assert_eq!(compare_versions(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(compare_versions(more, less), Ordering::Greater, "{more} {less}");
        }
        for (a, b) in [("1.0", "1.0"), ("0:1.0", "1.0"), ("1.0-0", "1.0"), ("1.01", "1.1")] {
            assert_eq!(compare_versions(a, b), Ordering::Equal, "{a} {b}");
        }
        assert_eq!(upstream_minor("3.5.16-4"), Some((3, 5)));
        assert_eq!(upstream_minor("1:2.3~rc1-1"), Some((2, 3)));
        assert_eq!([upstream_minor("7"), upstream_minor(""), upstream_minor("a.b")], [None, None, None]);
    }

    #[test]
    fn an_index_is_read() {
        let index = "Package: a\nVersion: 1-1\nFilename: ./a_1-1_all.deb\nSHA256: ab\n\nPackage: b\nVersion: 2\n\n\
                     Package: a\nVersion: 1-10\nFilename: ./a_1-10_all.deb\nSHA256: cd\n";
        let all = indexed_packages(index);
        let names: Vec<_> = all.iter().map(|p| (p.name.as_str(), p.file.as_str(), p.sha256.as_str())).collect();
        assert_eq!(names, [("a", "a_1-1_all.deb", "ab"), ("a", "a_1-10_all.deb", "cd")]);
        assert_eq!((version_in(&all, "a"), version_in(&all, "b")), (Some("1-10"), None));
    }
}
