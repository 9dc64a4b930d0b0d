//! Sets of completion indexes, as `status.completedIndexes` writes them: `1,3-5`.

use std::collections::BTreeSet;

/// Reads; indexes beyond `limit` are left out, and so is what cannot be read.
pub fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend((first..=last.min(limit.saturating_sub(1))).filter(|i| *i >= 0));
        }
    }
    set
}

/// Writes; three and more in a row become a range.
pub fn format(set: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in set {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (text, indexes) in [("", vec![]), ("0", vec![0]), ("1,2", vec![1, 2]), ("1,3-5,9", vec![1, 3, 4, 5, 9])] {
            let set: BTreeSet<i32> = indexes.into_iter().collect();
            assert_eq!(parse(text, 100), set);
            assert_eq!(format(&set), text);
        }
        assert_eq!(parse("0-2147483647", 3).len(), 3);
        assert!(parse("x,-4,5-", 10).is_empty());
    }
}
