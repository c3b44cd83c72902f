//! A disk that does not answer: what happens is told all the same, and is written
//! down when it does.

use skep_client::protocol::Outcome;
use skep_tests::{HostProcess, Stall, probe, soon};

use crate::running;

#[expect(clippy::print_stdout, reason = "which case ran")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_told_though_the_disk_of_the_store_hangs() {
    let mut host = HostProcess::start(&[]).await;
    let client = host.client();
    let agent = client.spawn(probe(&["until-stop"]), None).await.unwrap().id;
    running(&client, agent).await;
    let Some(stall) = Stall::of(host.pid(), "skep-store") else {
        println!("not tried: this process may not stop a thread of another");
        return;
    };
    println!("tried with a thread that stands still");
    let watched = host.client();
    let watched = tokio::spawn(async move { watched.wait(agent, None).await });
    // Who asks for it is answered, and who only waits is told.
    let killed = soon("the answer", client.kill(agent)).await.unwrap();
    assert_eq!(killed.outcome, Some(Outcome::Killed));
    let told = soon("the end", watched).await.unwrap().unwrap();
    assert_eq!(told.outcome, Some(Outcome::Killed));
    // The next host knows how it ended.
    drop(stall);
    host.terminate();
    assert_eq!(host.ended().await.code(), Some(0));
    host.start_again().await;
    assert_eq!(client.get(agent).await.unwrap().outcome, killed.outcome);
    assert!(host.panics().is_empty());
}
