//! How controls are decided: files by mode and owner, programs by their flags, the kubelet by its configuration.

use kinit_resource::{Evidence, FileEvidence};
use serde_json::Value;

use super::controls::{Command, File, Kubelet, Rule, STRONG};

/// Whether all files of a control are as it wants them, and what was seen: those that are not, or how many there are.
pub(super) fn file(control: &File, files: &[FileEvidence]) -> (bool, String) {
    let ours: Vec<&FileEvidence> = files.iter().filter(|file| control.is_about(file)).collect();
    if ours.is_empty() {
        return (false, format!("{} does not exist", control.paths.join(", ")));
    }
    let told = |file: &FileEvidence| format!("{} {:o} {}", file.path, file.mode, file.owner);
    let wrong: Vec<String> = ours
        .iter()
        .filter(|file| {
            let too_open = control.mode.is_some_and(|most| file.mode & !most & 0o777 != 0);
            let stranger = control.owner.is_some_and(|owner| file.owner != owner);
            too_open || stranger
        })
        .map(|file| told(file))
        .collect();
    match (wrong.is_empty(), ours.as_slice()) {
        (true, [one]) => (true, told(one)),
        (true, several) => (true, format!("{} files below {}", several.len(), control.paths.join(", "))),
        (false, _) => (false, wrong.join("; ")),
    }
}

/// A flag's value: `--name=value`, `--name value`, or `true` for a flag alone. The last one counts.
fn flag<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let mut found = None;
    for (i, arg) in args.iter().enumerate() {
        let Some(rest) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).and_then(|a| a.strip_prefix(name))
        else {
            continue;
        };
        if let Some(value) = rest.strip_prefix('=') {
            found = Some(value);
        } else if rest.is_empty() {
            found = Some(args.get(i + 1).filter(|next| !next.starts_with('-')).map_or("true", String::as_str));
        }
    }
    found
}

fn said(args: &[String], name: &str) -> String {
    match flag(args, name) {
        Some(value) => format!("--{name}={value}"),
        None => format!("--{name} is not set"),
    }
}

/// Whether a program's flags are as a control wants them.
pub(super) fn command(control: &Command, evidence: &Evidence) -> (bool, String) {
    let Some(args) = evidence.commands.get(control.program) else {
        return (false, format!("{} does not run", control.program));
    };
    let of = |name: &str| flag(args, name);
    let list = |name: &str| of(name).map(|v| v.split(',').collect::<Vec<_>>()).unwrap_or_default();
    match control.rule {
        Rule::Is(name, wanted) => (of(name) == Some(wanted), said(args, name)),
        Rule::IsNot(name, unwanted) => (of(name) != Some(unwanted), said(args, name)),
        Rule::Set(names) => {
            let all = names.iter().all(|name| of(name).is_some_and(|value| !value.is_empty()));
            (all, names.iter().map(|name| said(args, name)).collect::<Vec<_>>().join(" "))
        }
        Rule::Unset(name) => (of(name).is_none(), said(args, name)),
        Rule::SetOrOff(set, off) => match of(set) {
            Some(_) => (true, said(args, set)),
            None => (of(off) == Some("false"), said(args, off)),
        },
        Rule::Local(name) => {
            let local = |address: &str| ["127.", "localhost:", "[::1]:"].iter().any(|own| address.starts_with(own));
            (of(name).is_none_or(local), said(args, name))
        }
        Rule::AtLeast(name, least) => {
            (of(name).and_then(|value| value.parse::<u64>().ok()).is_some_and(|n| n >= least), said(args, name))
        }
        Rule::Lists(name, item) => (list(name).contains(&item), said(args, name)),
        Rule::ListsNot(name, item) => (!list(name).contains(&item), said(args, name)),
        Rule::Strong(name) => {
            let suites = list(name);
            (!suites.is_empty() && suites.iter().all(|suite| STRONG.contains(suite)), said(args, name))
        }
        Rule::Differ(name, other) => {
            let (own, others) = (of(name), evidence.commands.get("kube-apiserver").and_then(|args| flag(args, other)));
            (own.is_some() && own != others, said(args, name))
        }
    }
}

/// Whether the kubelet's configuration is as a control wants it. A value that is absent has the kubelet's default.
pub(super) fn kubelet(control: &Kubelet, config: &Value) -> (bool, String) {
    if config.is_null() {
        return (false, "the kubelet has no configuration file".to_owned());
    }
    let pointer = format!("/{}", control.field.replace('.', "/"));
    let default: Value = serde_json::from_str(control.default).unwrap_or_default();
    let value = config.pointer(&pointer).filter(|v| !v.is_null()).unwrap_or(&default);
    ((control.good)(value), format!("{}: {}", control.field, text(value)))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::On;
    use super::*;

    fn args(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_are_read_in_all_their_forms() {
        let line = args(&["--a=1", "--b", "2", "-c=3", "--d", "--e=x=y", "--a=4"]);
        for (name, expected) in
            [("a", Some("4")), ("b", Some("2")), ("c", Some("3")), ("d", Some("true")), ("e", Some("x=y")), ("f", None)]
        {
            assert_eq!(flag(&line, name), expected, "{name}");
        }
    }

    #[test]
    fn files_of_a_folder_are_meant_and_not_the_folder() {
        let evidence = |path: &str, mode: u32, folder: bool| FileEvidence {
            path: path.into(),
            mode,
            owner: "root:root".into(),
            folder,
        };
        let control =
            File { id: "1", title: "t", on: On::Node, paths: &["/pki"], ends: ".key", mode: Some(0o600), owner: None };
        let mut files = vec![
            evidence("/pki", 0o755, true),
            evidence("/pki/etcd", 0o755, true),
            evidence("/pki/ca.crt", 0o644, false),
            evidence("/pki/etcd/ca.key", 0o600, false),
            evidence("/pki2/x.key", 0o644, false),
        ];
        assert_eq!(file(&control, &files), (true, "/pki/etcd/ca.key 600 root:root".to_owned()));
        files.push(evidence("/pki/b.key", 0o640, false));
        assert_eq!(file(&control, &files), (false, "/pki/b.key 640 root:root".to_owned()));
        assert_eq!(file(&control, &[]), (false, "/pki does not exist".to_owned()), "nobody has seen that it is well");
    }

    #[test]
    fn rules_decide() {
        let evidence = |list: &[&str]| Evidence {
            commands: [("p".to_owned(), args(list)), ("kube-apiserver".to_owned(), args(&["--ca=/a"]))].into(),
            ..Evidence::default()
        };
        for (rule, line, expected) in [
            (Rule::Is("a", "false"), &["--a=false"][..], true),
            (Rule::Is("a", "false"), &[], false),
            (Rule::IsNot("a", "true"), &[], true),
            (Rule::IsNot("a", "true"), &["--a"], false),
            (Rule::Set(&["a", "b"]), &["--a=1", "--b=2"], true),
            (Rule::Set(&["a", "b"]), &["--a=1", "--b="], false),
            (Rule::Unset("a"), &["--b=1"], true),
            (Rule::SetOrOff("a", "b"), &["--a=/f", "--b=true"], true),
            (Rule::SetOrOff("a", "b"), &["--b=false"], true),
            (Rule::SetOrOff("a", "b"), &["--b=true"], false),
            (Rule::SetOrOff("a", "b"), &[], false),
            (Rule::Local("a"), &[], true),
            (Rule::Local("a"), &["--a=127.0.0.1:1"], true),
            (Rule::Local("a"), &["--a=:1"], false),
            (Rule::Local("a"), &["--a=[::]:1"], false),
            (Rule::AtLeast("a", 30), &["--a=30"], true),
            (Rule::AtLeast("a", 30), &["--a=29"], false),
            (Rule::Lists("a", "RBAC"), &["--a=Node,RBAC"], true),
            (Rule::ListsNot("a", "AlwaysAllow"), &["--a=Node,AlwaysAllow"], false),
            (Rule::Strong("a"), &["--a=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], true),
            (Rule::Strong("a"), &["--a=TLS_RSA_WITH_RC4_128_SHA"], false),
            (Rule::Strong("a"), &[], false),
            (Rule::Differ("a", "ca"), &["--a=/b"], true),
            (Rule::Differ("a", "ca"), &["--a=/a"], false),
        ] {
            let control = Command { id: "1", title: "t", on: On::Node, program: "p", rule };
            assert_eq!(command(&control, &evidence(line)).0, expected, "{rule:?} {line:?}");
        }
        let control = Command { id: "1", title: "t", on: On::Node, program: "other", rule: Rule::Unset("a") };
        assert_eq!(command(&control, &evidence(&[])), (false, "other does not run".to_owned()));
    }
}
