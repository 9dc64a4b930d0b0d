//! Conditions of an autoscaler (`setConditionInList`).

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition as Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The target can be read and written.
pub const ABLE: &str = "AbleToScale";
/// A metric says something.
pub const ACTIVE: &str = "ScalingActive";
/// Something else than the metrics says how many there are.
pub const LIMITED: &str = "ScalingLimited";

/// Sets a condition; its time changes with its status.
pub fn set(list: &mut Vec<Condition>, type_: &str, status: bool, reason: &str, message: &str, now: &Time) {
    let status = if status { "True" } else { "False" };
    let known = list.iter().position(|c| c.type_ == type_);
    let since =
        known.and_then(|i| list.get(i)).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
    };
    match known.and_then(|i| list.get_mut(i)) {
        Some(slot) => *slot = condition,
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_of_the_last_change_of_status() {
        let at = |s: i64| Time(jiff::Timestamp::from_second(s).unwrap());
        let mut list = Vec::new();
        for (status, reason, now) in [(true, "a", 1), (true, "b", 2), (false, "c", 3), (false, "d", 4)] {
            set(&mut list, ABLE, status, reason, "m", &at(now));
        }
        set(&mut list, ACTIVE, true, "e", "m", &at(5));
        let reported: Vec<_> =
            list.iter().map(|c| (c.reason.clone().unwrap(), c.last_transition_time.clone().unwrap())).collect();
        assert_eq!(reported, [("d".to_owned(), at(3)), ("e".to_owned(), at(5))]);
    }
}
