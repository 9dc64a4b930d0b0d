//! Backups on schedule: a timer on every control plane, and what it starts.

use kinit_config::{Backup, BackupTarget, Cluster, HostSpec};
use kinit_resource::{Content, FileSpec, Resource, UnitState};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::phase::Phase;
use crate::template::{self, TemplateError};

const CONFIG: &str = "/etc/kubernetes/backup.json";
const UNITS: &str = "/etc/systemd/system/kinit-backup";

/// What a control plane has for it; nothing without a schedule.
pub(crate) fn scheduled(
    cluster: &Cluster,
    host: &HostSpec,
    bundle: &Bundle,
) -> Result<Vec<(Phase, Resource)>, TemplateError> {
    #[derive(Serialize)]
    struct Values<'a> {
        exec: String,
        schedule: &'a str,
    }
    let Some(backup) = &cluster.spec.backup else { return Ok(Vec::new()) };
    let Some(schedule) = &backup.schedule else { return Ok(Vec::new()) };
    let program = bundle.kinit_path();
    let values = Values { exec: format!("{program} host-backup {CONFIG}"), schedule };
    let file = |path: String, mode: u32, text: String| {
        let (owner, content) = ("root:root".to_owned(), Content::Text(text));
        (Phase::ControlPlane, Resource::File(FileSpec { path, mode, owner, content, unless_exists: None }))
    };
    let timer = format!("{UNITS}.timer");
    let state = UnitState::Running { reads: vec![timer.clone()], reloads: false };
    Ok(vec![
        (Phase::Binaries, Resource::Blob { path: program, sha256: bundle.kinit.clone(), mode: 0o755 }),
        file(CONFIG.to_owned(), 0o600, format!("{:#}\n", config(cluster, host, backup, schedule))),
        file(format!("{UNITS}.service"), 0o644, template::render(template::BACKUP_SERVICE, &values)?),
        file(timer, 0o644, template::render(template::BACKUP_TIMER, &values)?),
        (Phase::ControlPlane, Resource::Unit { name: "kinit-backup.timer".to_owned(), state }),
    ])
}

/// What the agent reads there (`kinit_agent::Scheduled`).
fn config(cluster: &Cluster, host: &HostSpec, backup: &Backup, schedule: &str) -> Value {
    let target = |target: &BackupTarget| match target {
        BackupTarget::Directory(path) => json!({ "directory": path }),
        BackupTarget::S3(s3) => json!({ "s3": s3 }),
    };
    json!({
        "cluster": cluster.metadata.name,
        "host": host.name,
        "kubernetes": cluster.kubernetes_version(),
        "schedule": schedule,
        "recipients": backup.recipients,
        "retention": backup.retention,
        "targets": backup.targets.iter().map(target).collect::<Vec<_>>(),
        "uploadKibPerSecond": backup.upload_kib_per_second,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_planes_have_a_timer_while_there_is_a_schedule() {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        let bundle = Bundle::sample();
        let host = cluster.spec.hosts[1].clone();
        assert!(scheduled(&cluster, &host, &bundle).unwrap().is_empty());
        let targets = vec![BackupTarget::Directory("/var/backups/kinit".into())];
        let schedule = Some("*-*-* 00/6:00:00".into());
        let backup = Backup { schedule, targets, upload_kib_per_second: Some(512), ..Backup::default() };
        cluster.spec.backup = Some(backup);
        let list = scheduled(&cluster, &host, &bundle).unwrap();
        let text = |name: &str| {
            let found = list.iter().find_map(|(_, resource)| match resource {
                Resource::File(FileSpec { path, content: Content::Text(text), .. }) if path.ends_with(name) => {
                    Some(text)
                }
                _ => None,
            });
            found.unwrap().clone()
        };
        assert!(text(".timer").contains("OnCalendar=*-*-* 00/6:00:00\n"), "{}", text(".timer"));
        let exec = "ExecStart=/usr/local/lib/kinit/kinit-cdcdcdcdcdcd host-backup /etc/kubernetes/backup.json\n";
        assert!(text(".service").contains(exec), "{}", text(".service"));
        let config: Value = serde_json::from_str(&text("backup.json")).unwrap();
        assert_eq!(config["uploadKibPerSecond"], 512);
        assert_eq!(
            (&config["host"], &config["targets"][0]["directory"]),
            (&"cp1".into(), &"/var/backups/kinit".into())
        );
    }
}
