//! The plan of a reset: each host undoes what its ledger says, latest parts first.

use std::collections::BTreeMap;

use kinit_manifests::Phase;
use kinit_resource::Change;

use crate::plan::{Action, Plan, Step};

/// Makes the plan from what each host says it would undo, a line each. Hosts on which kinit has changed nothing have no
/// step.
pub fn reset_plan(undone: &BTreeMap<String, Vec<String>>) -> Plan {
    let steps = undone.iter().filter(|(_, lines)| !lines.is_empty()).map(|(host, lines)| {
        let change = Change::new("reset", "the host: everything of the cluster on it is deleted");
        Step::on(host, Action::ResetHost, Change { diff: Some(lines.join("\n")), ..change })
    });
    let mut plan = Plan::default();
    plan.push(Phase::CleanupNode, false, steps.collect());
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;

    #[test]
    fn hosts_undo_what_they_say_all_at_once() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let undone = BTreeMap::from([
            ("cp1".to_owned(), lines(&["stop etcd.service", "remove /etc/kubernetes"])),
            ("w1".to_owned(), lines(&["remove /etc/kubernetes"])),
            ("w2".to_owned(), Vec::new()),
        ]);
        let plan = reset_plan(&undone);
        assert!(Operation::Reset.has_order_of(&plan));
        assert!(plan.stages.iter().all(|stage| !stage.serial));
        assert_eq!(
            plan.to_string(),
            "cleanup-node\n  cp1        reset the host: everything of the cluster on it is deleted\n             stop etcd.service\n             \
             remove /etc/kubernetes\n  w1         reset the host: everything of the cluster on it is deleted\n             \
             remove /etc/kubernetes\n2 changes\n"
        );
        assert_eq!(reset_plan(&BTreeMap::new()), Plan::default());
    }
}
