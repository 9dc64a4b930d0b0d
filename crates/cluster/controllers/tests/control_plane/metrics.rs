//! What components say of themselves on their secure ports.

use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use crate::harness::{Cluster, Says, eventually, template};

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_scheduling_are_measured() {
    let cluster = Cluster::start("job-controller").await.with_scheduler();
    let _node = cluster.node("n1", |_| Says::Ready).await;
    let mut template = template("a");
    template["spec"]["restartPolicy"] = "Never".into();
    cluster.create::<Job>(json!({"metadata": {"name": "a"}, "spec": {"template": template}})).await;
    eventually("a running pod", async || {
        let status = cluster.pods("a").await.into_iter().next()?.status?;
        (status.phase.as_deref() == Some("Running")).then_some(())
    })
    .await;
    for port in cluster.ports() {
        let url = format!("https://127.0.0.1:{port}/metrics");
        let stranger = cluster.server.stranger().unwrap().build().unwrap();
        assert_eq!(stranger.get(&url).send().await.unwrap().status(), 401, "not for everybody");
        let admin = cluster.server.admin().unwrap().build().unwrap();
        let text = admin.get(&url).send().await.unwrap().text().await.unwrap();
        for metric in [
            "workqueue_adds_total{name=\"job\"}",
            "workqueue_depth{name=\"job\"}",
            "workqueue_queue_duration_seconds_count{name=\"job\"}",
            "workqueue_work_duration_seconds_bucket{le=",
            "workqueue_retries_total{name=\"job\"}",
            "workqueue_unfinished_work_seconds{name=\"job\"}",
            "workqueue_longest_running_processor_seconds{name=\"job\"}",
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}",
            "scheduler_scheduling_attempt_duration_seconds_count{profile=\"default-scheduler\",result=\"scheduled\"}",
            "scheduler_pending_pods{queue=\"active\"}",
        ] {
            assert!(text.contains(metric), "{metric} is missing");
        }
    }
}
