//! kinit killed, and the host at work without power, after a chosen step of `apply`, `join` and `remove`: the same
//! command finishes the job every time.
//!
//! CI takes a sample. `KINIT_POINTS=all` takes every step of every operation, in both ways; a night is enough.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use ansible_free_tests::{ClusterFile, Dice, Interruption, Lab, eventually};
use anyhow::ensure;

const LB: (&str, &str) = ("lb1", "loadbalancer");
const SMALL: [(&str, &str); 3] = [LB, ("cp1", "control-plane"), ("w1", "worker")];
const LARGE: [(&str, &str); 5] =
    [LB, ("cp1", "control-plane"), ("cp2", "control-plane"), ("cp3", "control-plane"), ("w1", "worker")];

#[test]
fn an_interrupted_change_is_finished_by_the_same_command() {
    let all = std::env::var("KINIT_POINTS").is_ok_and(|points| points == "all");
    let mut dice = Dice::from_environment();
    let lab = Lab::up("interrupt", 1, 3, 2).unwrap();
    let cluster = Changing { lab: &lab, file: ClusterFile::new(&lab, "changing.yaml").unwrap() };
    cluster.write(&SMALL);
    cluster.run(&["init"]);
    // A round in which nothing is interrupted says how many steps there are, and installs the packages.
    let steps: Vec<usize> = Change::ALL.into_iter().map(|change| cluster.carries_out(change)).collect();
    let mut points = 0;
    for (index, how) in [(0, Interruption::Kill), (1, Interruption::PowerOff)] {
        // Each round takes the cluster there and back: apply, apply, join, remove.
        let rounds = if all { steps.iter().copied().max().unwrap_or(0) } else { 1 };
        for round in 0..rounds {
            for (nth, change) in Change::ALL.into_iter().enumerate() {
                let point = if all { round } else { dice.below(steps[nth]) };
                // A sample interrupts every other one in each way.
                let interrupts = all || nth % 2 == index;
                if interrupts && point < steps[nth] {
                    points += usize::from(cluster.interrupted(change, point, how));
                } else {
                    cluster.carries_out(change);
                }
            }
        }
    }
    println!("   {points} interruptions, each finished by the same command");
    assert!(points >= 2, "a sample has two at least");
    let reset = lab.kinit(&["reset", "-f", &cluster.file.path, "--force"]).unwrap().ok("kinit reset").unwrap();
    assert!(reset.contains("no residue"), "{reset}");
    lab.down().unwrap();
}

/// What is done to the cluster; one after the other they lead back to where it began.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// `apply`: from one control plane to three.
    Grows,
    /// `apply`: from three to one.
    Shrinks,
    /// `join` of a worker.
    Joins,
    /// `remove` of it.
    Leaves,
}

impl Change {
    const ALL: [Self; 4] = [Self::Grows, Self::Shrinks, Self::Joins, Self::Leaves];
}

struct Changing<'a> {
    lab: &'a Lab,
    file: ClusterFile,
}

impl Changing<'_> {
    fn write(&self, hosts: &[(&str, &str)]) {
        self.file.write(hosts).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> String {
        self.lab.kinit(&[arguments, &["-f", &self.file.path]].concat()).unwrap().ok(&arguments.join(" ")).unwrap()
    }

    /// The command of a change, after the file was made ready for it.
    fn command(&self, change: Change) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mut command = match change {
            Change::Grows => {
                self.write(&LARGE);
                words(&["apply"])
            }
            Change::Shrinks => {
                self.write(&SMALL);
                words(&["apply"])
            }
            Change::Joins => {
                words(&["join", "w2", "--address", &self.file.address("w2"), "--role", "worker", "--write"])
            }
            Change::Leaves => words(&["remove", "w2", "--write"]),
        };
        command.extend(words(&["--yes", "--connect-timeout", "5", "-f", &self.file.path]));
        command
    }

    /// Without an interruption; how many steps it has.
    fn carries_out(&self, change: Change) -> usize {
        let command = self.command(change);
        let steps = self.lab.steps(&command.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        self.is_as_wanted(change, "nothing");
        steps
    }

    /// Interrupted after a step, and finished; `false` when it ended before that step.
    fn interrupted(&self, change: Change, after: usize, how: Interruption) -> bool {
        let command = self.command(change);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let Some(last) = self.lab.interrupt(&command, after, how).unwrap() else {
            self.is_as_wanted(change, "nothing");
            return false;
        };
        let point = format!("{how:?} after step {after} of {change:?} ({} {})", last.host, last.step);
        println!("   {point}");
        // Nothing of the job may be left, when the last step of all was the one before the interruption.
        let again = self.lab.kinit(&command).unwrap();
        let gone = matches!(change, Change::Leaves) && again.err.contains("there is no host \"w2\"");
        assert!(again.code == 0 || gone, "{point}: {}{}", again.out, again.err);
        self.is_as_wanted(change, &point);
        true
    }

    /// Nothing is left to do, and everything is well.
    fn is_as_wanted(&self, change: Change, point: &str) {
        let plan = self.lab.kinit(&["plan", "-f", &self.file.path]).unwrap();
        assert_eq!(plan.code, 0, "{change:?} after {point}: {}{}", plan.out, plan.err);
        eventually(Duration::from_secs(60), || {
            let status = self.lab.kinit(&["status", "-f", &self.file.path])?;
            ensure!(status.code == 0, "{change:?} after {point}: {}{}", status.out, status.err);
            Ok(())
        })
        .unwrap();
    }
}
