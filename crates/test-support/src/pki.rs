//! A throwaway certificate tree in kubeadm's layout, and kubeconfig files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// CAs and where their leaves are written.
pub struct TestPki {
    dir: PathBuf,
    ca: Issuer<'static, KeyPair>,
    ca_pem: String,
    front: Issuer<'static, KeyPair>,
}

fn authority(dir: &Path, name: &str, common_name: &str) -> Result<(Issuer<'static, KeyPair>, String)> {
    let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Ok(cert), Ok(key)) = (std::fs::read_to_string(&cert_path), std::fs::read_to_string(&key_path)) {
        return Ok((Issuer::from_ca_cert_pem(&cert, KeyPair::from_pem(&key)?)?, cert));
    }
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?.pem();
    write(&cert_path, &cert)?;
    write(&key_path, &key.serialize_pem())?;
    Ok((Issuer::new(params, key), cert))
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}

impl TestPki {
    /// Makes (or reads back) the tree below `dir`; servers are reached at `addresses`.
    pub fn create(dir: &Path, addresses: &[IpAddr]) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let (ca, ca_pem) = authority(dir, "ca", "kubernetes")?;
        let (front, _) = authority(dir, "front-proxy-ca", "front-proxy-ca")?;
        let pki = Self { dir: dir.to_owned(), ca, ca_pem, front };
        let mut names: Vec<SanType> = addresses.iter().map(|a| SanType::IpAddress(*a)).collect();
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ] {
            names.push(SanType::DnsName(name.try_into()?));
        }
        pki.leaf("apiserver", "kube-apiserver", &[], names, &pki.ca, ExtendedKeyUsagePurpose::ServerAuth)?;
        pki.client("apiserver-kubelet-client", "kube-apiserver-kubelet-client", &["system:masters"])?;
        pki.leaf(
            "front-proxy-client",
            "front-proxy-client",
            &[],
            Vec::new(),
            &pki.front,
            ExtendedKeyUsagePurpose::ClientAuth,
        )?;
        if !dir.join("sa.key").exists() {
            let key = KeyPair::generate()?;
            write(&dir.join("sa.key"), &key.serialize_pem())?;
            write(&dir.join("sa.pub"), &key.public_key_pem())?;
        }
        Ok(pki)
    }

    /// A file of the tree.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Issues a client certificate, as `NAME.crt` and `NAME.key`.
    pub fn client(&self, name: &str, common_name: &str, groups: &[&str]) -> Result<()> {
        self.leaf(name, common_name, groups, Vec::new(), &self.ca, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Issues a client certificate by the front proxies' CA, as `NAME.crt` and `NAME.key`.
    pub fn front_proxy(&self, name: &str, common_name: &str) -> Result<()> {
        self.leaf(name, common_name, &[], Vec::new(), &self.front, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Issues a serving certificate (a kubelet's, for example), as `NAME.crt` and `NAME.key`.
    pub fn server(&self, name: &str, common_name: &str, addresses: &[IpAddr], dns: &[&str]) -> Result<()> {
        let mut names: Vec<SanType> = addresses.iter().map(|a| SanType::IpAddress(*a)).collect();
        for name in dns {
            names.push(SanType::DnsName((*name).try_into()?));
        }
        self.leaf(name, common_name, &["system:nodes"], names, &self.ca, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn leaf(
        &self,
        name: &str,
        common_name: &str,
        groups: &[&str],
        names: Vec<SanType>,
        issuer: &Issuer<'static, KeyPair>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<()> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = Default::default();
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, issuer)?;
        write(&self.file(&format!("{name}.crt")), &cert.pem())?;
        write(&self.file(&format!("{name}.key")), &key.serialize_pem())
    }

    /// The text of a kubeconfig for a new client certificate.
    pub fn kubeconfig(&self, server: &str, user: &str, groups: &[&str]) -> Result<String> {
        let file = user.replace([':', '/'], "-");
        self.client(&file, user, groups)?;
        let code = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let read = |ext: &str| {
            let path = self.file(&format!("{file}.{ext}"));
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: default\nclusters:\n- name: kubernetes\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {}\ncontexts:\n- name: default\n  context:\n    cluster: kubernetes\n    user: default\nusers:\n- name: \
             default\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
            code(&self.ca_pem),
            code(&read("crt")?),
            code(&read("key")?)
        ))
    }

    /// Writes such a kubeconfig.
    pub fn write_kubeconfig(&self, path: &Path, server: &str, user: &str, groups: &[&str]) -> Result<()> {
        write(path, &self.kubeconfig(server, user, groups)?)
    }
}
