//! In a network namespace of each test's own. The real plugin's rules look like these; `nft` tells what is left.

use kinit_nftables::{Base, ChainType, Expr, Hook, Rule, Table, Verdict};

use super::*;

fn in_namespace(test: impl FnOnce(&Nftables) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        test(&Nftables::open().unwrap());
    });
    thread.join().unwrap();
}

fn nft(args: &[&str]) -> String {
    let output = std::process::Command::new("nft").args(args).output().expect("the nft program");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn jump(table: &mut Table, from: &str, to: &str, comment: Option<String>) {
    let exprs = vec![Expr::Counter, Expr::Verdict(Verdict::Jump(to.to_owned()))];
    table.chain(from).rules.push(Rule { exprs, comment });
}

fn base(table: &mut Table, name: &str, hook: Hook, priority: i32) {
    table.chain(name).base = Some(Base { kind: ChainType::Nat, hook, priority, drop_by_default: false });
}

/// What iptables makes as soon as anybody looks.
fn empty_nat(family: Family) -> Table {
    let mut table = Table::new(family, IPTABLES);
    base(&mut table, "PREROUTING", Hook::Prerouting, -100);
    base(&mut table, "INPUT", Hook::Input, 100);
    base(&mut table, "OUTPUT", Hook::Output, -100);
    base(&mut table, "POSTROUTING", Hook::Postrouting, 100);
    table
}

/// The rules of host ports of pods: (network, container).
fn nat(pods: &[(&str, &str)]) -> Table {
    let mut table = empty_nat(Family::Ip);
    table.chain("CNI-HOSTPORT-SETMARK").rule([Expr::Counter]);
    table.chain("CNI-HOSTPORT-MASQ").rule([Expr::Masquerade { random: false }]);
    jump(&mut table, "POSTROUTING", "CNI-HOSTPORT-MASQ", Some("CNI portfwd requiring masquerade".into()));
    for entry in ["PREROUTING", "OUTPUT"] {
        jump(&mut table, entry, "CNI-HOSTPORT-DNAT", None);
    }
    table.chain("CNI-HOSTPORT-DNAT");
    for (network, id) in pods {
        let chain = format!("CNI-DN-{network}{id}");
        let comment = format!("dnat name: \"{network}\" id: \"{id}\"");
        jump(&mut table, &chain, "CNI-HOSTPORT-SETMARK", None);
        jump(&mut table, "CNI-HOSTPORT-DNAT", &chain, Some(comment));
    }
    table
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

#[test]
fn what_is_ours_goes_and_the_tables_with_it() {
    in_namespace(|nftables| {
        let mut table = nat(&[("kinit", "a"), ("kinit", "b")]);
        // Made by an ADD that did not end; and by older plugins.
        table.chain("CNI-DN-orphan").rule([Expr::Counter]);
        jump(&mut table, "CNI-HOSTPORT-SNAT", "CNI-SN-a", Some("snat name: \"kinit\" id: \"a\"".into()));
        jump(&mut table, "POSTROUTING", "CNI-HOSTPORT-SNAT", None);
        table.chain("CNI-SN-a").rule([Expr::Counter]);
        nftables.apply(None, &table).unwrap();
        nftables.apply(None, &empty_nat(Family::Ip6)).unwrap();
        assert!(nft(&["list", "ruleset"]).contains("jump CNI-DN-kinita"));
        remove_all(&none()).unwrap();
        assert_eq!(nft(&["list", "ruleset"]), "");
        remove_all(&none()).unwrap();
    });
}

#[test]
fn another_network_keeps_its_ports() {
    in_namespace(|nftables| {
        let mut table = nat(&[("podman", "c"), ("kinit", "a")]);
        jump(&mut table, "POSTROUTING", "CNI-masq", Some("name: \"podman\" id: \"c\"".into()));
        table.chain("CNI-masq").rule([Expr::Masquerade { random: false }]);
        nftables.apply(None, &table).unwrap();
        remove_all(&none()).unwrap();
        let mut expected = nat(&[("podman", "c")]);
        jump(&mut expected, "POSTROUTING", "CNI-masq", None);
        expected.chain("CNI-masq").rule([Expr::Masquerade { random: false }]);
        let left = nftables.read(Family::Ip, IPTABLES).unwrap();
        assert_eq!(left, Some(kinit_nftables::Observed::of(&expected)), "{}", nft(&["list", "ruleset"]));
    });
}

#[test]
fn what_others_have_in_the_table_stays_and_the_table_with_it() {
    in_namespace(|nftables| {
        let add = |what: &str| drop(nft(&[&["add"], what.split(' ').collect::<Vec<_>>().as_slice()].concat()));
        for own in [
            "rule ip nat POSTROUTING ip saddr 192.0.2.0/24 masquerade",
            "chain ip nat mine",
            "set ip nat mine { type ipv4_addr; }",
            "counter ip nat mine",
        ] {
            nftables.apply(None, &nat(&[("kinit", "a")])).unwrap();
            add(own);
            remove_all(&none()).unwrap();
            let left = nft(&["list", "ruleset"]);
            assert!(left.contains("mine") || left.contains("masquerade"), "{own} is gone:\n{left}");
            assert!(!left.contains("CNI-"), "{left}");
            assert!(left.contains("hook postrouting"), "{left}");
        }
        // A chain of somebody's own that jumps to a shared one needs it.
        nftables.apply(None, &nat(&[("kinit", "a")])).unwrap();
        add("chain ip nat mine");
        add("rule ip nat mine jump CNI-HOSTPORT-SETMARK");
        remove_all(&none()).unwrap();
        let left = nft(&["list", "ruleset"]);
        assert!(left.contains("jump CNI-HOSTPORT-SETMARK") && !left.contains("CNI-DN-"), "{left}");
        // Other tables are nobody's business here.
        nft(&["flush", "ruleset"]);
        add("table ip filter");
        remove_all(&none()).unwrap();
        assert!(nft(&["list", "ruleset"]).contains("table ip filter"));
    });
}

#[test]
fn the_plugins_own_table_loses_our_containers() {
    let table = |containers: &[&str]| {
        let mut table = Table::new(Family::Ip6, NFTABLES);
        base(&mut table, "prerouting", Hook::Prerouting, -100);
        base(&mut table, "output", Hook::Output, -100);
        base(&mut table, "masquerading", Hook::Postrouting, 100);
        table.chain("hostip_hostports");
        for entry in ["prerouting", "output"] {
            jump(&mut table, entry, "hostip_hostports", None);
            jump(&mut table, entry, "hostports", None);
        }
        for container in containers {
            let comment = Some((*container).to_owned());
            table.chain("hostports").rules.push(Rule { exprs: vec![Expr::Counter], comment: comment.clone() });
            table.chain("masquerading").rules.push(Rule { exprs: vec![Expr::Masquerade { random: false }], comment });
        }
        table
    };
    in_namespace(move |nftables| {
        let ours = BTreeSet::from(["a".to_owned()]);
        nftables.apply(None, &table(&["a", "other"])).unwrap();
        remove_all(&ours).unwrap();
        let left = nftables.read(Family::Ip6, NFTABLES).unwrap();
        assert_eq!(left, Some(kinit_nftables::Observed::of(&table(&["other"]))), "{}", nft(&["list", "ruleset"]));
        nftables.apply(None, &table(&["a"])).unwrap();
        remove_all(&ours).unwrap();
        assert_eq!(nft(&["list", "ruleset"]), "");
    });
}

#[test]
fn containers_are_those_with_an_address() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(containers(&dir.path().join("missing")).unwrap(), none());
    for (name, text) in
        [("10.244.1.2", "abc\r\neth0"), ("10.244.1.3", "def"), ("lock", "no"), ("last_reserved_ip.0", "10.244.1.3")]
    {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    assert_eq!(containers(dir.path()).unwrap(), BTreeSet::from(["abc".to_owned(), "def".to_owned()]));
}
