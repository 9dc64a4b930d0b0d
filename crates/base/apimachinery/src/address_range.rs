//! Ranges of IPv4 addresses as pools of load balancers are written: `192.0.2.0/28`, `192.0.2.10-192.0.2.20` or one
//! address (MetalLB's `IPAddressPool.spec.addresses`).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Addresses from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    first: u32,
    last: u32,
}

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Pools are IPv4, as the whole cluster network.
    #[error("{0} is IPv6, which is not supported")]
    Ipv6(String),
    /// A network's address with bits beyond its prefix.
    #[error("{0} has host bits set; did you mean {1}?")]
    HostBits(String, String),
    /// The wrong way round.
    #[error("{0} ends before it begins")]
    Backwards(String),
    /// Something else.
    #[error("{0:?} is neither a subnet (192.0.2.0/28), nor a range (192.0.2.10-192.0.2.20), nor an IPv4 address")]
    Form(String),
}

impl AddressRange {
    /// The first address.
    pub fn first(&self) -> Ipv4Addr {
        self.first.into()
    }

    /// The last address.
    pub fn last(&self) -> Ipv4Addr {
        self.last.into()
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&u32::from(address))
    }

    /// Whether some address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// How many addresses there are.
    pub fn size(&self) -> u64 {
        u64::from(self.last - self.first) + 1
    }

    /// The addresses in ascending order.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        (self.first..=self.last).map(Ipv4Addr::from)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first().fmt(f);
        }
        write!(f, "{}-{}", self.first(), self.last())
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let form = || RangeError::Form(text.to_owned());
        if text.contains(':') {
            return Err(RangeError::Ipv6(text.to_owned()));
        }
        let address = |part: &str| part.trim().parse::<Ipv4Addr>().map(u32::from).map_err(|_| form());
        if let Some((network, prefix)) = text.split_once('/') {
            let network = address(network)?;
            let bits: u32 = prefix.trim().parse().ok().filter(|bits| *bits <= 32).ok_or_else(form)?;
            let hosts = u32::MAX.checked_shr(bits).unwrap_or(0);
            if network & hosts != 0 {
                let meant = format!("{}/{bits}", Ipv4Addr::from(network & !hosts));
                return Err(RangeError::HostBits(text.to_owned(), meant));
            }
            return Ok(Self { first: network, last: network | hosts });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: address(first)?, last: address(last)? };
        if range.first > range.last { Err(RangeError::Backwards(text.to_owned())) } else { Ok(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn forms() {
        for (text, shown, size) in [
            ("192.0.2.16/28", "192.0.2.16-192.0.2.31", 16),
            ("192.0.2.7/32", "192.0.2.7", 1),
            ("192.0.2.7", "192.0.2.7", 1),
            ("192.0.2.7 - 192.0.2.9", "192.0.2.7-192.0.2.9", 3),
            ("0.0.0.0/0", "0.0.0.0-255.255.255.255", 1 << 32),
            ("255.255.255.255", "255.255.255.255", 1),
        ] {
            assert_eq!((range(text).to_string().as_str(), range(text).size()), (shown, size), "{text}");
        }
        assert_eq!(range("192.0.2.254-192.0.3.1").addresses().count(), 4);
        assert_eq!(range("255.255.255.254/31").addresses().count(), 2, "the end of all addresses is an end");
    }

    #[test]
    fn what_is_none() {
        for (text, expected) in [
            ("2001:db8::/64", "2001:db8::/64 is IPv6"),
            ("192.0.2.1/28", "did you mean 192.0.2.0/28?"),
            ("192.0.2.9-192.0.2.7", "ends before it begins"),
            ("192.0.2.0/33", "is neither"),
            ("192.0.2.0/-1", "is neither"),
            ("192.0.2.300", "is neither"),
            ("192.0.2.1-", "is neither"),
            ("", "is neither"),
            ("192.0.2.1-192.0.2.5-192.0.2.9", "is neither"),
        ] {
            let error = text.parse::<AddressRange>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn overlaps() {
        let middle = range("192.0.2.10-192.0.2.20");
        for (text, expected) in
            [("192.0.2.0-192.0.2.9", false), ("192.0.2.20/32", true), ("192.0.2.0/24", true), ("192.0.2.21", false)]
        {
            assert_eq!((middle.overlaps(&range(text)), range(text).overlaps(&middle)), (expected, expected), "{text}");
        }
        assert!(middle.contains(Ipv4Addr::new(192, 0, 2, 20)) && !middle.contains(Ipv4Addr::new(192, 0, 2, 21)));
    }
}
