//! The keeper against the kernel.

use std::time::Duration;

use kinit_nftables::{Family, Nftables, Observed};

use crate::keeper::{Keeper, ahead};
use crate::nets::{command, on_a_node};
use crate::planner_tests::{Dice, any_service, options};
use crate::ruleset::TABLE;

fn is_there(keeper: &Keeper) -> bool {
    let observed = Nftables::open().unwrap().read(Family::Ip, TABLE).unwrap();
    observed.as_ref() == Some(&Observed::of(keeper.planner.table()))
}

fn filled(seed: u64, services: usize) -> Keeper {
    let mut keeper = Keeper::open(options()).unwrap();
    let mut dice = Dice(seed);
    for number in 0..services {
        let (key, ports) = any_service(&mut dice, number);
        keeper.planner.set(&key, ports);
    }
    keeper.apply().unwrap();
    keeper
}

/// The kernel takes every change, and has then what it should.
#[test]
fn random_histories_in_the_kernel() {
    on_a_node(|_| {
        let mut keeper = filled(99, 8);
        let mut dice = Dice(7);
        for step in 0..300 {
            for _ in 0..=dice.roll(3) {
                let number = dice.roll(8);
                let (key, ports) = any_service(&mut dice, number);
                keeper.planner.set(&key, ports);
            }
            keeper.apply().unwrap_or_else(|error| panic!("step {step}: {error:#}"));
            assert!(!keeper.planner.is_whole(), "step {step}: not by a change");
            assert!(is_there(&keeper), "step {step}");
        }
        command("nft list ruleset");
        assert_eq!(keeper.read_backs, 0);
    });
}

#[test]
fn others_tables_cost_no_look_at_ours() {
    on_a_node(|_| {
        let mut keeper = filled(3, 8);
        for number in 0..20 {
            command(&format!("nft add table ip other{number}"));
            if number % 3 == 0 {
                let (key, ports) = any_service(&mut Dice(number + 50), 2);
                keeper.planner.set(&key, ports);
                keeper.apply().unwrap();
            }
            assert!(keeper.is_right());
        }
        assert_eq!(keeper.read_backs, 0, "the notices said enough");
        assert!(is_there(&keeper));
    });
}

#[test]
fn what_others_change_is_put_right() {
    on_a_node(|runtime| {
        let mut keeper = filled(5, 8);
        assert!(keeper.is_right());
        for (harm, reported) in [
            ("nft flush ruleset", true),
            ("nft delete table ip kube-proxy", true),
            ("nft flush map ip kube-proxy service-endpoints", true),
            ("nft flush chain ip kube-proxy masquerading", true),
            ("nft add rule ip kube-proxy services counter drop", true),
            ("nft add element ip kube-proxy cluster-ips { 192.0.2.99 }", true),
            ("nft add table ip harmless", false),
        ] {
            command(harm);
            let touched = runtime
                .block_on(async { tokio::time::timeout(Duration::from_millis(500), keeper.touched()).await.is_ok() });
            assert_eq!((touched, keeper.is_right()), (reported, !reported), "{harm}");
            assert!(keeper.apply().is_ok());
            assert!(keeper.is_right() && is_there(&keeper), "{harm}");
        }
        // Unseen until there is something to do.
        command("nft flush ruleset");
        let (key, ports) = any_service(&mut Dice(1234), 3);
        keeper.planner.set(&key, ports);
        keeper.apply().unwrap();
        assert!(is_there(&keeper));
        // Harm between our change and the look at who was there.
        let (key, ports) = any_service(&mut Dice(4321), 3);
        keeper.planner.set(&key, ports);
        command("nft flush set ip kube-proxy hairpin-connections");
        keeper.apply().unwrap();
        // Nor does another change of ours make it good.
        let (key, ports) = any_service(&mut Dice(999), 4);
        keeper.planner.set(&key, ports);
        assert!(keeper.apply().unwrap() > 0);
        let touched = runtime
            .block_on(async { tokio::time::timeout(Duration::from_millis(500), keeper.touched()).await.is_ok() });
        assert!(touched && !keeper.is_right(), "known at once, not with the next audit");
        keeper.apply().unwrap();
        assert!(is_there(&keeper));
    });
}

#[test]
fn new_chains_go_ahead_of_what_leads_to_them() {
    use kinit_nftables::{Change, Data, Rule, Set, Type, Verdict};
    let chain = |name: &str| Change::AddChain(name.into(), None);
    let rule = |name: &str| Change::AddRule(name.into(), Rule::default());
    let elements = |name: &str| {
        let mut set = Set::verdict_map(&[Type::Mark]);
        set.elements.insert(vec![0; 4], Data::Verdict(Verdict::Goto("new".into())));
        Change::AddElements(name.into(), set)
    };
    let set = |name: &str| Change::AddSet(name.into(), Set::verdict_map(&[Type::Mark]));
    let gone = |name: &str| Change::DropChain(name.into());
    let changes = vec![chain("new"), set("own"), elements("map"), elements("own"), rule("new"), rule("old"), gone("x")];
    let (first, rest) = ahead(changes);
    assert_eq!(first, [chain("new"), set("own"), elements("own"), rule("new")]);
    assert_eq!(rest, [elements("map"), rule("old"), gone("x")]);
    for together in [
        vec![elements("map"), rule("old")],
        // The set is another from then on: who uses it cannot be there before.
        vec![chain("new"), Change::DropSet("own".into()), set("own"), rule("new")],
    ] {
        assert_eq!(ahead(together.clone()), (vec![], together));
    }
}
