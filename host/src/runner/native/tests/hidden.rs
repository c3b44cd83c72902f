//! The host's own directories, where they lie below those that every agent sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use skep_protocol::Enforcement;
use skep_protocol::spec::DirMode;

use super::contract::start_failure;
use super::jail::grant;
use super::*;
use crate::runner::GrantedDir;
use crate::runner::native::{Account, Refused, Setup};

/// A directory of the host's below one that every agent sees, with a file in it and a
/// scratch directory.
fn state_in_system() -> Option<(tempfile::TempDir, GrantedDir)> {
    let state = tempfile::tempdir_in("/opt").ok()?;
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    let (others, own) = (state.path().join("others"), state.path().join("own"));
    for dir in [&others, &own] {
        fs::create_dir(dir).unwrap();
        open(dir);
    }
    open(state.path());
    fs::write(others.join("file"), "canary").unwrap();
    let own = GrantedDir {
        guest: "/".into(),
        ..grant(&own, DirMode::Rw)
    };
    Some((state, own))
}

fn hiding(state: &Path, account: Option<Account>) -> NativeRunner {
    let runner = runner();
    let setup = Arc::into_inner(runner.setup).unwrap();
    let setup = Setup {
        // One within the other, and one that is not there.
        covered: ["own", "", "none"].map(|dir| state.join(dir)).to_vec(),
        account,
        ..setup
    };
    NativeRunner {
        setup: Arc::new(setup),
        ..runner
    }
}

#[tokio::test]
async fn what_is_the_hosts_is_not_seen_wherever_it_lies() {
    let Some((state, own)) = state_in_system() else {
        println!("nothing can be made below /opt");
        return;
    };
    let path = state.path().to_str().unwrap();
    let script = format!(
        "cat {path}/others/file; ls {path} {path}/others; (: > {path}/x) && echo wrote; \
         (: > {path}/others/x) && echo wrote; echo mine > file && cat {path}/own/file"
    );
    let account = runner().setup.account;
    let hiding = hiding(state.path(), account);
    hiding.check(Wanted::default()).await.unwrap();
    if hiding.enforced().files != Enforcement::Enforced {
        println!("files are {:?}", hiding.enforced().files);
        return;
    }
    let mut agent = start_under(&hiding, &["sh", "-c", &script], |launch| {
        launch.dirs = vec![own.clone()];
    });
    assert_eq!(agent.end().await, End::Exited(0));
    assert_eq!(text(&agent.stdout), format!("{path}:\nown\nmine\n"));
    // It would see all of it otherwise.
    let mut agent = start_with(&["sh", "-c", &script], |launch| launch.dirs = vec![own]);
    assert_eq!(agent.end().await, End::Exited(0));
    assert!(text(&agent.stdout).starts_with("canary"));
}

#[tokio::test]
async fn nobody_starts_where_landlock_alone_would_show_what_is_the_hosts() {
    let Some((state, _)) = state_in_system() else {
        println!("nothing can be made below /opt");
        return;
    };
    for (view, landlock, refused) in [
        (false, true, true),
        // Files are told to be withheld, or not to be.
        (true, true, false),
        (false, false, false),
    ] {
        let hiding = hiding(state.path(), None);
        let jailer = Jailer::probe(&binary(), None).await.unwrap();
        let layers = Layers {
            view,
            landlock,
            ..jailer.layers()
        };
        hiding.setup.jailer.set(jailer.with(layers)).unwrap();
        let expected = if refused {
            Err(Refused::StateOpen)
        } else {
            Ok(())
        };
        assert_eq!(hiding.check(Wanted::default()).await, expected);
        if refused {
            let code = start_failure(&mut start_under(&hiding, &["true"], |_| {})).await;
            assert_eq!(code, Refused::StateOpen.code());
        }
    }
}
