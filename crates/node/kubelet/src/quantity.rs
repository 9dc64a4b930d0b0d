//! Amounts of resources (`resource.Quantity`), as numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kinit_apimachinery::quantity::Quantity as Exact;

/// A quantity in thousandths, rounded up; `None` when it is not a quantity.
pub fn milli(quantity: &str) -> Option<i128> {
    quantity.parse::<Exact>().ok().map(|q| q.thousandths())
}

/// A quantity in whole units, rounded up, as `Quantity.Value()` does.
pub fn units(quantity: &str) -> Option<i64> {
    quantity.parse::<Exact>().ok().map(|q| q.value())
}

/// One resource of a list, in thousandths.
pub fn milli_of(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<i128> {
    milli(&list?.get(resource)?.0)
}

/// One resource of a list, in whole units.
pub fn units_of(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<i64> {
    units(&list?.get(resource)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_as_upstream_reads_them() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            (".5", Some(500)),
            ("", None),
            ("x", None),
            ("1KiB", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(units("100m"), Some(1));
    }
}
