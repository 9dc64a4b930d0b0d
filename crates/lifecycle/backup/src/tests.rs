//! The whole file: written, read, and spoilt in every way.

use time::OffsetDateTime;

use super::*;

struct Made {
    bytes: Vec<u8>,
    manifest: Manifest,
    identity: String,
    snapshot: Vec<u8>,
}

fn members(ca: &kinit_pki::Pair, snapshot: &[u8]) -> Vec<Member> {
    vec![
        Member::bytes("pki/ca.crt", 0o644, ca.cert.as_bytes()),
        Member::bytes("pki/ca.key", 0o600, ca.key.as_bytes()),
        Member::bytes("cluster.yaml", 0o600, &b"kind: Cluster\n"[..]),
        Member::bytes(SNAPSHOT, 0o600, snapshot),
    ]
}

fn authority() -> kinit_pki::Pair {
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    kinit_pki::new_authority("kubernetes", kinit_pki::KeyAlgorithm::EcdsaP256, 10, now).unwrap()
}

fn draft(ca: &kinit_pki::Pair) -> Manifest {
    Manifest {
        format: FORMAT,
        cluster: ClusterId { name: "c".into(), authority: kinit_pki::public_key_hash(&ca.cert).unwrap() },
        created: "2026-11-29T03:35:00Z".into(),
        host: "cp1".into(),
        kinit: "0.1.0".into(),
        kubernetes: "v1.36.0".into(),
        etcd: EtcdState::default(),
        proof: None,
        signer: String::new(),
        signed_by: Anchor::Authority,
        files: Vec::new(),
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn made(plain: bool) -> Made {
    let ca = authority();
    let (identity, recipient) = new_identity();
    let protection = if plain { Protection::Plain } else { Protection::Recipients(vec![recipient]) };
    let snapshot = noise(300_000);
    let signer = Signer::derive(Anchor::Authority, &ca.key).unwrap();
    let (manifest, bytes) = write(Vec::new(), draft(&ca), &members(&ca, &snapshot), &signer, &protection).unwrap();
    Made { bytes, manifest, identity, snapshot }
}

fn keys(identity: &str) -> Keys {
    let mut keys = Keys::default();
    keys.identity.add_file(identity).unwrap();
    keys
}

fn open(bytes: &[u8], keys: &Keys) -> Result<Vec<u8>, Error> {
    let mut snapshot = Vec::new();
    read(bytes, keys, &mut |_, entry, content| {
        if entry.path == SNAPSHOT {
            content.read_to_end(&mut snapshot).unwrap_or_default();
        }
        Ok(())
    })
    .map(|_| snapshot)
}

#[test]
fn what_was_written_is_read() {
    for plain in [false, true] {
        let made = made(plain);
        assert!(plain || made.bytes.windows(4).all(|w| w != b"kind"));
        assert_eq!(open(&made.bytes, &keys(&made.identity)).unwrap(), made.snapshot);
        let (manifest, small) = read_small(made.bytes.as_slice(), &keys(&made.identity)).unwrap();
        assert_eq!(manifest, made.manifest);
        assert_eq!(small["cluster.yaml"], b"kind: Cluster\n");
        assert_eq!(small.len(), 3);
    }
}

#[test]
fn truncated_at_any_place_it_is_told_so() {
    for plain in [false, true] {
        let made = made(plain);
        for cut in [0, 10, 150, 1000, 70_000, 131_072, made.bytes.len() - 20, made.bytes.len() - 1] {
            let error = open(&made.bytes[..cut], &keys(&made.identity)).unwrap_err();
            assert!(error.to_string().contains("truncated"), "plain {plain}, cut at {cut}: {error:?}");
        }
    }
}

#[test]
fn a_changed_byte_anywhere_is_found() {
    for plain in [false, true] {
        let made = made(plain);
        for place in [30, 180, 400, 5000, 100_000, made.bytes.len() - 10] {
            let mut bytes = made.bytes.clone();
            bytes[place] ^= 1;
            let error = open(&bytes, &keys(&made.identity)).unwrap_err();
            assert!(!matches!(error, Error::Io { .. }), "plain {plain}, {place}: {error:?}");
        }
        let mut bytes = made.bytes.clone();
        bytes[100_000] ^= 1;
        let error = open(&bytes, &keys(&made.identity)).unwrap_err();
        assert!(matches!(error, Error::Tampered(_)), "plain {plain}: {error:?}");
    }
}

#[test]
fn identities_and_passphrases_are_told_apart() {
    let made = made(false);
    assert!(matches!(open(&made.bytes, &Keys::default()), Err(Error::NeedsIdentity)));
    assert!(matches!(open(&made.bytes, &keys(&new_identity().0)), Err(Error::WrongIdentity)));
    let ca = authority();
    let signer = Signer::derive(Anchor::Authority, &ca.key).unwrap();
    let with = |protection| write(Vec::new(), draft(&ca), &members(&ca, b"x"), &signer, &protection);
    let (_, bytes) = with(Protection::Passphrase("correct horse".into())).unwrap();
    assert!(matches!(open(&bytes, &keys(&made.identity)), Err(Error::NeedsPassphrase)));
    for (passphrase, opens) in [("correct horse", true), ("wrong", false)] {
        let mut keys = Keys::default();
        keys.identity.set_passphrase(passphrase.into());
        let opened = open(&bytes, &keys);
        assert_eq!(opened.is_ok(), opens);
        assert!(opens || matches!(opened, Err(Error::WrongPassphrase)));
    }
    assert!(with(Protection::Passphrase(String::new())).is_err());
    assert!(with(Protection::Recipients(vec!["age1rubbish".into()])).is_err());
    assert!(with(Protection::Recipients(vec![])).is_err());
    assert!(Identity::default().add_file("rubbish").is_err());
}

#[test]
fn a_foreign_or_wrongly_signed_backup_is_refused() {
    let made = made(true);
    let expecting = |authority: &str| Keys { authority: Some(authority.to_owned()), ..Keys::default() };
    open(&made.bytes, &expecting(&made.manifest.cluster.authority)).unwrap();
    let error = open(&made.bytes, &expecting("sha256:00")).unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
    for other in [&b"not a backup"[..], &zstd::encode_all(&b"no tar"[..], 1).unwrap()] {
        assert!(matches!(
            open(other, &Keys::default()),
            Err(Error::NotABackup(_) | Error::Truncated | Error::Tampered(_))
        ));
    }
    // Somebody who knows the recipients and the certificate, and has not the authority's key.
    let (ours, theirs) = (authority(), authority());
    let signer = Signer::derive(Anchor::Authority, &theirs.key).unwrap();
    let forged =
        |list: &[Member], signer: &Signer| write(Vec::new(), draft(&ours), list, signer, &Protection::Plain).unwrap().1;
    let mut list = members(&ours, b"forged");
    let error = open(&forged(&list, &signer), &Keys::default()).unwrap_err();
    assert!(error.to_string().contains("did not have ca.key"), "{error}");
    list[1] = Member::bytes("pki/ca.key", 0o600, theirs.key.as_bytes());
    let error = open(&forged(&list, &signer), &Keys::default()).unwrap_err();
    assert!(error.to_string().contains("does not belong to"), "{error}");
    list[1] = Member::bytes("pki/sa.key", 0o600, theirs.key.as_bytes());
    let signer = Signer::derive(Anchor::ServiceAccounts, &theirs.key).unwrap();
    let bytes = forged(&list, &signer);
    let error = open(&bytes, &Keys::default()).unwrap_err();
    assert!(error.to_string().contains("--signer"), "{error}");
    let told = |signer: String| open(&bytes, &Keys { signer: Some(signer), ..Keys::default() });
    assert_eq!(told(signer.public()).unwrap(), b"forged");
    assert!(matches!(told("00".into()), Err(Error::Signature(_))));
}

#[test]
fn nothing_is_handed_out_before_the_signer_is_known() {
    let (ours, theirs) = (authority(), authority());
    let signer = Signer::derive(Anchor::Authority, &theirs.key).unwrap();
    let (_, bytes) = write(Vec::new(), draft(&ours), &members(&ours, b"forged"), &signer, &Protection::Plain).unwrap();
    let mut seen = Vec::new();
    read(bytes.as_slice(), &Keys::default(), &mut |_, entry, _| {
        seen.push(entry.path.clone());
        Ok(())
    })
    .unwrap_err();
    assert_eq!(seen, ["pki/ca.crt", "pki/ca.key"]);
}

#[test]
fn files_that_change_while_they_are_read_are_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    std::fs::write(&path, b"12345").unwrap();
    let entry = Member { path: SNAPSHOT.into(), mode: 0o600, source: Source::File(path) };
    let ca = authority();
    let signer = Signer::derive(Anchor::Authority, &ca.key).unwrap();
    let mut list = members(&ca, b"");
    list[3] = entry;
    let (manifest, bytes) = write(Vec::new(), draft(&ca), &list, &signer, &Protection::Plain).unwrap();
    assert_eq!(manifest.files[3].size, 5);
    assert_eq!(open(&bytes, &Keys::default()).unwrap(), b"12345");
}

#[test]
fn a_card_is_read_back_and_names_are_no_paths() {
    let made = made(true);
    let name = file_name("c", made.manifest.created.parse().unwrap());
    assert_eq!(name, "c-20261129T033500Z.kinit-backup");
    let card = Card::new(&name, 5, "00".into(), "manual", &made.manifest);
    assert_eq!(Card::parse(card.text().as_bytes()).unwrap(), card);
    assert!(listing(&card).contains("not proven"));
    for bad in ["../x.kinit-backup", "x", ".kinit-backup", "a/b.kinit-backup"] {
        assert!(!is_backup_name(bad), "{bad}");
    }
}
