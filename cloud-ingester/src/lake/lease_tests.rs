use std::collections::HashMap;

use super::*;
use crate::lake::Location;

#[tokio::test]
async fn a_second_holder_is_refused_and_told_who_holds_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("UTF-8");
    let location = Location::parse(path, HashMap::new()).expect("a path");
    let lake = Lake::open(location).expect("a lake");
    let holder = Holder::this("cloud-ingester run", Some("127.0.0.1:9102".into()));
    let lease = Lease::acquire(&lake, &holder).await.expect("free");
    lease.check().await.expect("ours");
    let refused = Lease::acquire(&lake, &holder).await.err().expect("held");
    assert!(refused.to_string().contains("127.0.0.1:9102"), "{refused}");
    assert_eq!(Lease::holder(&lake).await.expect("readable"), Some(holder.clone()));
    drop(lease);
    assert_eq!(Lease::holder(&lake).await.expect("readable"), None);
    Lease::acquire(&lake, &holder).await.expect("free again");
}

#[tokio::test]
async fn a_holder_whose_file_was_replaced_has_lost_the_lease() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hops");
    let holder = Holder::this("test", None);
    let lease = acquire_local(&path, &holder).expect("free");
    std::fs::remove_file(&path).expect("removed");
    let second = acquire_local(&path, &holder).expect("free by its name");
    assert!(lease.check().await.is_err());
    second.check().await.expect("ours");
}

#[tokio::test]
async fn in_an_object_store_a_lease_is_one_holders_until_it_runs_out() {
    let store: Arc<dyn ObjectStore> = Arc::new(deltalake::logstore::object_store::memory::InMemory::new());
    let holder = Holder::this("first", None);
    let _first = acquire_remote(&store, &Clock::Real, &holder).await.expect("free");
    let refused = acquire_remote(&store, &Clock::Real, &holder).await.err();
    assert!(matches!(refused, Some(LakeError::LeaseHeld { .. })));
    let stale = Holder { renewed: 1, ..holder.clone() };
    let text = serde_json::to_vec(&stale).expect("plain");
    store.put(&Path::from(PATH), text.into()).await.expect("put");
    acquire_remote(&store, &Clock::Real, &holder).await.expect("taken over");
}

#[tokio::test]
async fn whoever_is_started_in_the_holders_place_takes_the_lease_at_once() {
    let store: Arc<dyn ObjectStore> = Arc::new(deltalake::logstore::object_store::memory::InMemory::new());
    let here = |place: &str| Holder { place: Some(place.to_owned()), ..Holder::this("run", None) };
    let first = acquire_remote(&store, &Clock::Real, &here("here")).await.expect("free");
    assert!(acquire_remote(&store, &Clock::Real, &here("there")).await.is_err());
    let again = acquire_remote(&store, &Clock::Real, &here("here")).await.expect("the one before is gone");
    again.check().await.expect("ours");
    let Kind::Remote { held, .. } = &first.kind else { panic!("in a store") };
    let (version, ..) = held.state.lock().await.clone().expect("as it was");
    assert!(matches!(held.renew(version).await, Err(Renewal::Lost(_))));
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_no_loss() {
    let store: Arc<dyn ObjectStore> = Arc::new(deltalake::logstore::object_store::memory::InMemory::new());
    let lease = acquire_remote(&store, &Clock::Real, &Holder::this("run", None)).await.expect("free");
    let Kind::Remote { held, .. } = &lease.kind else { panic!("in a store") };
    let (before, ..) = held.state.lock().await.clone().expect("ours");
    assert!(held.renew(before.clone()).await.is_ok());
    assert!(held.renew(before).await.is_ok(), "what stands there is our own");
}

#[tokio::test]
async fn a_lease_given_back_is_free_at_once() {
    let store: Arc<dyn ObjectStore> = Arc::new(deltalake::logstore::object_store::memory::InMemory::new());
    let holder = Holder::this("first", None);
    let first = acquire_remote(&store, &Clock::Real, &holder).await.expect("free");
    first.release().await;
    acquire_remote(&store, &Clock::Real, &holder).await.expect("free again").check().await.expect("ours");
}
