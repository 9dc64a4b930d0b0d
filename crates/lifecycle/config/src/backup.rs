//! `spec.backup`: who can open backups, how often they are made, where they go, and how many stay.

use kinit_backup::{Retention, check_recipient};
use serde::{Deserialize, Serialize};

use crate::syntax::{is_label_value, is_plain_path};
use crate::validate::Errors;

/// Backups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backup {
    /// Who can open them: recipients of age (`age1...`); `kinit backup new-identity FILE` makes one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// When control planes make one by themselves: systemd's OnCalendar (`hourly`, `daily`, `*-*-* 00/6:00:00`).
    /// Default never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// How many stay, of each target. Default all.
    #[serde(default, skip_serializing_if = "Retention::keeps_all")]
    pub retention: Retention,
    /// Where scheduled ones go; each gets every backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<BackupTarget>,
    /// How fast scheduled ones are sent to each target, in KiB a second (as `rsync --bwlimit`). Default as fast as it
    /// goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_kib_per_second: Option<u32>,
}

/// Slower, and a run of two hours (`kinit-backup.service`) would not suffice for 2 GB.
const SLOWEST: u32 = 256;

/// Where backups go. One of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum BackupTarget {
    /// A folder on the control planes: a mounted share, or each host's own disk.
    Directory(String),
    /// Storage that speaks S3.
    S3(S3),
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// Where it is, `https://s3.example.org`. Default AWS in `region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Default `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What objects' names begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// File on the control planes with the two lines `access_key_id=...` and `secret_access_key=...`, readable by root
    /// alone.
    pub credentials_file: String,
}

pub(crate) fn validate(backup: &Backup, errors: &mut Errors) {
    for (i, recipient) in backup.recipients.iter().enumerate() {
        if let Err(error) = check_recipient(recipient) {
            errors.add(format!("spec.backup.recipients[{i}]"), error.to_string());
        }
    }
    if let Some(schedule) = &backup.schedule {
        if !is_calendar(schedule) {
            errors.add("spec.backup.schedule", format!("{schedule:?} is no OnCalendar expression of systemd.time(7)"));
        }
        if backup.recipients.is_empty() {
            let message = "is needed for a schedule: who is to open the backups? `kinit backup new-identity FILE` makes an identity and prints its recipient";
            errors.add("spec.backup.recipients", message);
        }
        if backup.targets.is_empty() {
            errors.add("spec.backup.targets", "is needed for a schedule: where are the backups to go?");
        }
    }
    if let Some(rate) = backup.upload_kib_per_second.filter(|rate| *rate < SLOWEST) {
        errors.add("spec.backup.uploadKibPerSecond", format!("{rate} is less than {SLOWEST}"));
    }
    for (i, target) in backup.targets.iter().enumerate() {
        match target {
            BackupTarget::Directory(path) if !is_plain_path(path) => {
                let message = format!("{path:?} is not an absolute path of letters, digits, `-`, `_`, `.`");
                errors.add(format!("spec.backup.targets[{i}].directory"), message);
            }
            BackupTarget::Directory(_) => {}
            BackupTarget::S3(s3) => bucket(s3, &format!("spec.backup.targets[{i}].s3"), errors),
        }
    }
}

fn bucket(s3: &S3, path: &str, errors: &mut Errors) {
    if s3.bucket.len() < 3 || !is_label_value(&s3.bucket) {
        errors.add(format!("{path}.bucket"), format!("{:?} is no name of a bucket", s3.bucket));
    }
    if !is_plain_path(&s3.credentials_file) {
        errors.add(format!("{path}.credentialsFile"), "is not an absolute path of letters, digits, `-`, `_`, `.`");
    }
    if let Some(endpoint) = &s3.endpoint
        && (!(endpoint.starts_with("https://") || endpoint.starts_with("http://"))
            || endpoint.contains(|c: char| c.is_whitespace() || c.is_control()))
    {
        errors.add(format!("{path}.endpoint"), format!("{endpoint:?} is no URL (https://HOST[:PORT])"));
    }
    if let Some(prefix) = &s3.prefix
        && !is_plain_path(&format!("/{prefix}"))
    {
        errors.add(format!("{path}.prefix"), format!("{prefix:?} is not of letters, digits, `-`, `_`, `.` and `/`"));
    }
    if s3.region.as_ref().is_some_and(|region| region.is_empty() || !is_label_value(region)) {
        errors.add(format!("{path}.region"), "is no name of a region");
    }
}

/// What may stand in a unit file as OnCalendar. systemd itself reads it; this keeps out what would be another line.
fn is_calendar(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || " *-:,./~_+".contains(c);
    let words = ["minutely", "hourly", "daily", "weekly", "monthly", "yearly", "quarterly", "semiannually"];
    let is_word = text.chars().all(|c| c.is_ascii_lowercase());
    (1..=100).contains(&text.len()) && text.chars().all(plain) && (!is_word || words.contains(&text))
}

#[cfg(test)]
mod tests {
    use crate::load::{example, load, print};

    const GOOD: &str = "  backup:\n    recipients: [RECIPIENT]\n    schedule: '*-*-* 00/6:00:00'\n    retention: {last: 3, daily: 7}\n    targets:\n    - directory: /var/backups/kinit\n    - s3: {bucket: backups, endpoint: 'https://s3.example.org', credentialsFile: /etc/kubernetes/s3}\n  hosts:";

    fn with(from: &str, to: &str) -> Result<crate::Cluster, String> {
        let recipient = kinit_backup::new_identity().1;
        let section = GOOD.replacen(from, to, 1).replace("RECIPIENT", &recipient);
        load(&example().replacen("  hosts:", &section, 1)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_schedule_needs_recipients_and_targets_that_can_be() {
        let cluster = with("", "").unwrap();
        assert_eq!(load(&print(&cluster).unwrap()).unwrap(), cluster);
        for (from, to, expected) in [
            ("[RECIPIENT]", "[]", "spec.backup.recipients: is needed"),
            ("[RECIPIENT]", "[age1rubbish]", "spec.backup.recipients[0]: \"age1rubbish\" is no recipient"),
            ("'*-*-* 00/6:00:00'", "sometimes", "spec.backup.schedule: \"sometimes\""),
            ("'*-*-* 00/6:00:00'", "\"daily\\nExecStart=x\"", "spec.backup.schedule"),
            ("/var/backups/kinit", "backups", "spec.backup.targets[0].directory"),
            ("https://s3", "s3", "spec.backup.targets[1].s3.endpoint"),
            ("bucket: backups", "bucket: 'a b'", "spec.backup.targets[1].s3.bucket"),
            ("daily: 7", "dayly: 7", "unknown field `dayly`"),
            ("directory:", "folder:", "unknown variant `folder`"),
            (
                "    targets:",
                "    uploadKibPerSecond: 255\n    targets:",
                "spec.backup.uploadKibPerSecond: 255 is less",
            ),
        ] {
            let error = with(from, to).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
