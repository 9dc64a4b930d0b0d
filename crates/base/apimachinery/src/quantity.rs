//! `resource.Quantity`: exact decimal amounts with SI or binary suffixes, in canonical form.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// How an amount is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Decimal,
    Exponent,
    Binary,
}

/// An amount in units of 10^-9 (upstream's smallest), with the form it was written in.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nano: i128,
    form: Form,
}

/// The text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a quantity")]
pub struct NotAQuantity;

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, form: Form::Decimal };

    /// Rounded up to whole units (`Quantity.Value`).
    pub fn value(&self) -> i64 {
        clamp(self.nano.div_euclid(NANO) + i128::from(self.nano.rem_euclid(NANO) > 0))
    }

    /// Rounded up to thousandths (`Quantity.MilliValue`).
    pub fn milli(&self) -> i64 {
        clamp(self.thousandths())
    }

    /// Rounded up to thousandths, whatever the size: bytes in thousandths leave `i64` behind at 8 PiB.
    pub fn thousandths(&self) -> i128 {
        let unit = NANO / 1000;
        self.nano.div_euclid(unit) + i128::from(self.nano.rem_euclid(unit) > 0)
    }

    /// From thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), form: Form::Decimal }
    }

    /// The sum, in the form of `self` (of `other` when `self` is zero).
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let form = if self.nano == 0 { other.form } else { self.form };
        Self { nano: self.nano.saturating_add(other.nano), form }
    }

    /// The difference, in the form of `self`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano), ..self }
    }

    /// Rounded up to whole units, in the same form (`Quantity.RoundUp(0)`).
    #[must_use]
    pub fn rounded_up(self) -> Self {
        let rest = self.nano.rem_euclid(NANO);
        Self { nano: if rest == 0 { self.nano } else { self.nano.saturating_add(NANO - rest) }, ..self }
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl FromStr for Quantity {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() + fraction.len() > 60 {
            return Err(NotAQuantity);
        }
        let (form, base2, base10) = suffix_of(suffix)?;
        let mut digits: i128 = 0;
        let mut scale: i32 = 9 + base10;
        for c in whole.bytes() {
            digits = digits.checked_mul(10).and_then(|d| d.checked_add(i128::from(c - b'0'))).ok_or(NotAQuantity)?;
        }
        for c in fraction.bytes().take(24) {
            digits = digits.checked_mul(10).and_then(|d| d.checked_add(i128::from(c - b'0'))).ok_or(NotAQuantity)?;
            scale -= 1;
        }
        let mut nano = digits.checked_mul(1i128 << base2).ok_or(NotAQuantity)?;
        while scale > 0 {
            nano = nano.checked_mul(10).ok_or(NotAQuantity)?;
            scale -= 1;
        }
        // Finer than nano is rounded up, as upstream does.
        while scale < 0 {
            nano = nano / 10 + i128::from(nano % 10 != 0);
            scale += 1;
        }
        Ok(Self { nano: if negative { -nano } else { nano }, form })
    }
}

fn suffix_of(suffix: &str) -> Result<(Form, u32, i32), NotAQuantity> {
    Ok(match suffix {
        "" => (Form::Decimal, 0, 0),
        "n" => (Form::Decimal, 0, -9),
        "u" => (Form::Decimal, 0, -6),
        "m" => (Form::Decimal, 0, -3),
        "k" => (Form::Decimal, 0, 3),
        "M" => (Form::Decimal, 0, 6),
        "G" => (Form::Decimal, 0, 9),
        "T" => (Form::Decimal, 0, 12),
        "P" => (Form::Decimal, 0, 15),
        "E" => (Form::Decimal, 0, 18),
        "Ki" => (Form::Binary, 10, 0),
        "Mi" => (Form::Binary, 20, 0),
        "Gi" => (Form::Binary, 30, 0),
        "Ti" => (Form::Binary, 40, 0),
        "Pi" => (Form::Binary, 50, 0),
        "Ei" => (Form::Binary, 60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(NotAQuantity)?;
            let exponent: i32 = exponent.parse().map_err(|_| NotAQuantity)?;
            if exponent.abs() > 24 {
                return Err(NotAQuantity);
            }
            (Form::Exponent, 0, exponent)
        }
    })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let (sign, nano) = if self.nano < 0 { ("-", -self.nano) } else { ("", self.nano) };
        if self.form == Form::Binary && nano % NANO == 0 && nano / NANO >= 1024 {
            let mut value = nano / NANO;
            let mut power = 0;
            while value % 1024 == 0 && power < 6 {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{sign}{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut value, mut power) = (nano, -3i32);
        while value % 1000 == 0 && power < 6 {
            value /= 1000;
            power += 1;
        }
        if self.form == Form::Exponent && power != 0 {
            return write!(f, "{sign}{value}e{}", power * 3);
        }
        let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][usize::try_from(power + 3).unwrap_or(3)];
        write!(f, "{sign}{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (given, canonical) in [
            ("1000m", "1"),
            ("0.1", "100m"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("100M", "100M"),
            ("1000", "1k"),
            ("0", "0"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("-5", "-5"),
            ("0.5", "500m"),
            ("128974848", "128974848"),
            ("0.0000000001", "1n"),
            ("512", "512"),
            (".5", "500m"),
        ] {
            assert_eq!(given.parse::<Quantity>().unwrap().to_string(), canonical, "{given}");
        }
        for bad in ["", "1x", "Mi", "1..2", "--1", "1e", "1 Gi"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
        assert!("1Gi".parse::<Quantity>().unwrap() > "1G".parse().unwrap());
        assert_eq!("1.1".parse::<Quantity>().unwrap().value(), 2);
        assert_eq!("1100m".parse::<Quantity>().unwrap().rounded_up().to_string(), "2");
    }
}
