//! The order of versions: `v2`, `v1`, `v1beta2`, `v1alpha1`, and then what is not of this form
//! (`k8s.io/apimachinery/pkg/version.CompareKubeAwareVersionStrings`).

use std::cmp::{Ordering, Reverse};

/// (stability, major, minor) of a version of the usual form.
fn parsed(text: &str) -> Option<(u8, u64, u64)> {
    let rest = text.strip_prefix('v')?;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let number = |text: &str| text.parse::<u64>().ok();
    let end = digits(rest);
    let major = number(rest.get(..end)?)?;
    let tail = rest.get(end..)?;
    let (stability, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
        (Some(minor), _) => (1, number(minor).filter(|_| digits(minor) == minor.len())?),
        (_, Some(minor)) => (0, number(minor).filter(|_| digits(minor) == minor.len())?),
        _ if tail.is_empty() => (2, 0),
        _ => return None,
    };
    Some((stability, major, minor))
}

/// Which version comes first.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    match (parsed(a), parsed(b)) {
        (Some(x), Some(y)) => Reverse(x).cmp(&Reverse(y)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Whether a version is at least as stable as another.
pub(super) fn is_as_stable(a: &str, than: &str) -> bool {
    parsed(a).map_or(0, |v| v.0 + 1) >= parsed(than).map_or(0, |v| v.0 + 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_order() {
        let want = ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"];
        let mut given = want;
        given.reverse();
        given.sort_by(|a, b| super::compare(a, b));
        assert_eq!(given, want);
        assert!(super::is_as_stable("v1", "v1beta1") && !super::is_as_stable("v1alpha1", "v1beta1"));
    }
}
