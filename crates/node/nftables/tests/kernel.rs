//! Against the kernel, in a network namespace of the test's own; what it says is checked with `nft`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::time::Duration;

use kinit_nftables::expr::{self, Learn, Meta, Reg, Reject};
use kinit_nftables::{
    Base, ChainType, Change, Data, Expr, Family, Hook, Monitor, Nftables, Observed, Set, Table, Type, Verdict, Vouched,
    join,
};

/// Runs in a thread of its own, whose namespace dies with it. Without the right to make one there is nothing to test.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        test();
    });
    thread.join().unwrap();
}

fn nft(args: &[&str]) -> String {
    let output = Command::new("nft").args(args).output().expect("the nft program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn table(backends: &[[u8; 4]]) -> Table {
    let mut table = Table::new(Family::Ip, "kinit-test");
    let mut services = Set::verdict_map(&[Type::Ipv4, Type::Protocol, Type::Port]);
    services.elements.insert(
        join(&[&[10, 96, 0, 10], &[6], &443u16.to_be_bytes()]),
        Data::Verdict(Verdict::Goto("service-a".into())),
    );
    table.sets.insert("services".into(), services);
    let mut endpoints = Set::map(&[Type::Mark], &[Type::Ipv4, Type::Port]);
    for (i, backend) in backends.iter().enumerate() {
        let key = u32::try_from(i).unwrap().to_ne_bytes().to_vec();
        endpoints.elements.insert(key, Data::Value(join(&[backend, &8443u16.to_be_bytes()])));
    }
    table.sets.insert("endpoints".into(), endpoints);
    let mut affinity = Set::new(&[Type::Ipv4]);
    affinity.learned = Some(Duration::from_secs(60));
    table.sets.insert("affinity".into(), affinity);
    let mut ranges = Set::new(&[Type::Ipv4]);
    ranges.intervals = true;
    ranges.ranges.insert(vec![10, 244, 0, 0], vec![10, 245, 0, 0]);
    table.sets.insert("ranges".into(), ranges);
    let base = |kind, hook, priority| Base { kind, hook, priority, drop_by_default: false };
    table.chain("prerouting").base = Some(base(ChainType::Nat, Hook::Prerouting, -100));
    table.chain("prerouting").rule([
        expr::destination(0),
        expr::protocol(1),
        expr::destination_port(2),
        Expr::VerdictLookup { map: "services".into(), key: Reg(0) },
    ]);
    table.chain("service-a").rule([
        expr::source(0),
        Expr::Lookup { set: "ranges".into(), key: Reg(0), not: true },
        Expr::Verdict(Verdict::Jump("mark".into())),
    ]);
    table.chain("service-a").rule([
        Expr::Random { to: Reg(0), modulus: u32::try_from(backends.len().max(1)).unwrap() },
        Expr::MapLookup { map: "endpoints".into(), key: Reg(0), to: Reg(4) },
        Expr::Dnat { address: Reg(4), port: Some(Reg(5)), v6: false },
    ]);
    table.chain("service-a").rule([
        expr::source(8),
        Expr::Learn { set: "affinity".into(), how: Learn::Update, key: Reg(8), data: None, millis: Some(60_000) },
        Expr::Load { to: Reg(0), value: vec![10, 9, 9, 9] },
        Expr::Load { to: Reg(1), value: 8443u16.to_be_bytes().to_vec() },
        Expr::Dnat { address: Reg(0), port: Some(Reg(1)), v6: false },
    ]);
    table.chain("mark").rule([
        Expr::Meta { key: Meta::Mark, to: Reg(0) },
        Expr::Bitwise {
            from: Reg(0),
            to: Reg(0),
            mask: 0xffff_bfff_u32.to_ne_bytes().to_vec(),
            xor: 0x4000_u32.to_ne_bytes().to_vec(),
        },
        Expr::SetMeta { key: Meta::Mark, from: Reg(0) },
    ]);
    table.chain("postrouting").base = Some(base(ChainType::Nat, Hook::Postrouting, 100));
    table.chain("postrouting").rule([
        Expr::CtStatus { to: Reg(0) },
        expr::mask(0, &expr::CT_STATUS_DNAT.to_ne_bytes()),
        expr::differs(0, &[0; 4]),
        Expr::Counter,
        Expr::Masquerade { random: true },
    ]);
    table.chain("forward").base = Some(base(ChainType::Filter, Hook::Forward, -110));
    let mut refuse: Vec<Expr> = expr::is_new().into();
    refuse.extend([
        Expr::DestinationType { to: Reg(0) },
        expr::equals(0, &2u32.to_ne_bytes()),
        Expr::Reject(Reject::PortUnreachable),
    ]);
    table.chain("forward").rule(refuse);
    table
}

#[test]
fn the_kernel_takes_it_and_shows_it() {
    in_namespace(|| {
        let nftables = Nftables::open().unwrap();
        let first = table(&[[10, 244, 1, 5], [10, 244, 2, 6]]);
        nftables.apply(None, &first).unwrap();
        let shown = nft(&["list", "ruleset"]);
        println!("{shown}");
        for expected in [
            "10.96.0.10 . tcp . 443 : goto service-a",
            "10.244.1.5 . 8443",
            "10.244.0.0/16",
            "type nat hook prerouting priority dstnat; policy accept;",
            "ip daddr . meta l4proto . th dport vmap @services",
            "ip saddr != @ranges jump mark",
            "numgen random mod 2",
            "update @affinity { ip saddr timeout 1m } dnat to 10.9.9.9:8443",
            "masquerade fully-random",
            "fib daddr type local",
            "reject",
        ] {
            assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
        }
        assert_eq!(nftables.read(Family::Ip, "kinit-test").unwrap(), Some(Observed::of(&first)));

        let second = table(&[[10, 244, 3, 7]]);
        let sent = nftables.apply(Some(&first), &second).unwrap();
        assert!(sent <= 6, "{sent} changes for one endpoint");
        let shown = nft(&["list", "ruleset"]);
        assert!(shown.contains("10.244.3.7") && !shown.contains("10.244.1.5"), "{shown}");
        assert_eq!(nftables.read(Family::Ip, "kinit-test").unwrap(), Some(Observed::of(&second)));
        assert_eq!(nftables.apply(Some(&second), &second).unwrap(), 0);

        // Somebody flushes everything: the next change makes the table anew.
        nft(&["flush", "ruleset"]);
        nftables.apply(Some(&second), &first).unwrap();
        assert_eq!(nftables.read(Family::Ip, "kinit-test").unwrap(), Some(Observed::of(&first)));
        nftables.delete(Family::Ip, "kinit-test").unwrap();
        nftables.delete(Family::Ip, "kinit-test").unwrap();
        assert_eq!(nft(&["list", "ruleset"]), "");
    });
}

#[test]
fn nothing_is_applied_of_a_bad_batch() {
    in_namespace(|| {
        let nftables = Nftables::open().unwrap();
        let good = table(&[[10, 244, 1, 5]]);
        nftables.apply(None, &good).unwrap();
        let before = nft(&["list", "ruleset"]);
        let mut bad = table(&[[10, 244, 9, 9]]);
        bad.chain("service-a").rule([Expr::Verdict(Verdict::Jump("nowhere".into()))]);
        let error = nftables.apply(Some(&good), &bad).unwrap_err();
        assert!(error.to_string().contains("nowhere"), "{error}");
        assert_eq!(nft(&["list", "ruleset"]), before);
    });
}

#[test]
fn many_elements_fit_into_one_transaction() {
    in_namespace(|| {
        let nftables = Nftables::open().unwrap();
        let backends: Vec<[u8; 4]> = (0..20_000_u32).map(|i| (0x0af4_0000 + i).to_be_bytes()).collect();
        let many = table(&backends);
        let start = std::time::Instant::now();
        nftables.apply(None, &many).unwrap();
        println!("20000 elements in {:?}", start.elapsed());
        assert_eq!(nftables.elements(Family::Ip, "kinit-test", "endpoints").unwrap().len(), 20_000);
        let start = std::time::Instant::now();
        nftables.apply(Some(&many), &table(&backends[..19_999])).unwrap();
        println!("one fewer in {:?}", start.elapsed());
    });
}

/// One Service's changed affinity timeout must not forget the clients of another.
#[test]
fn a_changed_timeout_forgets_nothing_else() {
    in_namespace(|| {
        let nftables = Nftables::open().unwrap();
        let with = |life: u64| {
            let mut table = table(&[[10, 244, 1, 5]]);
            let other = Set { learned: Some(Duration::from_secs(life)), ..Set::new(&[Type::Ipv4]) };
            table.sets.insert("other".into(), other);
            let learn = |set: &str, life: u64| Expr::Learn {
                set: set.into(),
                how: Learn::Update,
                key: Reg(8),
                data: None,
                millis: Some(life * 1000),
            };
            table.chain("service-b").rule([expr::source(8), learn("other", life)]);
            table
        };
        let (first, second) = (with(60), with(3600));
        nftables.apply(None, &first).unwrap();
        nft(&["add", "element", "ip", "kinit-test", "affinity", "{ 192.0.2.1 timeout 50s }"]);
        nft(&["add", "element", "ip", "kinit-test", "other", "{ 192.0.2.2 timeout 50s }"]);
        nftables.apply(Some(&first), &second).unwrap();
        let known = nftables.elements(Family::Ip, "kinit-test", "affinity").unwrap();
        assert!(known.contains_key(&vec![192, 0, 2, 1]), "the other set's client is forgotten: {known:?}");
        let shown = nft(&["list", "ruleset"]);
        assert!(shown.contains("timeout 1h"), "the new timeout is not there: {shown}");
        assert_eq!(nftables.read(Family::Ip, "kinit-test").unwrap(), Some(Observed::of(&second)));
        // And back, and away with it.
        nftables.apply(Some(&second), &first).unwrap();
        nftables.apply(Some(&first), &table(&[[10, 244, 1, 5]])).unwrap();
        assert!(nftables.elements(Family::Ip, "kinit-test", "affinity").unwrap().contains_key(&vec![192, 0, 2, 1]));
    });
}

#[test]
fn changes_by_others_are_noticed() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let nftables = Nftables::open().unwrap();
            let own = nftables.port().ok();
            let mut monitor = Monitor::open(Family::Ip, "kinit-test").unwrap();
            let first = table(&[[10, 244, 1, 5]]);
            nftables.apply(None, &first).unwrap();
            nft(&["add", "table", "ip", "other"]);
            assert!(!noticed(&mut monitor, own).await, "neither our own change nor another table's");
            nft(&["add", "element", "ip", "kinit-test", "affinity", "{ 192.0.2.1 }"]);
            assert!(noticed(&mut monitor, own).await, "somebody's element");
            nft(&["flush", "ruleset"]);
            assert!(noticed(&mut monitor, own).await, "the table is gone");
        });
    });
}

/// Others change other tables all day: the notices say that ours is untouched.
#[test]
fn a_monitor_vouches_for_its_table() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _within = runtime.enter();
        let nftables = Nftables::open().unwrap();
        let own = nftables.port().ok();
        let mut monitor = Monitor::open(Family::Ip, "kinit-test").unwrap();
        nftables.apply(None, &table(&[[10, 244, 1, 5]])).unwrap();
        let mut vouch = |generation: u32| monitor.vouch(own, generation).unwrap();
        assert_eq!(vouch(nftables.generation().unwrap()), Vouched::Untouched);
        nft(&["add", "table", "ip", "other"]);
        let now = nftables.generation().unwrap();
        assert_eq!((vouch(now), vouch(now + 1)), (Vouched::Untouched, Vouched::Unknown), "not for what is to come");
        nft(&["add", "element", "ip", "kinit-test", "affinity", "{ 192.0.2.1 }"]);
        nft(&["add", "table", "ip", "another"]);
        assert_eq!(vouch(nftables.generation().unwrap()), Vouched::Unknown);
    });
}

/// Whether a notice came. The kernel has sent it before `nft` ended: it is there or never comes.
async fn noticed(monitor: &mut Monitor, own: Option<u32>) -> bool {
    tokio::time::timeout(Duration::from_millis(500), monitor.changed(own)).await.is_ok_and(|r| r.is_ok())
}

#[test]
fn anothers_table_is_surveyed_and_changed_only_as_it_was_seen() {
    in_namespace(|| {
        let nftables = Nftables::open().unwrap();
        assert_eq!(nftables.survey(Family::Ip, "nat").unwrap(), None);
        for command in [
            "add table ip nat",
            "add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; policy drop; }",
            "add chain ip nat one",
            "add rule ip nat one tcp dport { 1, 2 } counter comment \"first\"",
            "add rule ip nat POSTROUTING ip saddr 192.0.2.1 jump one comment \"first way\"",
            "add rule ip nat POSTROUTING counter goto one",
            // Of the same name, but another family's.
            "add table ip6 nat",
            "add chain ip6 nat six",
        ] {
            nft(&[command]);
        }
        let survey = nftables.survey(Family::Ip, "nat").unwrap().unwrap();
        assert_eq!(survey.chains.keys().collect::<Vec<_>>(), ["POSTROUTING", "one"]);
        let (base, one) = (&survey.chains["POSTROUTING"], &survey.chains["one"]);
        assert_eq!((base.base, base.drops, one.base, one.drops), (true, true, false, false));
        let said = |rule: &kinit_nftables::SurveyedRule| (rule.target.clone(), rule.comment.clone());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            base.rules.iter().map(said).collect::<Vec<_>>(),
            [(some("one"), some("first way")), (some("one"), None)]
        );
        assert_eq!(one.rules.iter().map(said).collect::<Vec<_>>(), [(None, some("first"))]);
        // The set of the ports belongs to its rule.
        assert!(!survey.has_more);

        // Somebody is faster.
        nft(&["add", "rule", "ip", "nat", "one", "counter", "comment", "new"]);
        let change = [Change::DropRule("POSTROUTING".into(), base.rules[0].handle)];
        let error = nftables.commit_as_surveyed(&survey, Family::Ip, "nat", &change).unwrap_err();
        assert!(error.is_clash(), "{error:?}");
        let survey = nftables.survey(Family::Ip, "nat").unwrap().unwrap();
        assert_eq!(survey.chains["POSTROUTING"].rules.len(), 2);
        nftables.commit_as_surveyed(&survey, Family::Ip, "nat", &change).unwrap();
        let shown = nft(&["list", "table", "ip", "nat"]);
        assert!(!shown.contains("first way") && shown.contains("goto one") && shown.contains("new"), "{shown}");

        for more in ["add set ip nat s { type ipv4_addr; }", "add counter ip nat c"] {
            nft(&[more]);
            assert!(nftables.survey(Family::Ip, "nat").unwrap().unwrap().has_more, "{more}");
            nft(&[more.replace("add", "delete").split(" {").next().unwrap()]);
        }
        assert!(!nftables.survey(Family::Ip, "nat").unwrap().unwrap().has_more);
    });
}
