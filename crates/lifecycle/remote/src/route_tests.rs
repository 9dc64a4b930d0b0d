use super::*;

fn routes(config: &str) -> Routes {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config");
    std::fs::write(&file, config).unwrap();
    Routes {
        config: SshConfig::read(&file, Path::new("/home/me")).unwrap(),
        home: "/home/me".into(),
        local_user: "me".into(),
        agent: Some("/run/agent".into()),
        on_unknown: OnUnknown::Refuse,
        timeout: Duration::from_secs(1),
    }
}

fn wanted(address: &str) -> Wanted {
    Wanted { address: address.into(), ..Wanted::default() }
}

fn shown(target: &Target) -> String {
    let hops = target.jumps.iter().chain([&target.host]);
    hops.map(|h| format!("{}@{}:{}", h.user, h.address, h.port)).collect::<Vec<_>>().join(" > ")
}

#[test]
fn the_file_wins_over_the_configuration_and_that_over_defaults() {
    let routes = routes(
        "Host node\n HostName 192.0.2.7\n User admin\n Port 2222\n IdentityFile ~/k/%n-%r\n UserKnownHostsFile /a ~/b\n HostKeyAlias n1\n",
    );
    let target = routes.to(&wanted("10.0.0.1")).unwrap();
    assert_eq!(shown(&target), "root@10.0.0.1:22");
    assert_eq!(target.host.host_key.known_hosts, [PathBuf::from("/home/me/.ssh/known_hosts")]);
    assert_eq!(target.host.identities.files.first(), Some(&PathBuf::from("/home/me/.ssh/id_ed25519")));
    assert!(!target.host.identities.named && !target.host.identities.only);

    let target = routes.to(&wanted("node")).unwrap();
    assert_eq!(shown(&target), "admin@192.0.2.7:2222");
    assert_eq!(target.host.host_key.known_hosts, [PathBuf::from("/a"), PathBuf::from("/home/me/b")]);
    assert_eq!(target.host.host_key.alias.as_deref(), Some("n1"));
    assert_eq!(target.host.identities.files, [PathBuf::from("/home/me/k/node-admin")]);
    assert!(target.host.identities.named && !target.host.identities.required);

    let explicit = Wanted {
        port: Some(23),
        user: Some("root".into()),
        identity_file: Some("~/key".into()),
        known_hosts: Some("~/known".into()),
        ..wanted("node")
    };
    let target = routes.to(&explicit).unwrap();
    assert_eq!(shown(&target), "root@192.0.2.7:23");
    assert_eq!(target.host.host_key.known_hosts, [PathBuf::from("/home/me/known")]);
    let identities = &target.host.identities;
    assert_eq!(identities.files, [PathBuf::from("/home/me/key")]);
    assert!(identities.only && identities.required && identities.agent.is_some());
}

#[test]
fn jumps_are_hosts_of_their_own() {
    let config = "Host b1\n HostName 198.51.100.1\n User jumper\n ProxyJump outer:24\n IdentityFile ~/jump\n\
                  Host outer\n ProxyCommand nc %h %p\nHost h1\n ProxyJump b1,op@b2:23\n";
    let routes = routes(config);
    let target = routes.to(&Wanted { identity_file: Some("~/key".into()), ..wanted("h1") }).unwrap();
    assert_eq!(shown(&target), "me@outer:24 > jumper@198.51.100.1:22 > op@b2:23 > root@h1:22");
    assert_eq!(target.proxy_command.as_deref(), Some("nc outer 24"));
    let keys: Vec<_> = target.jumps.iter().map(|h| h.identities.files.clone()).collect();
    let (key, jump) = (PathBuf::from("/home/me/key"), PathBuf::from("/home/me/jump"));
    assert_eq!(keys, [vec![key.clone()], vec![jump], vec![key]]);

    let none = Wanted { proxy_jump: Some("none".into()), ..wanted("h1") };
    assert_eq!(shown(&routes.to(&none).unwrap()), "root@h1:22");
    let other = Wanted { proxy_jump: Some("ssh://x@[fd00::1]:25".into()), ..wanted("h1") };
    assert_eq!(shown(&routes.to(&other).unwrap()), "x@fd00::1:25 > root@h1:22");
    let wrong = Wanted { proxy_jump: Some("a:b".into()), ..wanted("h1") };
    assert!(routes.to(&wrong).is_err());
}

#[test]
fn a_circle_of_jumps_is_an_error() {
    let error = routes("Host *\n ProxyJump b\n").to(&wanted("a")).err().unwrap();
    assert!(error.to_string().contains("more than 8 jump hosts"), "{error:#}");
    let error = routes("Host *\n IdentityFile ~/%C\n").to(&wanted("a")).err().unwrap();
    assert!(format!("{error:#}").contains("%C is not supported"), "{error:#}");
}
