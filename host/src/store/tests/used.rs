//! Which components make room first, under the next host.

use skep_protocol::spec::ComponentRef;

use super::*;

#[tokio::test]
async fn components_come_back_least_recently_used_first() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    let digest = |number: u8| Digest::of(&[number]);
    for number in 0..5 {
        let component = KeptComponent {
            digest: digest(number),
            size: 1,
            facts: Facts::default(),
            deleted: false,
            used_ms: 1000 + u64::from(number),
        };
        let bytes = Bytes::from(vec![number]);
        store.keep_component(component, bytes).await.unwrap();
    }
    let spawn = |number: u8, made_of: u8, input: u8, created_ms: u64| {
        let mut agent = agent(number, None);
        agent.born.created_ms = created_ms;
        agent.born.spec.component = Some(ComponentRef::Digest(digest(made_of)));
        let inputs = &mut agent.born.spec.inputs;
        inputs.insert("input".to_owned(), digest(input));
        Change::Spawned(agent, reply(number))
    };
    store.write(spawn(1, 3, 0, 10_000)).await.unwrap();
    store.write(spawn(2, 1, 0, 20_000)).await.unwrap();
    // So soon after the other, it is not written down.
    store.write(spawn(3, 3, 0, 10_500)).await.unwrap();
    store.close().await;
    let (store, found) = dir.open();
    let order: Vec<_> = found.components.iter().map(|kept| kept.digest).collect();
    // Both of the last agent at one time, in the order in which they were put.
    assert_eq!(order, [2, 4, 3, 0, 1].map(digest));
    store.close().await;
}
