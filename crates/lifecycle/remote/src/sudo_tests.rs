use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt;

use super::*;
use crate::Local;

/// A stand-in with sudo's manners: the prompt on stderr, a line from stdin read byte by byte, three attempts.
const FAKE: &str = r#"#!/bin/sh
[ "$1 $2 $3 $5" = "-S -k -p --" ] || exit 99
prompt=$4; shift 5
ask() { printf %s "$prompt" >&2; IFS= read -r line || { echo "sudo: no password was provided" >&2; exit 1; }; }
case $(cat "$0.mode") in
    free) ;;
    tty) echo "sudo: sorry, you must have a tty to run sudo" >&2; exit 1 ;;
    stranger) ask; echo "me is not in the sudoers file." >&2; exit 1 ;;
    absent) echo "env: 'sudo': No such file or directory" >&2; exit 127 ;;
    *) tries=0
       while ask; [ "$line" != secret ]; do
           tries=$((tries + 1))
           [ $tries = 3 ] && { echo "sudo: 3 incorrect password attempts" >&2; exit 1; }
           echo "Sorry, try again." >&2
       done ;;
esac
exec "$@"
"#;

struct Faked(PathBuf);

#[async_trait::async_trait]
impl Transport for Faked {
    async fn exec(&self, command: &str) -> Result<Process> {
        Local.exec(&command.replacen(" sudo ", &format!(" {} ", self.0.display()), 1)).await
    }

    async fn put(&self, _: &str, _: &[u8], _: u32) -> Result<()> {
        bail!("not by this user")
    }
}

#[derive(Default)]
struct Answers {
    text: &'static str,
    asked: AtomicUsize,
}

impl Prompt for Answers {
    fn passphrase(&self, _: &Path, _: u32) -> Result<Secret> {
        bail!("not asked for")
    }

    fn sudo_password(&self, user: &str) -> Result<Secret> {
        assert_eq!(user, "me");
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Secret::new(self.text.to_owned()))
    }
}

fn fake(dir: &Path, mode: &str, answers: &Arc<Answers>) -> Sudo {
    let path = dir.join("sudo");
    std::fs::write(&path, FAKE).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.join("sudo.mode"), mode).unwrap();
    let questions = Questions::default();
    let password = SudoPassword::new(answers.clone(), questions.clone());
    Sudo { inner: Box::new(Faked(path)), user: "me".into(), password, questions }
}

#[tokio::test]
async fn a_program_reads_its_own_input_whether_sudo_asks_or_not() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, text, asked) in [("free", "secret", 0), ("ask", "secret", 1)] {
        let answers = Arc::new(Answers { text, ..Answers::default() });
        let sudo = fake(dir.path(), mode, &answers);
        for _ in 0..2 {
            let mut process = sudo.exec("/bin/cat").await.unwrap();
            process.stdin.write_all(b"first line\nsecond").await.unwrap();
            process.stdin.shutdown().await.unwrap();
            drop(std::mem::replace(&mut process.stdin, Box::new(tokio::io::sink())));
            let mut read = String::new();
            process.stdout.read_to_string(&mut read).await.unwrap();
            assert_eq!(read, "first line\nsecond", "{mode}");
            assert_eq!((process.ended().await.status, process.complaint()), (Some(0), String::new()));
        }
        assert_eq!(answers.asked.load(Ordering::Relaxed), asked, "{mode}: asked once, and only when sudo asks");
        let path = dir.path().join("copy").display().to_string();
        sudo.put(&path, b"program", 0o700).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"program");
        let mut process = sudo.exec("/no/such/program").await.unwrap();
        assert_eq!(process.ended().await.status, Some(127));
    }
}

#[tokio::test]
async fn what_sudo_refuses_is_told_and_ends_soon() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, text, expected) in [
        ("ask", "wrong", SudoProblem::WrongPassword("me".into())),
        ("tty", "secret", SudoProblem::WantsTerminal("me".into())),
        ("stranger", "secret", SudoProblem::NotAllowed("me".into(), "me is not in the sudoers file.".into())),
        ("absent", "secret", SudoProblem::NotInstalled("me".into())),
    ] {
        let sudo = fake(dir.path(), mode, &Arc::new(Answers { text, ..Answers::default() }));
        let error = tokio::time::timeout(std::time::Duration::from_secs(20), sudo.exec("/bin/cat")).await;
        let error = error.unwrap().err().unwrap();
        assert_eq!(error.downcast_ref::<SudoProblem>(), Some(&expected), "{error:#}");
        assert!(!format!("{error:#}").contains(text), "{error:#}");
    }
}
