//! `spec.certificates`: kinds of keys, how long certificates live, and where the authorities' keys are kept.

use kinit_backup::check_recipient;
use kinit_pki::KeyAlgorithm;
use serde::{Deserialize, Serialize};

use crate::validate::Errors;

/// A hundred years: dates far beyond have no form in a certificate.
const MOST_DAYS: u32 = 36_525;

/// Keys and lives of certificates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificates {
    /// Kind of key. When it is changed leaf certificates are issued anew; authorities keep the key they have until
    /// they are rotated.
    #[serde(default)]
    pub encryption_algorithm: KeyAlgorithm,
    /// Days that a leaf certificate is valid.
    #[serde(default = "leaf_days")]
    pub validity_days: u32,
    /// Days that an authority is valid.
    #[serde(default = "ca_days")]
    pub ca_validity_days: u32,
    /// Where the authorities' keys are kept.
    #[serde(default, skip_serializing_if = "CaKeys::is_default")]
    pub ca_keys: CaKeys,
    /// Whom the authorities' keys on the desk are encrypted for (`age1…`); with a passphrase when there is nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_key_recipients: Vec<String>,
}

/// Where the keys of the three authorities are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CaKeys {
    /// On every control plane: hosts renew certificates, and the cluster signs those of kubelets.
    #[default]
    Hosts,
    /// On the desk, encrypted: whatever has to be signed waits for somebody who opens them.
    Desk,
}

impl CaKeys {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn leaf_days() -> u32 {
    365
}
fn ca_days() -> u32 {
    3650
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            encryption_algorithm: KeyAlgorithm::default(),
            validity_days: leaf_days(),
            ca_validity_days: ca_days(),
            ca_keys: CaKeys::default(),
            ca_key_recipients: Vec::new(),
        }
    }
}

pub(crate) fn validate(certificates: &Certificates, errors: &mut Errors) {
    if certificates.validity_days == 0 || certificates.ca_validity_days < certificates.validity_days {
        errors
            .add("spec.certificates", "validityDays must be at least 1, and caValidityDays no less than validityDays");
    }
    if certificates.ca_validity_days > MOST_DAYS {
        errors.add("spec.certificates.caValidityDays", format!("must be at most {MOST_DAYS}"));
    }
    if certificates.ca_keys == CaKeys::Hosts && !certificates.ca_key_recipients.is_empty() {
        errors.add("spec.certificates.caKeyRecipients", "is for keys on the desk (caKeys: desk)");
    }
    for (i, recipient) in certificates.ca_key_recipients.iter().enumerate() {
        if let Err(error) = check_recipient(recipient) {
            errors.add(format!("spec.certificates.caKeyRecipients[{i}]"), error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    fn errors(certificates: &str) -> String {
        let text = format!("{}\n  certificates: {{{certificates}}}\n", crate::example().trim_end());
        crate::load(&text).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn keys_on_the_desk_have_recipients_or_a_passphrase() {
        let recipient = kinit_backup::new_identity().1;
        for good in ["", "caKeys: hosts", "caKeys: desk", &format!("caKeys: desk, caKeyRecipients: [{recipient}]")] {
            assert_eq!(errors(good), "", "{good}");
        }
        for (bad, words) in [
            ("caKeys: vault", "caKeys"),
            ("caKeys: desk, caKeyRecipients: [age1x]", "caKeyRecipients[0]"),
            (&format!("caKeyRecipients: [{recipient}]"), "is for keys on the desk"),
        ] {
            assert!(errors(bad).contains(words), "{bad}: {}", errors(bad));
        }
    }
}
