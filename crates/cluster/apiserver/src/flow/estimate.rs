//! How many seats a request takes (`k8s.io/apiserver/pkg/util/flowcontrol/request`, `listWorkEstimator`).

/// The most seats of one request (`maximumSeatsLimit`).
pub const MOST: u32 = 10;
/// Objects that a list goes through for one seat (`objectsPerSeat`).
const PER_SEAT: usize = 100;

/// Seats of a list that goes through `stored` objects and answers `limit` of them at most.
///
/// A list with a limit stops when it has enough; with selectors it may still have to see all.
pub fn list(stored: usize, limit: Option<usize>, selects: bool, most: u32) -> u32 {
    let seen = match limit {
        Some(limit) if limit > 0 && !selects => stored.min(limit),
        _ => stored,
    };
    u32::try_from(seen.div_ceil(PER_SEAT)).unwrap_or(u32::MAX).clamp(1, most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_lists_take_more() {
        for (stored, limit, selects, most, expected) in [
            (0, None, false, 10, 1),
            (100, None, false, 10, 1),
            (101, None, false, 10, 2),
            (5_000, None, false, 10, 10),
            (5_000, Some(500), false, 10, 5),
            (5_000, Some(500), true, 10, 10),
            (5_000, Some(0), false, 10, 10),
            (5_000, None, false, 3, 3),
        ] {
            assert_eq!(list(stored, limit, selects, most), expected, "{stored} {limit:?} {selects} {most}");
        }
    }
}
