//! What a long step says while it works, to the desk that waits for it.

use tokio::sync::mpsc;

tokio::task_local! {
    static NOTES: mpsc::UnboundedSender<String>;
}

/// Says something about the step that is being done; nobody hears it outside of one.
pub(crate) fn note(text: String) {
    // A desk that is gone is noticed elsewhere.
    NOTES.try_with(|notes| notes.send(text).unwrap_or_default()).unwrap_or_default();
}

/// The work, and what it notes meanwhile. The notes end with the work.
pub(crate) fn noting<T>(work: impl Future<Output = T>) -> (impl Future<Output = T>, mpsc::UnboundedReceiver<String>) {
    let (sender, notes) = mpsc::unbounded_channel();
    (NOTES.scope(sender, work), notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_are_heard_while_the_work_goes_on() {
        note("to nobody".to_owned());
        let (go_on, told) = tokio::sync::oneshot::channel();
        let (work, mut notes) = noting(async {
            note("one".to_owned());
            told.await.unwrap();
        });
        let hear = async {
            assert_eq!(notes.recv().await.unwrap(), "one");
            go_on.send(()).unwrap();
        };
        tokio::join!(work, hear);
    }
}
