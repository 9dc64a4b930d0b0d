//! Rendering the files of `templates/`.

use serde::Serialize;
use tera::{Context, Tera};

/// A template could not be rendered: a mistake of kinit's, found by the tests.
#[derive(Debug, thiserror::Error)]
#[error("render the template {name}")]
pub struct TemplateError {
    name: &'static str,
    #[source]
    source: tera::Error,
}

macro_rules! templates {
    ($($constant:ident = $file:literal;)*) => {
        $(pub const $constant: (&str, &str) = ($file, include_str!(concat!("../../../../templates/", $file)));)*
    };
}

templates! {
    COMPONENT_SERVICE = "component.service";
    BACKUP_SERVICE = "backup.service";
    BACKUP_TIMER = "backup.timer";
    RENEWAL_SERVICE = "renewal.service";
    RENEWAL_TIMER = "renewal.timer";
    HAPROXY = "haproxy.cfg";
    KEEPALIVED = "keepalived.conf";
    CHECK_HAPROXY = "check-haproxy";
    CONTAINERD = "containerd.toml";
    AUTHENTICATION = "authentication.yaml";
    AUDIT_POLICY = "audit-policy.yaml";
    KUBELET_CONFIG = "kubelet-config.yaml";
}

/// Renders a template; a variable that is not given is an error.
pub fn render(template: (&'static str, &'static str), values: &impl Serialize) -> Result<String, TemplateError> {
    let (name, text) = template;
    let wrap = |source| TemplateError { name, source };
    let mut tera = Tera::new();
    // Nothing here is HTML.
    tera.autoescape_on(Vec::<&str>::new());
    tera.add_raw_template(name, text).map_err(wrap)?;
    tera.render(name, &Context::from_serialize(values).map_err(wrap)?).map_err(wrap)
}
