//! `/healthz`, `/livez`, `/readyz` as upstream answers them (`k8s.io/apiserver/pkg/server/healthz`).

use std::sync::Arc;

use parking_lot::RwLock;

type CheckFn = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Named checks behind one path. Cheap to clone; checks run in the order they were added.
#[derive(Clone, Default)]
pub struct Checks(Arc<RwLock<Vec<(String, CheckFn)>>>);

/// What to answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 500.
    pub status: u16,
    /// `text/plain; charset=utf-8` body.
    pub body: String,
}

impl Checks {
    /// A list that holds upstream's `ping` check, which always passes.
    pub fn with_ping() -> Self {
        let checks = Self::default();
        checks.add("ping", || Ok(()));
        checks
    }

    /// Adds a check; `Err` carries a reason that is logged but shown to callers only as "reason withheld".
    pub fn add(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.write().push((name.to_owned(), Arc::new(check)));
    }

    /// Answers `/NAME`, `/NAME?verbose` and `?exclude=CHECK`; `only` restricts to one check (`/NAME/CHECK`), `None` if
    /// there is none of that name.
    pub fn answer(&self, path_name: &str, query: &str, only: Option<&str>) -> Option<Answer> {
        let excluded: Vec<&str> = query.split('&').filter_map(|p| p.strip_prefix("exclude=")).collect();
        let verbose = query.split('&').any(|p| p == "verbose" || p.starts_with("verbose="));
        let checks = self.0.read().clone();
        if only.is_some_and(|name| !checks.iter().any(|(n, _)| n == name)) {
            return None;
        }
        let mut lines = String::new();
        let mut failed = false;
        for (name, check) in checks.iter().filter(|(n, _)| only.is_none_or(|o| o == n)) {
            if excluded.contains(&name.as_str()) {
                lines.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check() {
                Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
                Err(reason) => {
                    failed = true;
                    tracing::warn!(check = name, reason, "{path_name} check failed");
                    lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
                }
            }
        }
        Some(match (failed, verbose) {
            (true, _) => Answer { status: 500, body: format!("{lines}{path_name} check failed\n") },
            (false, true) => Answer { status: 200, body: format!("{lines}{path_name} check passed\n") },
            (false, false) => Answer { status: 200, body: "ok".to_owned() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_upstream_does() {
        let checks = Checks::with_ping();
        assert_eq!(checks.answer("readyz", "", None), Some(Answer { status: 200, body: "ok".into() }));
        let verbose = checks.answer("readyz", "verbose", None).unwrap();
        assert_eq!(verbose.body, "[+]ping ok\nreadyz check passed\n");
        checks.add("etcd", || Err("no leader".into()));
        let failed = checks.answer("readyz", "", None).unwrap();
        assert_eq!((failed.status, failed.body.contains("no leader")), (500, false));
        assert_eq!(checks.answer("readyz", "exclude=etcd", None).unwrap().status, 200);
        assert_eq!(checks.answer("readyz", "", Some("ping")).unwrap().status, 200);
        assert_eq!(checks.answer("readyz", "", Some("nope")), None);
    }
}
