//! What must not leave a cluster is taken out of what others are shown: keys, tokens, passwords, the data of Secrets.
//! What is public stays, or nobody could find anything by it: certificates, hashes, names, paths.

use std::sync::LazyLock;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use regex::{Captures, Regex};
use serde_json::Value;

/// What stands in a secret's place.
pub const REDACTED: &str = "REDACTED";

/// Names of fields whose text is a secret, in lower case and without dashes and underscores.
const FIELDS: &[&str] = &[
    "accesskey",
    "accesskeyid",
    "auth",
    "authorization",
    "bearertoken",
    "bootstraptoken",
    "certificatekey",
    "clientkeydata",
    "clientsecret",
    "keydata",
    "passphrase",
    "password",
    "privatekey",
    "secret",
    "secretaccesskey",
    "secretkey",
    "sessiontoken",
    "token",
    "tokensecret",
];

/// An annotation with an object as somebody applied it, environment and all.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn is_secret_field(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_ascii_lowercase();
    FIELDS.contains(&plain.as_str())
}

/// Patterns, each with what takes its place.
fn patterns() -> Option<&'static [(Regex, &'static str)]> {
    static PATTERNS: LazyLock<Result<Vec<(Regex, &'static str)>, regex::Error>> = LazyLock::new(|| {
        [
            (r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)", "REDACTED"),
            (r"AGE-SECRET-KEY-1[A-Z0-9]+", "REDACTED"),
            // JSON Web Tokens, and bootstrap tokens (token-id.token-secret).
            (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "REDACTED"),
            (r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", "REDACTED"),
            (r"(?i)\b(authorization: *)[^\r\n]+", "${1}REDACTED"),
            (r"(?i)\b(bearer +)[A-Za-z0-9._~+/=-]{8,}", "${1}REDACTED"),
            (r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s:@]*:[^/\s@]+@", "${1}REDACTED@"),
            // A flag's value, unless it is a file's name.
            (
                r#"(?i)(--[a-z0-9-]*(?:token|password|passphrase|secret|certificate-key|private-key)(?:=|\s+))[^\s/"@-][^\s"]*"#,
                "${1}REDACTED",
            ),
        ]
        .into_iter()
        .map(|(pattern, with)| Ok((Regex::new(pattern)?, with)))
        .collect()
    });
    PATTERNS.as_ref().ok().map(Vec::as_slice)
}

/// `name: value`, `name = value`, `"name": "value"`, anywhere in a line.
fn fields() -> Option<&'static Regex> {
    static FIELD: LazyLock<Result<Regex, regex::Error>> = LazyLock::new(|| {
        Regex::new(
            r#"(?P<head>"?(?P<name>[A-Za-z][A-Za-z_-]{2,30})\\?"?\s*[:=][ \t]*)(?P<value>\\?"(?:[^"\\]|\\[^"])*\\?"|'[^']*'|[^\s,{}\[\]"']+)"#,
        )
    });
    FIELD.as_ref().ok()
}

/// Runs of base64 that are long enough for a key.
fn encoded() -> Option<&'static Regex> {
    static ENCODED: LazyLock<Result<Regex, regex::Error>> = LazyLock::new(|| Regex::new("[A-Za-z0-9+/_-]{40,}={0,2}"));
    ENCODED.as_ref().ok()
}

/// Whether a text in base64 hides a private key. Its end may be cut off.
fn hides_key(text: &str) -> bool {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let plain = text.trim_end_matches('=');
    let whole = plain.get(..plain.len() / 4 * 4).unwrap_or_default();
    [alphabet::STANDARD, alphabet::URL_SAFE].iter().any(|alphabet| {
        let decoded = GeneralPurpose::new(alphabet, config).decode(whole).unwrap_or_default();
        decoded.windows(11).any(|window| window == b"PRIVATE KEY")
    })
}

/// A text without its secrets. Should a pattern not compile, nothing of the text is shown.
pub fn redact(text: &str) -> String {
    let (Some(patterns), Some(fields), Some(encoded)) = (patterns(), fields(), encoded()) else {
        return REDACTED.to_owned();
    };
    let mut text = text.to_owned();
    for (pattern, with) in patterns {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    let field = |found: &Captures<'_>| {
        let (head, name, value) = (&found["head"], &found["name"], &found["value"]);
        let kept = value.trim_matches(['"', '\'', '\\']);
        match is_secret_field(name) && !kept.is_empty() && !kept.starts_with('/') {
            true => format!("{head}{}", value.replace(kept, REDACTED)),
            false => format!("{head}{value}"),
        }
    };
    text = fields.replace_all(&text, field).into_owned();
    let key = |found: &Captures<'_>| if hides_key(&found[0]) { REDACTED.to_owned() } else { found[0].to_owned() };
    encoded.replace_all(&text, key).into_owned()
}

/// The same of a structured value, by the names of its fields.
pub fn redact_value(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact(text),
        Value::Array(list) => list.iter_mut().for_each(redact_value),
        Value::Object(object) => {
            if object.get("kind").and_then(Value::as_str) == Some("Secret") {
                object.retain(|name, _| !matches!(name.as_str(), "data" | "stringData"));
            }
            object.remove(LAST_APPLIED);
            for (name, value) in object.iter_mut() {
                match value {
                    Value::Array(list) if name == "env" => list.iter_mut().for_each(hide_variable),
                    Value::String(text) if is_secret_field(name) && !text.is_empty() => {
                        *text = REDACTED.to_owned();
                    }
                    _ => {}
                }
                redact_value(value);
            }
        }
        _ => {}
    }
}

/// What a container's environment holds is its owner's affair.
fn hide_variable(variable: &mut Value) {
    if let Some(value) = variable.get_mut("value").filter(|value| value.as_str().is_some_and(|text| !text.is_empty())) {
        *value = Value::from(REDACTED);
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;

    const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIs\nAwEHoUQD\n-----END EC PRIVATE KEY-----\n";

    #[test]
    fn secrets_are_taken_out_of_texts() {
        let kubeconfig = STANDARD.encode(KEY);
        let table = [
            (format!("a\n{KEY}b"), "MHcCAQ"),
            ("-----BEGIN PRIVATE KEY-----\nMHcCAQcutoff".to_owned(), "MHcCAQ"),
            (format!("    client-key-data: {kubeconfig}\n"), &kubeconfig),
            (format!("log: wrote {kubeconfig} somewhere"), &kubeconfig),
            (format!("{{\"client-key-data\": \"{kubeconfig}\"}}"), &kubeconfig),
            ("token: abcdef.0123456789abcdef".to_owned(), "0123456789abcdef"),
            ("joined with abcdef.0123456789abcdef today".to_owned(), "0123456789abcdef"),
            ("Authorization: Basic dXNlcjpwYXNz".to_owned(), "dXNlcjpwYXNz"),
            ("sent Bearer abcdefgh12345678".to_owned(), "abcdefgh12345678"),
            ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl".to_owned(), "eyJzdWIi"),
            (
                "providers:\n- aescbc:\n    keys:\n    - name: k1\n      secret: c2VjcmV0IGlzIHNlY3VyZQ==".to_owned(),
                "c2VjcmV0",
            ),
            ("secretAccessKey: \"wJalrXUtnFEMI/K7MDENG\"".to_owned(), "wJalr"),
            ("  password = hunter2".to_owned(), "hunter2"),
            ("{\\\"password\\\": \\\"hunter2\\\"}".to_owned(), "hunter2"),
            ("https://user:hunter2@store.example/bucket".to_owned(), "hunter2"),
            ("kubelet --token=hunter2 --v=2".to_owned(), "hunter2"),
            ("kinit join --certificate-key 0123abcd --yes".to_owned(), "0123abcd"),
            ("AGE-SECRET-KEY-1QQQQQQQQ".to_owned(), "QQQQ"),
        ];
        for (text, secret) in table {
            let redacted = redact(&text);
            assert!(!redacted.contains(secret) && redacted.contains(REDACTED), "{text:?} -> {redacted:?}");
            assert_eq!(redact(&redacted), redacted, "a second time changes nothing");
        }
    }

    #[test]
    fn what_is_public_stays() {
        let certificate = STANDARD
            .encode("-----BEGIN CERTIFICATE-----\nMIIBsomething that is long enough\n-----END CERTIFICATE-----\n");
        for text in [
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            &format!("certificate-authority-data: {certificate}"),
            "--tls-private-key-file=/etc/kubernetes/pki/apiserver.key --v=2",
            "--service-account-signing-key-file=/etc/kubernetes/pki/sa.key",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "token: \"\"",
            "key: /etc/kubernetes/pki/etcd/server.key",
            "secretName: registry",
            "key: /registry/minions, identity=cp1_0f8fad5b",
            "labels:{key:\"io.kubernetes.pod.name\"}",
            "etcd v3.5.16 at https://10.77.0.11:2379",
            "Started kubelet.service - Kubernetes kubelet.",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn objects_lose_their_secrets_and_keep_the_rest() {
        let mut list = json!({ "items": [
            { "kind": "Secret", "metadata": { "name": "s" }, "data": { "a": "aHVudGVyMg==" }, "stringData": { "b": "hunter2" } },
            { "kind": "Pod", "metadata": { "annotations": { LAST_APPLIED: "{hunter2}" } }, "spec": { "containers": [{
                "env": [{ "name": "DB", "value": "hunter2" }, { "name": "REF", "valueFrom": { "secretKeyRef": { "name": "s", "key": "a" } } }],
                "args": ["--password=hunter2"],
            }], "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists" }] } },
            { "kind": "ConfigMap", "data": { "c.yaml": "x: 1\npassword: hunter2\n" } },
            { "users": [{ "user": { "token": "hunter2" } }] },
        ] });
        redact_value(&mut list);
        let text = list.to_string();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        for kept in ["\"name\":\"s\"", "\"key\":\"a\"", "node.kubernetes.io/not-ready", "\"name\":\"DB\"", "x: 1"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }
}
