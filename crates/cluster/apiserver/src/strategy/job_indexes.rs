//! Indexes of a Job as its status lists them: `1,3-5,7` (`validateIndexesFormat`).

/// The intervals of a list, which are in order and below `completions`; what is wrong with it otherwise.
pub fn parse(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut out: Vec<(i64, i64)> = Vec::new();
    if text.is_empty() {
        return Ok(out);
    }
    for part in text.split(',') {
        let number = |text: &str| {
            let parsed = text.parse::<i64>().ok().filter(|n| *n >= 0);
            parsed.ok_or_else(|| format!("cannot convert string to integer for index: {text:?}"))
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) if last.contains('-') => {
                return Err(format!(
                    "the fragment {first}-{last:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
            Some((first, last)) => {
                let (a, b) = (number(first)?, number(last)?);
                if a >= b {
                    return Err(format!("non-increasing order, previous: {a}, current: {b}"));
                }
                (a, b)
            }
            None => (number(part)?, number(part)?),
        };
        if let Some((_, before)) = out.last()
            && *before >= first
        {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        if let Some(beyond) = [first, last].into_iter().find(|n| *n >= completions) {
            return Err(format!("too large index: {beyond:?}"));
        }
        out.push((first, last));
    }
    Ok(out)
}

/// The first index that is in both lists, if they can be read.
pub fn common(a: &str, b: &str, completions: i64) -> Option<i64> {
    let (a, b) = (parse(a, completions).ok()?, parse(b, completions).ok()?);
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        if x.1 < y.0 {
            i += 1;
        } else if y.1 < x.0 {
            j += 1;
        } else {
            return Some(x.0.max(y.0));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_order_and_within() {
        for (text, wanted) in [
            ("", Some(vec![])),
            ("0,2-4,9", Some(vec![(0, 0), (2, 4), (9, 9)])),
            ("10", None),
            ("3-3", None),
            ("3,3", None),
            ("1-2-3", None),
            ("-1", None),
            ("a", None),
            ("1,", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse(text, 10).ok(), wanted, "{text}");
        }
        assert_eq!((common("0-4", "5,7", 10), common("1,3-6", "5-8", 10)), (None, Some(5)));
    }
}
