//! What somebody who plays QEMU says to `gva run`.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use tokio::net::UnixStream;

#[allow(dead_code)]
#[path = "../../../packaging/gva/src/lines.rs"]
mod lines;
#[allow(dead_code)]
#[path = "../../../packaging/gva/src/qmp.rs"]
mod qmp;

fuzz_target!(|said: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("two ends");
        theirs.write_all(said).expect("room for what is said");
        theirs.shutdown(std::net::Shutdown::Write).expect("an end");
        ours.set_nonblocking(true).expect("a socket");
        let ours = UnixStream::from_std(ours).expect("a socket");
        if let Ok(mut qmp) = qmp::Qmp::new(ours).await {
            let _ = qmp.execute("query-status", serde_json::json!({})).await;
            qmp.last_events().await;
        }
    });
});
