//! Components and uploads, which lie in files of their own.

use super::*;

/// Writes a part of an upload down, as the first request of a client does.
async fn begin_upload(store: &Store, upload: &KeptUpload, parts: &[(u64, &'static [u8])]) {
    for &(offset, bytes) in parts {
        let bytes = Bytes::from_static(bytes);
        let written = store.write_part(upload.digest, offset, bytes);
        written.await.unwrap();
    }
    let grew = Change::UploadGrew(upload.clone());
    store.write(grew).await.unwrap();
}

#[tokio::test]
async fn components_and_uploads_outlive_a_host() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    let bytes = Bytes::from_static(b"a component");
    let component = KeptComponent {
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        facts: Facts::default(),
        deleted: false,
        used_ms: 0,
    };
    let upload = KeptUpload {
        digest: Digest::of(b"0123456789"),
        size: 10,
        parts: vec![(0, 2), (5, 3)],
    };
    begin_upload(&store, &upload, &[(5, b"567"), (0, b"01")]).await;
    store
        .keep_component(component.clone(), bytes.clone())
        .await
        .unwrap();
    let part = format!("{}.part", "5a".repeat(32));
    let others = ["new-left", &part].map(|name| dir.0.path().join("components").join(name));
    for other in &others {
        std::fs::write(other, "by a host that was killed").unwrap();
    }
    store.close().await;

    let (store, found) = dir.open();
    assert_eq!(found.components, std::slice::from_ref(&component));
    assert_eq!(found.uploads, std::slice::from_ref(&upload));
    assert!(!others.iter().any(|other| other.exists()));
    assert_eq!(
        store.load_component(component.digest).await.unwrap(),
        Some(bytes)
    );
    let parts = store.read_parts(&upload).unwrap();
    assert_eq!(parts, [b"01".to_vec(), b"567".to_vec()]);
    let longer = KeptUpload {
        parts: vec![(0, 9)],
        ..upload.clone()
    };
    assert_eq!(store.read_parts(&longer), None, "it is not all there");
    // While all are away, it is not gone.
    let files = dir.0.path().join("components");
    let away = files.with_extension("away");
    std::fs::rename(&files, &away).unwrap();
    store.load_component(component.digest).await.unwrap_err();
    std::fs::rename(&away, &files).unwrap();
    // Damaged, it is as good as gone.
    let file = files.join(component.digest.to_string().trim_start_matches("sha256:"));
    std::fs::write(&file, "a companion").unwrap();
    assert_eq!(store.load_component(component.digest).await.unwrap(), None);
    store.forget_uploads(vec![upload.digest]).await;
    store.close().await;
    // Nobody is told that it is there where it can be seen that it is not.
    std::fs::write(&file, "cut").unwrap();
    let (store, found) = dir.open();
    assert_eq!(found.gone, [component.digest]);
    assert!(found.components.is_empty() && found.uploads.is_empty());
    store.forget_components(vec![component.digest]).await;
    store.close().await;
    let (store, found) = dir.open();
    assert!(found.components.is_empty() && found.gone.is_empty());
    assert_eq!(
        std::fs::read_dir(dir.0.path().join("components"))
            .unwrap()
            .count(),
        0
    );
    store.close().await;
}

#[tokio::test]
async fn what_is_refused_of_components_leaves_nothing_behind() {
    let dir = Dir::new();
    let (store, _) = dir.open();
    let bytes = |number: u8| Bytes::from(vec![number; 10]);
    let component = |number| KeptComponent {
        digest: Digest::of(&bytes(number)),
        size: 10,
        facts: Facts::default(),
        deleted: false,
        used_ms: 0,
    };
    let upload = KeptUpload {
        digest: Digest::of(b"ab"),
        size: 2,
        parts: vec![(0, 1)],
    };
    store.keep_component(component(1), bytes(1)).await.unwrap();
    begin_upload(&store, &upload, &[(0, b"a")]).await;
    let other = Connection::open(dir.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for number in 1..4 {
        let refused = store.keep_component(component(number), bytes(number));
        assert!(refused.await.is_err());
    }
    store.forget_uploads(vec![upload.digest]).await;
    let components = dir.0.path().join("components");
    assert_eq!(std::fs::read_dir(&components).unwrap().count(), 1);
    let kept = store.load_component(component(1).digest).await.unwrap();
    assert_eq!(kept, Some(bytes(1)), "it was there before");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    store.close().await;
    // What is told of an upload that is gone is of no use to the next host.
    let (store, found) = dir.open();
    assert_eq!(found.uploads, std::slice::from_ref(&upload));
    assert_eq!(store.read_parts(&upload), None);
    store.close().await;
}
