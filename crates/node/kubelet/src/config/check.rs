//! What a configuration may not say.

use anyhow::{Context, Result, ensure};

use super::KubeletConfig;

impl KubeletConfig {
    pub(super) fn validate(&self) -> Result<()> {
        self.check_addresses()?;
        self.check_reservations()?;
        self.check_rates()?;
        ensure!(
            matches!(self.cgroup_driver.as_str(), "systemd" | "cgroupfs"),
            "cgroupDriver {:?} is neither systemd nor cgroupfs",
            self.cgroup_driver
        );
        crate::evict::check(&self.eviction_hard).map_err(|e| anyhow::anyhow!(e))?;
        let high = self.image_gc_high_threshold_percent.unwrap_or(85);
        let low = self.image_gc_low_threshold_percent.unwrap_or(80);
        ensure!(
            high <= 100 && low < high,
            "imageGCLowThresholdPercent {low} is not below imageGCHighThresholdPercent {high}, or that is above 100"
        );
        ensure!(
            self.image_maximum_gc_age.is_zero() || self.image_maximum_gc_age > self.image_minimum_gc_age,
            "imageMaximumGCAge is not above imageMinimumGCAge"
        );
        ensure!(
            self.authorization.mode == "Webhook",
            "authorization.mode {:?} is refused: only Webhook authorizes",
            self.authorization.mode
        );
        ensure!(
            self.authentication.anonymous.enabled != Some(true),
            "authentication.anonymous.enabled true is refused: every request must say who it comes from"
        );
        ensure!(
            self.tls_cert_file.is_empty() == self.tls_private_key_file.is_empty(),
            "tlsCertFile and tlsPrivateKeyFile belong together"
        );
        self.tls().server().context("tlsCipherSuites and tlsMinVersion")?;
        ensure!(
            !self.server_tls_bootstrap || self.tls_cert_file.is_empty(),
            "serverTLSBootstrap and tlsCertFile exclude each other"
        );
        Ok(())
    }

    fn check_addresses(&self) -> Result<()> {
        for (field, address) in [("address", &self.address), ("healthzBindAddress", &self.healthz_bind_address)] {
            let good = address.is_empty() || address.parse::<std::net::IpAddr>().is_ok();
            ensure!(good, "{field} {address:?} is not an IP address");
        }
        Ok(())
    }

    fn check_reservations(&self) -> Result<()> {
        for (field, list) in [("systemReserved", &self.system_reserved), ("kubeReserved", &self.kube_reserved)] {
            for (resource, amount) in list {
                ensure!(
                    matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid"),
                    "{field}: {resource:?} cannot be reserved (cpu, memory, ephemeral-storage or pid)"
                );
                let good = crate::quantity::milli(amount).is_some_and(|a| a >= 0);
                ensure!(good, "{field}: {resource}: {amount:?} is not an amount");
            }
        }
        let enforced = self.enforce_node_allocatable.iter().flatten();
        for what in enforced.clone() {
            ensure!(
                matches!(what.as_str(), "pods" | "none"),
                "enforceNodeAllocatable: {what:?} is not implemented (allowed: pods, none)"
            );
        }
        ensure!(
            enforced.clone().count() < 2 || !enforced.clone().any(|w| w == "none"),
            "enforceNodeAllocatable: none stands alone"
        );
        Ok(())
    }

    fn check_rates(&self) -> Result<()> {
        for (field, number) in [
            ("registryPullQPS", self.registry_pull_qps.unwrap_or(0)),
            ("registryBurst", self.registry_burst),
            ("eventRecordQPS", self.event_record_qps.unwrap_or(0)),
            ("eventBurst", self.event_burst),
        ] {
            ensure!(number >= 0, "{field} {number} is negative");
        }
        ensure!(self.max_open_files > 0, "maxOpenFiles {} is not above 0", self.max_open_files);
        let score = self.oom_score_adj.unwrap_or(-999);
        ensure!((-1000..=1000).contains(&score), "oomScoreAdj {score} is not within -1000 and 1000");
        let parallel = self.max_parallel_image_pulls;
        ensure!(parallel.is_none_or(|n| n > 0), "maxParallelImagePulls is not above 0");
        ensure!(
            parallel.is_none_or(|n| n == 1) || self.serialize_image_pulls == Some(false),
            "maxParallelImagePulls above 1 needs serializeImagePulls: false"
        );
        Ok(())
    }
}
