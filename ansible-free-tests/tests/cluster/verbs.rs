//! Every verb an administrator uses, through the load balancer, with an unmodified kubectl.

use std::time::Duration;

use ansible_free_tests::{Follow, Kubectl, Lab, Ran};

const PATIENCE: Duration = Duration::from_secs(60);

/// One kubectl in a namespace of its own.
struct Desk<'a> {
    lab: &'a Lab,
    kubectl: Kubectl,
    namespace: String,
}

pub fn all_work(lab: &Lab, kubectl: Kubectl) {
    let namespace = format!("verbs-{kubectl:?}").to_lowercase();
    let desk = Desk { lab, kubectl, namespace };
    desk.lab
        .run_kubectl(kubectl, &["create", "namespace", &desk.namespace], "")
        .unwrap()
        .ok("create a namespace")
        .unwrap();
    desk.about_the_cluster();
    desk.read_and_write();
    desk.watch_and_select();
    desk.apply();
    desk.roll_out();
    desk.talk_to_pods();
    desk.say(&["delete", "namespace", &desk.namespace, "--wait=false"]);
}

/// Namespaces end with all that is in them.
pub fn namespaces_go(lab: &Lab) {
    let gone = ["wait", "--for=delete", "namespace/verbs-trixie", "namespace/verbs-sid", "--timeout=90s"];
    lab.kubectl(&gone).unwrap().ok("wait for the namespaces' end").unwrap();
}

impl Desk<'_> {
    fn try_say(&self, arguments: &[&str], input: &str) -> Ran {
        self.lab.run_kubectl(self.kubectl, &[&["-n", &self.namespace], arguments].concat(), input).unwrap()
    }

    #[track_caller]
    fn say(&self, arguments: &[&str]) -> String {
        self.try_say(arguments, "").ok(&format!("{:?}'s kubectl {}", self.kubectl, arguments.join(" "))).unwrap()
    }

    /// The answer has each of these in it.
    #[track_caller]
    fn hears(&self, arguments: &[&str], expected: &[&str]) {
        let out = self.say(arguments);
        for word in expected {
            assert!(out.contains(word), "kubectl {} does not say {word:?}:\n{out}", arguments.join(" "));
        }
    }

    fn follow(&self, arguments: &[&str]) -> Follow {
        let arguments = [&["-n", &self.namespace], arguments].concat();
        Follow::start(&mut self.lab.kubectl_command(self.kubectl, &arguments).unwrap()).unwrap()
    }

    fn about_the_cluster(&self) {
        self.hears(&["version"], &["Server Version: v1.36.0+kinit."]);
        self.hears(&["cluster-info", "-n", "kube-system"], &["Kubernetes control plane", "KubeDNS", "is running at"]);
        self.hears(&["api-resources"], &["deployments", "deploy", "apps/v1", "configmaps", "cm"]);
        self.hears(
            &["api-resources", "--verbs=list", "--namespaced=false", "-o", "name"],
            &["nodes\n", "clusterroles.rbac.authorization.k8s.io"],
        );
        self.hears(&["api-versions"], &["apps/v1", "rbac.authorization.k8s.io/v1"]);
        self.hears(
            &["explain", "deployment.spec.replicas"],
            &["FIELD: replicas <integer>", "KIND:       Deployment", "Number of desired pods."],
        );
        self.hears(&["auth", "whoami"], &["kubernetes-admin"]);
        assert_eq!(self.say(&["auth", "can-i", "create", "pods"]).trim(), "yes");
        let other = self.try_say(&["auth", "can-i", "create", "pods", "--as=nobody"], "");
        assert_eq!((other.code, other.out.trim()), (1, "no"));
        assert!(self.say(&["get", "--raw", "/readyz?verbose"]).ends_with("readyz check passed\n"));
    }

    fn read_and_write(&self) {
        self.say(&["create", "configmap", "c", "--from-literal=a=1"]);
        self.say(&["patch", "configmap", "c", "--type=merge", "-p", r#"{"data":{"a":"2"}}"#]);
        self.say(&["patch", "configmap", "c", "--type=json", "-p", r#"[{"op":"add","path":"/data/b","value":"3"}]"#]);
        self.say(&["label", "configmap", "c", "x=y"]);
        self.say(&["annotate", "configmap", "c", "why=because"]);
        self.hears(&["get", "configmap", "c", "-o", "yaml"], &["kind: ConfigMap", "  a: \"2\"", "    why: because"]);
        let json = self.say(&["get", "configmap", "c", "-o", "json"]);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&object["data"]["b"], &object["metadata"]["labels"]["x"]), (&"3".into(), &"y".into()));
        assert_eq!(self.say(&["get", "configmap", "-l", "x=y", "-o", "name"]), "configmap/c\n");
        assert_eq!(self.say(&["get", "configmap", "-l", "x=z", "-o", "name"]), "");
        self.hears(&["describe", "configmap", "c"], &["Annotations:  why: because", "a:\n----\n2"]);
        self.say(&["label", "configmap", "c", "x-"]);
        self.say(&["delete", "configmap", "c"]);
        let gone = self.try_say(&["get", "configmap", "c"], "");
        assert!(gone.code == 1 && gone.err.contains(r#"configmaps "c" not found"#), "{}", gone.err);
    }

    fn watch_and_select(&self) {
        let mut watch = self.follow(&["get", "configmap", "-l", "seen=yes", "-w"]);
        self.say(&["create", "configmap", "w", "--from-literal=a=1"]);
        self.say(&["label", "configmap", "w", "seen=yes"]);
        watch.expect("w      1", PATIENCE).unwrap();
        self.say(&["patch", "configmap", "w", "-p", r#"{"data":{"b":"2"}}"#]);
        watch.expect("w      2", PATIENCE).unwrap();
        assert_eq!(
            self.say(&["get", "configmap", "--field-selector", "metadata.name=w", "-o", "name"]),
            "configmap/w\n"
        );
        assert_eq!(
            self.say(&[
                "get",
                "configmap",
                "--field-selector",
                "metadata.name!=w,metadata.name!=kube-root-ca.crt",
                "-o",
                "name"
            ]),
            ""
        );
        self.hears(
            &["get", "pods", "-A", "--field-selector", "spec.nodeName=w1", "-o", "wide"],
            &["NAMESPACE", "NODE", "NOMINATED NODE"],
        );
        let refused = self.try_say(&["get", "configmap", "--field-selector", "data.a=1"], "");
        assert!(refused.err.contains(r#""data.a" is not a known field selector"#), "{}", refused.err);
    }

    fn apply(&self) {
        let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: \"1\"}\n";
        let changed = manifest.replace("\"1\"", "\"2\"");
        for (text, arguments, expected) in [
            (manifest, &["apply", "-f", "-"][..], "created"),
            (&changed, &["apply", "-f", "-", "--dry-run=server"], "configured (server dry run)"),
            (&changed, &["apply", "-f", "-"], "configured"),
            (&changed, &["apply", "-f", "-"], "unchanged"),
            (&changed, &["apply", "--server-side", "--force-conflicts", "-f", "-"], "serverside-applied"),
        ] {
            let out = self.try_say(arguments, text).ok("kubectl apply").unwrap();
            assert!(out.contains(expected), "{arguments:?}: {out}");
        }
        let diff = self.try_say(&["diff", "-f", "-"], &manifest.replace("\"1\"", "\"9\""));
        assert!(diff.code == 1 && diff.out.contains("+  a: \"9\""), "{}{}", diff.out, diff.err);
        let unknown = self.try_say(&["apply", "-f", "-"], &manifest.replace("\ndata:", "\ndatum:"));
        assert!(unknown.code == 1 && unknown.err.contains(r#"unknown field "datum""#), "{}", unknown.err);
        let unknown = self.try_say(&["apply", "-f", "-"], &manifest.replace("kind: ConfigMap", "kind: Widget"));
        let expected = r#"no matches for kind "Widget" in version "v1""#;
        assert!(unknown.code == 1 && unknown.err.contains(expected), "{}", unknown.err);
    }

    fn roll_out(&self) {
        let status = || self.say(&["rollout", "status", "deployment", "web", "--timeout=60s"]);
        self.say(&["create", "deployment", "web", "--image=kinit.dev/demo:0.1.0", "--replicas=2"]);
        status();
        self.hears(&["get", "deployment"], &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "2/2"]);
        self.hears(&["get", "deployment", "web", "-o", "wide"], &["CONTAINERS", "kinit.dev/demo:0.1.0", "app=web"]);
        self.hears(
            &["describe", "deployment", "web"],
            &["2 desired | 2 updated | 2 total | 2 available", "ScalingReplicaSet"],
        );
        self.say(&["scale", "deployment", "web", "--replicas=3"]);
        status();
        self.hears(&["get", "deployment", "web"], &["3/3"]);
        // A strategic patch merges the list of containers by name.
        let patch =
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"demo","env":[{"name":"A","value":"1"}]}]}}}}"#;
        self.say(&["patch", "deployment", "web", "-p", patch]);
        status();
        let image_and_env =
            "jsonpath={.spec.template.spec.containers[*].image} {.spec.template.spec.containers[0].env[0].value}";
        assert_eq!(self.say(&["get", "deployment", "web", "-o", image_and_env]), "kinit.dev/demo:0.1.0 1");
        self.say(&["rollout", "restart", "deployment", "web"]);
        status();
        self.hears(&["rollout", "history", "deployment", "web"], &["REVISION", "1", "2", "3"]);
        self.say(&["rollout", "undo", "deployment", "web", "--to-revision=1"]);
        status();
        assert_eq!(self.say(&["get", "deployment", "web", "-o", image_and_env]), "kinit.dev/demo:0.1.0 ");
        self.say(&["expose", "deployment", "web", "--port=80", "--target-port=8080"]);
        self.hears(&["describe", "service", "web"], &["ClusterIP", "TargetPort:", "8080/TCP"]);
        self.hears(&["get", "events", "--field-selector", "involvedObject.kind=Deployment"], &["ScalingReplicaSet"]);
        self.hears(&["get", "events"], &["Scheduled", "Started"]);
    }

    fn talk_to_pods(&self) {
        let ticker = ["run", "ticker", "--image=kinit.dev/demo:0.1.0", "--restart=Never", "--command", "--"];
        let ticking = "for i in $(seq 1 300); do echo tick $i; sleep 1; done";
        self.say(&[&ticker[..], &["sh", "-c", ticking]].concat());
        self.say(&["wait", "pod", "ticker", "--for=condition=Ready", "--timeout=60s"]);
        let mut log = self.follow(&["logs", "-f", "ticker"]);
        log.expect("tick 1", PATIENCE).unwrap();
        log.expect("tick 3", PATIENCE).unwrap();
        self.hears(&["logs", "ticker", "--tail=1"], &["tick"]);
        assert_eq!(self.say(&["exec", "ticker", "--", "hostname"]).trim(), "ticker");
        let echoed = self.try_say(&["exec", "-i", "ticker", "--", "cat"], "through and back\n");
        assert_eq!(echoed.ok("exec -i").unwrap(), "through and back\n");
        assert_eq!(self.try_say(&["exec", "ticker", "--", "sh", "-c", "exit 7"], "").code, 7);
        let mut command = self
            .lab
            .kubectl_command(self.kubectl, &["-n", &self.namespace, "exec", "-it", "ticker", "--", "sh"])
            .unwrap();
        let mut shell = Follow::on_terminal(&mut command).unwrap();
        shell.say("test -t 0 && echo on a ter''minal").unwrap();
        shell.expect("on a terminal", PATIENCE).unwrap();
        shell.say("exit 3").unwrap();
        assert_eq!(shell.end(PATIENCE).unwrap(), 3);
        self.say(&["delete", "pod", "ticker", "--grace-period=1"]);
    }
}
