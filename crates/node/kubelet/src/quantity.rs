//! Amounts of resources (`resource.Quantity`), as numbers.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A quantity in thousandths, rounded up; `None` when it is not a quantity.
pub fn milli(quantity: &str) -> Option<i128> {
    let text = quantity.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (mantissa, scale) = decimal(number)?;
    // (multiplier, divisor) of the suffix
    let (multiply, divide): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10i128.checked_pow(power.unsigned_abs())?;
            if power >= 0 { (ten, 1) } else { (1, ten) }
        }
    };
    let numerator = mantissa.checked_mul(multiply)?.checked_mul(1000)?;
    let denominator = scale.checked_mul(divide)?;
    Some(numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0))
}

/// A quantity in whole units, rounded up, as `Quantity.Value()` does.
pub fn units(quantity: &str) -> Option<i64> {
    let milli = milli(quantity)?;
    i64::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).ok()
}

fn decimal(text: &str) -> Option<(i128, i128)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || fraction.len() > 18 {
        return None;
    }
    Some((digits.parse().ok()?, 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?))
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
