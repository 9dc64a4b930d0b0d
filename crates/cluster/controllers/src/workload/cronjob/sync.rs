//! Looks at one CronJob and starts, and sweeps up, its Jobs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kinit_client::events::Recorder;
use kinit_client::informer::{Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use super::schedule::Schedule;
use crate::context::Context;
use crate::object::owner::{controller_of, controller_ref};
use crate::object::{ignore_gone, is_status};
use crate::workload::job::is_finished;
use crate::workload::pods::is_terminating;

/// So many missed starts mean that something else is wrong.
const TOO_MANY: usize = 100;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("cronjob-controller").await?;
    let (crons, jobs) = (ctx.store::<CronJob>(), ctx.store::<Job>());
    let queue = Queue::new();
    let (on_cron, on_job) = (queue.clone(), queue.clone());
    crons.on_change(move |change| on_cron.add(key_of(&**change.object())));
    jobs.on_change(move |change| {
        if let Some(owner) = controller_of(&**change.object()).filter(|o| o.kind == "CronJob") {
            on_job.add(format!("{}/{}", change.object().namespace().unwrap_or_default(), owner.name));
        }
    });
    crons.synced().await;
    jobs.synced().await;
    let recorder = ctx.recorder(client.clone(), "cronjob-controller");
    let work = Arc::new(Controller { client, crons, jobs, recorder });
    queue.run("cronjob", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    client: Client,
    crons: Arc<Store<CronJob>>,
    jobs: Arc<Store<Job>>,
    recorder: Recorder,
}

/// The last start that was due and the next one.
fn times(
    schedule: &Schedule,
    zone: &TimeZone,
    since: Timestamp,
    now: Timestamp,
) -> (Option<Timestamp>, usize, Option<Timestamp>) {
    let (mut last, mut count, mut next) = (None, 0, schedule.next(since, zone));
    while let Some(at) = next.filter(|at| *at <= now) {
        last = Some(at);
        count += 1;
        // Far behind: what matters is the most recent start alone.
        let from = if count == TOO_MANY {
            schedule.from(at, now.saturating_sub(SignedDuration::from_hours(1)).unwrap_or(at))
        } else {
            at
        };
        next = schedule.next(from, zone);
    }
    (last, count, next)
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(cron) = self.crons.get(&key).filter(|c| c.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let spec = cron.spec.clone();
        let jobs = self.jobs.controlled_by(cron.metadata.uid.as_deref().unwrap_or_default());
        let mut status = self.observe(&cron, &jobs);
        self.sweep(&cron, &jobs).await?;
        let schedule = match Schedule::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                self.recorder.warning(&*cron, "UnparseableSchedule", format!("unparseable schedule: {error}"));
                return self.write(&cron, status, None).await;
            }
        };
        let zone = match spec.time_zone.as_deref().map(TimeZone::get) {
            None => TimeZone::UTC,
            Some(Ok(zone)) => zone,
            Some(Err(error)) => {
                self.recorder.warning(&*cron, "UnknownTimeZone", format!("invalid timeZone: {error}"));
                return self.write(&cron, status, None).await;
            }
        };
        if spec.suspend == Some(true) {
            return self.write(&cron, status, None).await;
        }
        let now = Timestamp::now();
        let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let mut since = status.last_schedule_time.as_ref().map_or(created, |t| t.0);
        let patience = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
        if let Some(earliest) = patience.and_then(|p| now.checked_sub(p).ok()) {
            since = schedule.from(since, earliest);
        }
        let (due, missed, next) = times(&schedule, &zone, since, now);
        if missed >= TOO_MANY {
            self.recorder.warning(&*cron, "TooManyMissedTimes", format!("too many missed start times: {missed}"));
        }
        let wait =
            next.and_then(|at| Duration::try_from(at.duration_since(now)).ok()).map(|w| w + Duration::from_millis(100));
        if let Some(at) = due {
            self.start(&cron, &jobs, at, &mut status).await?;
        }
        self.write(&cron, status, wait).await
    }

    /// Which of its Jobs run, and when one last succeeded.
    fn observe(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> CronJobStatus {
        let mut status = cron.status.clone().unwrap_or_default();
        let mut active: Vec<ObjectReference> = Vec::new();
        for job in jobs {
            if !is_finished(job) {
                active.push(reference(job));
            }
            let ended = job.status.as_ref().and_then(|s| s.completion_time.clone());
            if ended > status.last_successful_time {
                status.last_successful_time = ended;
            }
        }
        active.sort_by(|a, b| a.name.cmp(&b.name));
        status.active = (!active.is_empty()).then_some(active);
        status
    }

    async fn start(&self, cron: &CronJob, jobs: &[Arc<Job>], at: Timestamp, status: &mut CronJobStatus) -> Result<()> {
        let spec = &cron.spec;
        let namespace = cron.namespace().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        let running: Vec<&Arc<Job>> = jobs.iter().filter(|j| !is_finished(j)).collect();
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let note = "Not starting job because prior execution is running and concurrency policy is Forbid";
                self.recorder.normal(cron, "JobAlreadyActive", note);
                return Ok(());
            }
            Some("Replace") => {
                for job in running {
                    ignore_gone(api.delete(&job.name_any(), &DeleteParams::background()).await)
                        .context("replace a job")?;
                    self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name_any()));
                }
                status.active = None;
            }
            _ => {}
        }
        let name = format!("{}-{}", cron.name_any(), at.as_second() / 60);
        let meta = spec.job_template.metadata.clone().unwrap_or_default();
        let mut annotations: BTreeMap<String, String> = meta.annotations.unwrap_or_default();
        annotations.insert("batch.kubernetes.io/cronjob-scheduled-timestamp".into(), at.to_string());
        let job = Job {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_ref(cron)]),
                ..Default::default()
            },
            spec: spec.job_template.spec.clone(),
            status: None,
        };
        match api.create(&PostParams::default(), &job).await {
            Ok(created) => {
                self.recorder.normal(cron, "SuccessfulCreate", format!("Created job {name}"));
                status.active.get_or_insert_default().push(reference(&created));
            }
            // Started in an earlier pass whose status was not written.
            Err(error) if is_status(&error, 409) => {}
            Err(error) if is_terminating(&error) => return Ok(()),
            Err(error) => {
                self.recorder.warning(cron, "FailedCreate", format!("Error creating job: {error}"));
                return Err(error).with_context(|| format!("create job {name}"));
            }
        }
        status.last_schedule_time = Some(Time(at));
        Ok(())
    }

    /// Deletes finished Jobs beyond the history limits, oldest first.
    async fn sweep(&self, cron: &CronJob, jobs: &[Arc<Job>]) -> Result<()> {
        let spec = &cron.spec;
        let api: Api<Job> = Api::namespaced(self.client.clone(), split_key(&key_of(cron)).0);
        let ended_well = |j: &Job| j.status.as_ref().is_some_and(|s| s.completion_time.is_some());
        for (well, limit) in [
            (true, spec.successful_jobs_history_limit.unwrap_or(3)),
            (false, spec.failed_jobs_history_limit.unwrap_or(1)),
        ] {
            let mut over: Vec<&Arc<Job>> = jobs
                .iter()
                .filter(|j| is_finished(j) && ended_well(j) == well && j.metadata.deletion_timestamp.is_none())
                .collect();
            over.sort_by_key(|j| (j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0), j.name_any()));
            let excess = over.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
            for job in over.into_iter().take(excess) {
                ignore_gone(api.delete(&job.name_any(), &DeleteParams::background()).await)
                    .context("delete an old job")?;
                self.recorder.normal(cron, "SuccessfulDelete", format!("Deleted job {}", job.name_any()));
            }
        }
        Ok(())
    }

    async fn write(&self, cron: &CronJob, status: CronJobStatus, again: Option<Duration>) -> Result<Option<Duration>> {
        if cron.status.clone().unwrap_or_default() != status {
            let api: Api<CronJob> = Api::namespaced(self.client.clone(), &cron.namespace().unwrap_or_default());
            let wanted = CronJob { status: Some(status), ..cron.clone() };
            ignore_gone(api.replace_status(&cron.name_any(), &PostParams::default(), &wanted).await)
                .context("write the status")?;
        }
        Ok(again)
    }
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        ..Default::default()
    }
}
