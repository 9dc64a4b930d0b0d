//! Resources come and go while the feed runs.
//!
//! A new resource hears of changes from the moment it is known; they wait until its objects have been read, and those
//! that are later than what was read follow. So nothing is missed, and nothing is undone.

use std::sync::Arc;

use crate::cache::{Cache, Picture};
use crate::error::Error;
use crate::store::{Resource, ResourceSpec, Store};

/// Objects read at once.
const PAGE: i64 = 500;

impl Store {
    /// Adds a resource, or replaces one whose way of reading has changed, and fills its cache. It can be used when this
    /// returns `Ok`; after an error it is not there.
    pub async fn add(&self, spec: ResourceSpec) -> Result<(), Error> {
        let cache = Arc::new(Cache::new(&spec.prefix, spec.reading, self.0.revision.subscribe()));
        let resource = Resource { cache: cache.clone(), crypt: spec.crypt };
        self.0.resources.write().insert(spec.prefix.clone(), resource);
        let filled = self.fill(&spec.prefix, &cache).await;
        if filled.is_err() {
            self.remove(&spec.prefix);
        }
        filled
    }

    /// Drops a resource. What is stored stays.
    pub fn remove(&self, prefix: &str) {
        self.0.resources.write().remove(prefix);
    }

    async fn fill(&self, prefix: &str, cache: &Cache) -> Result<(), Error> {
        let (mut picture, mut start, mut revision) = (Picture::default(), String::new(), 0);
        loop {
            let page = self.raw_page(prefix, &start, PAGE, revision).await?;
            revision = page.revision;
            for (key, decoded) in page.objects {
                start = format!("{key}\0");
                match decoded {
                    Ok(entry) => picture.entries.push(entry),
                    Err(error) => {
                        tracing::error!(%error, "an object cannot be read");
                        picture.unreadable.insert(key.into(), error.reason());
                    }
                }
            }
            if !page.more {
                break;
            }
        }
        cache.fill(picture, revision);
        Ok(())
    }
}
