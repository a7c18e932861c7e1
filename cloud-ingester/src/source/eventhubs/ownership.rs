//! The Event Hubs client's [`CheckpointStore`] on the lake's own storage.
//!
//! One record per partition. An owner's id, as the client calls it, reads `LEVEL RUN PLACE`; of a partition given back
//! only `LEVEL` is left, so that the next owner's is higher. No checkpoints are kept: where to go on is asked of the
//! Delta log, and a second answer could only differ.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use azure_core::error::ErrorKind;
use azure_core::http::Etag;
use azure_messaging_eventhubs::CheckpointStore;
use azure_messaging_eventhubs::models::{Checkpoint, Ownership};

use crate::lake::{Lake, LakeError, Records};
use crate::source::claims::{Member, Owner};

/// Records below this folder of the lake.
const FOLDER: &str = "_leases/partitions";

/// Who reads which partition, in the lake.
pub struct LakeOwnership {
    lake: Arc<Lake>,
    folders: Mutex<HashMap<String, Arc<Records>>>,
}

impl LakeOwnership {
    /// On the storage of `lake`.
    #[must_use]
    pub fn new(lake: Arc<Lake>) -> Self {
        Self { lake, folders: Mutex::default() }
    }

    fn records(&self, namespace: &str, hub: &str, group: &str) -> Arc<Records> {
        let name = |text: &str| -> String {
            text.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
        };
        let folder = format!("{FOLDER}/{}/{}/{}", name(hub), name(namespace), name(group));
        let mut folders = self.folders.lock().expect("no thread panics while it holds this");
        let records = folders.entry(folder.clone()).or_insert_with(|| Arc::new(Records::of(&self.lake, &folder)));
        Arc::clone(records)
    }
}

/// An owner's id, as it stands in a record.
pub(super) fn id(level: i64, member: Option<&Member>) -> String {
    match member {
        Some(member) => format!("{level} {} {}", member.run, member.place),
        None => level.to_string(),
    }
}

/// Reads an owner's id back: its level, and who it is if anybody.
pub(super) fn read_id(text: &str) -> (i64, Option<Owner>) {
    let mut parts = text.splitn(3, ' ');
    let level = parts.next().and_then(|level| level.parse().ok()).unwrap_or(0);
    let member = parts.next().zip(parts.next());
    let owner =
        member.map(|(run, place)| Owner { member: Member { run: run.to_owned(), place: place.to_owned() }, level });
    (level, owner)
}

#[async_trait::async_trait]
impl CheckpointStore for LakeOwnership {
    /// Writes each ownership whose tag is still the newest; those that were written come back with their new tags.
    async fn claim_ownership(&self, ownerships: &[Ownership]) -> azure_core::Result<Vec<Ownership>> {
        let mut claimed = vec![];
        for wanted in ownerships {
            let records =
                self.records(&wanted.fully_qualified_namespace, &wanted.event_hub_name, &wanted.consumer_group);
            let over = wanted.etag.as_ref().map(AsRef::as_ref);
            let text = wanted.owner_id.as_deref().unwrap_or_default();
            if let Some(tag) = records.put(&wanted.partition_id, text, over).await.map_err(refused)? {
                claimed.push(Ownership { etag: Some(Etag::from(tag)), ..wanted.clone() });
            }
        }
        Ok(claimed)
    }

    async fn list_checkpoints(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Checkpoint>> {
        Ok(vec![])
    }

    async fn list_ownerships(&self, namespace: &str, hub: &str, group: &str) -> azure_core::Result<Vec<Ownership>> {
        let records = self.records(namespace, hub, group);
        let found = records.list().await.map_err(refused)?;
        let ownerships = found.into_iter().map(|entry| {
            let (level, owner) = read_id(&entry.text);
            let gone = owner.is_some_and(|owner| records.is_gone(&owner.member.run));
            Ownership {
                fully_qualified_namespace: namespace.to_owned(),
                event_hub_name: hub.to_owned(),
                consumer_group: group.to_owned(),
                partition_id: entry.name,
                owner_id: Some(if gone { id(level, None) } else { entry.text }),
                etag: Some(Etag::from(entry.tag)),
                last_modified_time: None,
            }
        });
        Ok(ownerships.collect())
    }

    async fn update_checkpoint(&self, _: Checkpoint) -> azure_core::Result<()> {
        Ok(())
    }
}

fn refused(error: LakeError) -> azure_core::Error {
    azure_core::Error::new(ErrorKind::Other, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owners_id_reads_back_and_a_level_alone_is_nobody() {
        let member = Member { run: "1f".to_owned(), place: "plant 7/127.0.0.1:9102".to_owned() };
        let (level, owner) = read_id(&id(12, Some(&member)));
        assert_eq!((level, owner), (12, Some(Owner { member, level: 12 })));
        assert_eq!(read_id(&id(12, None)), (12, None));
        assert_eq!(read_id(""), (0, None));
    }
}
