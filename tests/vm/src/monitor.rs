//! QEMU's monitor, by the QEMU Machine Protocol: one JSON object a line, see QEMU's docs/interop/qmp-spec.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use serde_json::{Value, json};

use crate::{PATIENCE, wait_for};

/// A connection to a machine's monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    lines: Receiver<Value>,
    events: Vec<Value>,
}

impl Monitor {
    /// Connects to the socket, which QEMU makes while it starts.
    #[must_use]
    pub fn connect(socket: &Path) -> Monitor {
        let stream = wait_for("the monitor", || UnixStream::connect(socket).ok());
        let (sender, lines) = channel();
        let reader = BufReader::new(stream.try_clone().unwrap());
        std::thread::spawn(move || forward(reader, &sender));
        let mut monitor = Monitor {
            stream,
            lines,
            events: Vec::new(),
        };
        monitor.next("the greeting");
        monitor.execute("qmp_capabilities", json!({}));
        monitor
    }

    fn next(&mut self, what: &str) -> Value {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(err) => panic!("waiting for {what} on the monitor: {err}"),
        }
    }

    /// Executes a command; its error is a failed test.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Value {
        match self.try_execute(command, arguments) {
            Ok(value) => value,
            Err(err) => panic!("{command}: {err}"),
        }
    }

    /// Executes a command.
    ///
    /// # Errors
    /// QEMU's answer.
    pub fn try_execute(&mut self, command: &str, arguments: Value) -> Result<Value, Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{request}").unwrap();
        loop {
            let line = self.next(command);
            if line.get("event").is_some() {
                self.events.push(line);
            } else if let Some(value) = line.get("return") {
                return Ok(value.clone());
            } else {
                return Err(line["error"].clone());
            }
        }
    }

    /// Waits for an event of QEMU, such as `DEVICE_DELETED`, that `is` agrees to.
    pub fn event(&mut self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = |event: &Value| event["event"] == name && is(&event["data"]);
            if let Some(at) = self.events.iter().position(found) {
                return self.events.remove(at);
            }
            assert!(Instant::now() < until, "no {name} on the monitor");
            let line = self.next(name);
            self.events.push(line);
        }
    }

    /// Attaches an image to a running machine as a virtio disk on the free port `port`, and returns once QEMU has it.
    pub fn plug(&mut self, port: &str, serial: &str, image: &Path) {
        self.execute(
            "blockdev-add",
            json!({ "driver": "raw", "node-name": format!("node-{serial}"),
                    "file": { "driver": "file", "filename": image } }),
        );
        self.execute(
            "device_add",
            json!({ "driver": "virtio-blk-pci", "id": serial, "serial": serial, "bus": port, "drive": format!("node-{serial}") }),
        );
    }

    /// Takes it out again; the guest must agree.
    pub fn unplug(&mut self, serial: &str) {
        self.execute("device_del", json!({ "id": serial }));
        self.event("DEVICE_DELETED", |data| data["device"] == *serial);
        let node = json!({ "node-name": format!("node-{serial}") });
        // QEMU lets the node go a moment after it has told.
        wait_for("the node to be free", || {
            self.try_execute("blockdev-del", node.clone()).ok()
        });
    }
}

fn forward(reader: impl BufRead, sender: &Sender<Value>) {
    for line in reader.lines() {
        let Ok(line) = line else { return };
        let Ok(value) = serde_json::from_str(&line) else {
            return;
        };
        if sender.send(value).is_err() {
            return;
        }
    }
}
