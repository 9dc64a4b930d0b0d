//! Which controllers run (`--controllers`; names as in `k8s.io/cloud-provider/names`).

use anyhow::{Result, bail};

/// Addresses for Services; the older name is still accepted.
const SERVICE: [&str; 2] = ["service-lb-controller", "service"];

/// Whether the controller of Services is asked for: the last mention of a name counts, else `*`.
pub fn runs_services(flags: &[String]) -> Result<bool> {
    let mut wanted = flags.iter().any(|flag| flag == "*");
    for flag in flags.iter().filter(|flag| *flag != "*") {
        let name = flag.strip_prefix('-').unwrap_or(flag);
        if !SERVICE.contains(&name) {
            bail!("--controllers: {name:?} is not a controller of this program, which has {}", SERVICE[0]);
        }
        wanted = name.len() == flag.len();
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (flags, expected) in [
            (&["*"][..], Some(true)),
            (&["service"], Some(true)),
            (&["*", "-service-lb-controller"], Some(false)),
            (&["-service"], Some(false)),
            (&[], Some(false)),
            (&["*", "cloud-node-controller"], None),
            (&["--service"], None),
        ] {
            let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
            assert_eq!(runs_services(&flags).ok(), expected, "{flags:?}");
        }
    }
}
