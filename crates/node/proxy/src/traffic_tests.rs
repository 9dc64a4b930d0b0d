//! Real packets through real rules, in a network namespace of the test's own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use kinit_nftables::{Family, Nftables, Observed};
use serde_json::json;

use crate::flows::Udp;
use crate::ruleset::{Options, TABLE, table};
use crate::services::tests::{at, service, slice};
use crate::services::{ServicePort, collect};

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

fn answering(address: &str, name: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            stream.write_all(format!("{name} {peer}").as_bytes()).unwrap();
        }
    });
}

fn ask(address: &str) -> Result<String, std::io::ErrorKind> {
    let mut stream =
        TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(2)).map_err(|e| e.kind())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.kind())?;
    Ok(text)
}

fn ports(endpoints: &[(&str, &str, bool, bool, bool)], spec: serde_json::Value) -> Vec<ServicePort> {
    collect(&[service(spec)], &[slice(endpoints)], at("here"))
}

#[test]
fn connections_go_where_they_should() {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        ip("link set lo up");
        ip("link add pods type veth peer name cable");
        ip("link set cable up");
        ip("link set pods up");
        for address in ["10.244.1.1/32", "10.244.1.2/32", "192.168.7.7/24"] {
            ip(&format!("addr add {address} dev pods"));
        }
        ip("route add default dev pods src 192.168.7.7");
        answering("10.244.1.1:8080", "one");
        answering("10.244.1.2:8080", "two");
        let options = Options { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), mark: 0x4000 };
        let both = [("10.244.1.1", "here", true, true, false), ("10.244.1.2", "here", true, true, false)];
        let node_port = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        let kernel = Nftables::open().unwrap();

        let first = table(&ports(&both, node_port.clone()), &options);
        kernel.apply(None, &first).unwrap();
        let generation = kernel.generation().unwrap();
        assert!(generation > 0);
        assert_eq!(kernel.read(Family::Ip, TABLE).unwrap(), Some(Observed::of(&first)));
        println!(
            "{}",
            String::from_utf8_lossy(&Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout)
        );
        let answers: std::collections::BTreeSet<String> =
            (0..40).map(|_| ask("10.96.0.10:80").unwrap()[..3].to_owned()).collect();
        assert_eq!(answers.len(), 2, "both endpoints are used");
        assert!(ask("192.168.7.7:30080").is_ok(), "the node port");
        assert_eq!(ask("10.96.0.10:81"), Err(std::io::ErrorKind::ConnectionRefused), "no such port");

        let none = table(&ports(&[], node_port.clone()), &options);
        kernel.apply(Some(&first), &none).unwrap();
        assert_eq!(ask("10.96.0.10:80"), Err(std::io::ErrorKind::ConnectionRefused), "no endpoint");
        assert_eq!(ask("192.168.7.7:30080"), Err(std::io::ErrorKind::ConnectionRefused), "no endpoint");

        let sticky = table(&ports(&both, json!({"sessionAffinity": "ClientIP"})), &options);
        kernel.apply(Some(&none), &sticky).unwrap();
        let answers: std::collections::BTreeSet<String> = (0..20).map(|_| ask("10.96.0.10:80").unwrap()).collect();
        assert_eq!(answers.len(), 1, "a client stays: {answers:?}");
        println!(
            "{}",
            String::from_utf8_lossy(&Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout)
        );

        let one = table(&ports(&both[..1], json!({"sessionAffinity": "ClientIP"})), &options);
        kernel.apply(Some(&sticky), &one).unwrap();
        assert!(ask("10.96.0.10:80").unwrap().starts_with("one"), "the other is gone");
        kernel.delete(Family::Ip, TABLE).unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn udp_flows_follow_their_endpoints() {
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("needs the right to make a network namespace");
        ip("link set lo up");
        ip("link add pods type veth peer name cable");
        ip("link set cable up");
        ip("link set pods up");
        for address in ["10.244.1.1/32", "10.244.1.2/32", "192.168.7.7/24"] {
            ip(&format!("addr add {address} dev pods"));
        }
        ip("route add default dev pods src 192.168.7.7");
        let udp = |address: &str| {
            let mut s = (*slice(&[(address, "here", true, true, false)])).clone();
            s.ports.as_mut().unwrap()[0].protocol = Some("UDP".into());
            let spec = json!({"ports": [{"name": "http", "port": 53, "protocol": "UDP"}]});
            collect(&[service(spec)], &[s.into()], at("here"))
        };
        let listen = |address: &str| {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket
        };
        let (one, two) = (listen("10.244.1.1:8080"), listen("10.244.1.2:8080"));
        let heard = |socket: &UdpSocket| socket.recv(&mut [0; 16]).is_ok();
        let options = Options { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), mark: 0x4000 };
        let kernel = Nftables::open().unwrap();
        let (first, second) = (udp("10.244.1.1"), udp("10.244.1.2"));
        kernel.apply(None, &table(&first, &options)).unwrap();
        let client = UdpSocket::bind("192.168.7.7:0").unwrap();
        client.connect("10.96.0.10:53").unwrap();
        client.send(b"a").unwrap();
        assert!(heard(&one));
        kernel.apply(Some(&table(&first, &options)), &table(&second, &options)).unwrap();
        client.send(b"b").unwrap();
        assert!(heard(&one), "the kernel remembers the flow");
        let wanted = Udp::of(&second);
        assert_eq!(kernel.forget_flows(|flow| wanted.is_stale(flow)).unwrap(), 1);
        client.send(b"c").unwrap();
        assert!(heard(&two) && !heard(&one));
    })
    .join()
    .unwrap();
}
