//! The account, after steps at random.

use proptest::prelude::*;

use super::*;

/// What a guest may do to a few names.
#[derive(Debug, Clone)]
enum Step {
    Open {
        name: usize,
        truncate: bool,
    },
    Close {
        file: usize,
    },
    Write {
        file: usize,
        offset: u64,
        len: usize,
    },
    Append {
        file: usize,
        len: usize,
    },
    SetSize {
        file: usize,
        size: u64,
    },
    MakeDirectory {
        name: usize,
    },
    RemoveDirectory {
        name: usize,
    },
    Unlink {
        name: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Link {
        from: usize,
        to: usize,
    },
    Symlink {
        name: usize,
        target: usize,
    },
}

const NAMES: [&str; 10] = ["a", "b", "d", "d/a", "d/b", "e", "a/", "d/", "e/", "d/../b"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..NAMES.len();
    let file = || 0..8_usize;
    let step = prop_oneof![
        4 => (name(), any::<bool>()).prop_map(|(name, truncate)| Step::Open { name, truncate }),
        2 => file().prop_map(|file| Step::Close { file }),
        4 => (file(), 0..3000_u64, 0..2000_usize)
            .prop_map(|(file, offset, len)| Step::Write { file, offset, len }),
        3 => (file(), 0..2000_usize).prop_map(|(file, len)| Step::Append { file, len }),
        2 => (file(), 0..4000_u64).prop_map(|(file, size)| Step::SetSize { file, size }),
        2 => name().prop_map(|name| Step::MakeDirectory { name }),
        1 => name().prop_map(|name| Step::RemoveDirectory { name }),
        3 => name().prop_map(|name| Step::Unlink { name }),
        3 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        3 => (name(), name()).prop_map(|(from, to)| Step::Link { from, to }),
        1 => (name(), name()).prop_map(|(name, target)| Step::Symlink { name, target }),
    ];
    prop::collection::vec(step, 1..80)
}

/// Does it, whether it is allowed or not.
async fn step(agent: &mut Agent, root: &Fd, open: &mut Vec<Fd>, step: Step) {
    let path = |name: usize| NAMES[name].to_owned();
    let file = |open: &[Fd], file: usize| open.get(file % open.len().max(1)).map(again);
    match step {
        Step::Open { name, truncate } => {
            let open_flags = match truncate {
                true => OpenFlags::CREATE | OpenFlags::TRUNCATE,
                false => OpenFlags::CREATE,
            };
            let (root, flags) = (again(root), DescriptorFlags::READ | DescriptorFlags::WRITE);
            let follow = PathFlags::SYMLINK_FOLLOW;
            let mut view = agent.view();
            let opened = view.open_at(root, follow, path(name), open_flags, flags);
            open.extend(opened.await);
        }
        Step::Close { file } if !open.is_empty() => {
            let fd = open.swap_remove(file % open.len());
            HostDescriptor::drop(&mut agent.view(), fd).unwrap();
        }
        Step::Write {
            file: at,
            offset,
            len,
        } => {
            if let Some(fd) = file(open, at) {
                let _ = agent.view().write(fd, vec![b'x'; len], offset).await;
            }
        }
        Step::Append { file: at, len } => {
            if let Some(fd) = file(open, at)
                && let Ok(stream) = agent.view().append_via_stream(fd)
            {
                let data = vec![b'x'; len].into();
                let _ = agent.output(&stream).blocking_write_and_flush(data).await;
                agent.table.delete(stream).unwrap().cancel().await;
            }
        }
        Step::SetSize { file: at, size } => {
            if let Some(fd) = file(open, at) {
                let _ = agent.view().set_size(fd, size).await;
            }
        }
        Step::MakeDirectory { name } => {
            let _ = agent
                .view()
                .create_directory_at(again(root), path(name))
                .await;
        }
        Step::RemoveDirectory { name } => {
            let _ = agent
                .view()
                .remove_directory_at(again(root), path(name))
                .await;
        }
        Step::Unlink { name } => {
            let _ = agent.view().unlink_file_at(again(root), path(name)).await;
        }
        Step::Rename { from, to } => {
            let mut view = agent.view();
            let _ = view
                .rename_at(again(root), path(from), again(root), path(to))
                .await;
        }
        Step::Link { from, to } => {
            let (mut view, itself) = (agent.view(), PathFlags::empty());
            let _ = view
                .link_at(again(root), itself, path(from), again(root), path(to))
                .await;
        }
        Step::Symlink { name, target } => {
            let mut view = agent.view();
            let _ = view.symlink_at(again(root), path(target), path(name)).await;
        }
        Step::Close { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_account_is_what_is_there(steps in steps()) {
        const MOST: Amount = Amount { files: 6, bytes: 8000 };
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let limits = limits(MOST.bytes, MOST.files, 8);
            let mut agent = Agent::scratch(dir.path(), limits);
            let root = agent.root();
            let mut open = Vec::new();
            for one in steps {
                step(&mut agent, &root, &mut open, one).await;
                let (held, found) = (agent.held(), found(dir.path()));
                // Files that are open count without a name.
                prop_assert!(held.files >= found.files && held.bytes >= found.bytes);
                prop_assert!(held.files <= MOST.files && held.bytes <= MOST.bytes);
                if open.is_empty() {
                    prop_assert_eq!(held, found);
                }
            }
            for fd in open {
                HostDescriptor::drop(&mut agent.view(), fd).unwrap();
            }
            prop_assert_eq!(agent.held(), found(dir.path()));
            Ok(())
        })?;
    }
}
