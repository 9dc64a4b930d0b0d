//! Small secrets in a file of their own, encrypted as backups are (age): `age -d` opens it.

use std::io::{Read, Write};

use crate::error::Error;
use crate::seal::{Identity, Protection};

/// More than a file of keys ever has.
const MOST: u64 = 1 << 20;

/// Encrypts.
///
/// # Errors
///
/// A recipient that is none, or an empty passphrase; that nothing would be encrypted.
pub fn seal(secret: &[u8], protection: &Protection) -> Result<Vec<u8>, Error> {
    if *protection == Protection::Plain {
        return Err(Error::Key("keys are not kept unencrypted".to_owned()));
    }
    let mut sealed = protection.wrap(Vec::new())?;
    sealed.write_all(secret).map_err(Error::io("encrypt keys"))?;
    sealed.finish().map_err(Error::io("encrypt keys"))
}

/// Decrypts what [`seal`] made.
///
/// # Errors
///
/// What is missing or wrong: an identity, a passphrase, the file.
pub fn unseal(sealed: &[u8], identity: &Identity) -> Result<Vec<u8>, Error> {
    let mut secret = Vec::new();
    let opened = identity.open(sealed)?.take(MOST).read_to_end(&mut secret);
    opened.map_err(|error| Error::Tampered(format!("it does not decrypt to its end ({error})")))?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::new_identity;

    #[test]
    fn only_the_right_identity_or_passphrase_opens_it() {
        let (text, recipient) = new_identity();
        let sealed = seal(b"key", &Protection::Recipients(vec![recipient])).unwrap();
        assert!(!sealed.windows(3).any(|part| part == b"key") && sealed.starts_with(b"age-encryption.org/v1"));
        let mut identity = Identity::default();
        assert!(matches!(unseal(&sealed, &identity), Err(Error::NeedsIdentity)));
        identity.add_file(&new_identity().0).unwrap();
        assert!(matches!(unseal(&sealed, &identity), Err(Error::WrongIdentity)));
        identity.add_file(&text).unwrap();
        assert_eq!(unseal(&sealed, &identity).unwrap(), b"key");
        assert!(unseal(&sealed[..sealed.len() - 1], &identity).is_err());
        assert!(unseal(b"rubbish", &identity).is_err());

        let sealed = seal(b"key", &Protection::Passphrase("correct horse".into())).unwrap();
        assert!(matches!(unseal(&sealed, &Identity::default()), Err(Error::NeedsPassphrase)));
        let mut identity = Identity::default();
        identity.set_passphrase("wrong".into());
        assert!(matches!(unseal(&sealed, &identity), Err(Error::WrongPassphrase)));
        identity.set_passphrase("correct horse".into());
        assert_eq!(unseal(&sealed, &identity).unwrap(), b"key");
        assert!(seal(b"key", &Protection::Plain).is_err());
        assert!(seal(b"key", &Protection::Passphrase(String::new())).is_err());
    }
}
