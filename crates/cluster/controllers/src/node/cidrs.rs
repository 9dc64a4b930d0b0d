//! Blocks of equal size out of one range, none given twice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// Which blocks are taken.
#[derive(Debug)]
pub struct Blocks {
    range: IpNet,
    size: u8,
    taken: BTreeSet<u32>,
    count: u32,
    next: u32,
}

impl Blocks {
    /// Blocks of prefix length `size` in `range`; those that overlap `reserved` are never given.
    pub fn new(range: IpNet, size: u8, reserved: Option<IpNet>) -> Self {
        let bits = size.saturating_sub(range.prefix_len()).min(31);
        let mut blocks = Self { range: range.trunc(), size, taken: BTreeSet::new(), count: 1 << bits, next: 0 };
        if let Some(reserved) = reserved {
            blocks.occupy(reserved);
        }
        blocks
    }

    /// Marks every block that overlaps `net` as taken. What lies outside of the range is none of our blocks.
    pub fn occupy(&mut self, net: IpNet) {
        let Some((first, last)) = self.span(net) else { return };
        self.taken.extend(first..=last);
    }

    /// Gives the blocks of `net` back.
    pub fn release(&mut self, net: IpNet) {
        let Some((first, last)) = self.span(net) else { return };
        (first..=last).for_each(|i| {
            self.taken.remove(&i);
        });
    }

    /// A block nobody has, or `None` when there is none left. It goes round the range, so that an address just released
    /// rests a while.
    pub fn allocate(&mut self) -> Option<IpNet> {
        let free = (self.next..self.count).chain(0..self.next).find(|i| !self.taken.contains(i))?;
        self.taken.insert(free);
        self.next = (free + 1) % self.count;
        self.block(free)
    }

    fn block(&self, index: u32) -> Option<IpNet> {
        let address = match self.range.network() {
            IpAddr::V4(base) => {
                let shift = 32u32.checked_sub(u32::from(self.size))?;
                IpAddr::V4((u32::from(base) | index.checked_shl(shift).unwrap_or(0)).into())
            }
            IpAddr::V6(base) => {
                let shift = 128u32.checked_sub(u32::from(self.size))?;
                IpAddr::V6((u128::from(base) | u128::from(index).checked_shl(shift).unwrap_or(0)).into())
            }
        };
        IpNet::new(address, self.size).ok()
    }

    fn span(&self, net: IpNet) -> Option<(u32, u32)> {
        if net.contains(&self.range) {
            return Some((0, self.count - 1));
        }
        if !self.range.contains(&net) {
            return None;
        }
        Some((self.index(net.network())?, self.index(net.broadcast())?))
    }

    fn index(&self, address: IpAddr) -> Option<u32> {
        let index = match (self.range.network(), address) {
            (IpAddr::V4(base), IpAddr::V4(a)) => {
                let offset = u32::from(a).checked_sub(u32::from(base))?;
                u128::from(offset.checked_shr(32 - u32::from(self.size)).unwrap_or(0))
            }
            (IpAddr::V6(base), IpAddr::V6(a)) => {
                u128::from(a).checked_sub(u128::from(base))?.checked_shr(128 - u32::from(self.size)).unwrap_or(0)
            }
            _ => return None,
        };
        u32::try_from(index).ok().filter(|i| *i < self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn never_twice_and_back_again() {
        let mut blocks = Blocks::new(net("10.244.0.0/22"), 24, Some(net("10.244.3.0/24")));
        blocks.occupy(net("10.244.1.0/24"));
        assert_eq!(blocks.allocate(), Some(net("10.244.0.0/24")));
        assert_eq!(blocks.allocate(), Some(net("10.244.2.0/24")));
        assert_eq!(blocks.allocate(), None);
        blocks.release(net("10.244.1.0/24"));
        blocks.release(net("192.168.0.0/24"));
        assert_eq!(blocks.allocate(), Some(net("10.244.1.0/24")));
        let mut six = Blocks::new(net("fd00::/56"), 64, None);
        six.allocate();
        assert_eq!(six.allocate(), Some(net("fd00:0:0:1::/64")));
        let mut disjoint = Blocks::new(net("10.244.0.0/24"), 24, Some(net("10.96.0.0/12")));
        assert_eq!((disjoint.allocate(), disjoint.allocate()), (Some(net("10.244.0.0/24")), None));
    }
}
