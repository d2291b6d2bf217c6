//! gvad under a service manager, at the end of the work, and with nothing configured.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Daemon, Fs, Guest, Host, Image, run, sh, tool, wait_until, write_script};

const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";
const STAY: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\nexec sleep 1000\n";

#[test]
fn when_drained_exit_ends_the_daemon() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("lifecycle.when_drained", "exit");
    guest.script("a", TELL);
    guest.script("b", "#!/bin/sh\nexit 1\n");
    assert_eq!(guest.daemon().wait(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.results().len(), 2);
    guest.assert_clean();
    assert_eq!(guest.daemon().wait(), Some(0));
}

#[test]
fn when_drained_wait_waits() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let daemon = guest.daemon();
    for name in ["a", "b"] {
        guest.hand_over(name, TELL);
        daemon.wait_result(name);
        daemon.wait_state("idle");
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// The daemon of a machine that is not this one: its systemctl, in the guest's namespace, tells `called` of what it is asked, and gvad may
/// not reboot.
fn of_a_machine(guest: &Guest) -> Command {
    let fake = guest.path("systemctl");
    let body = format!(
        "#!/bin/sh\necho \"$@\" >> '{0}'\ncat '{1}' >> '{0}'\n",
        guest.text("called"),
        guest.text("witness")
    );
    write_script(&fake, &body);
    let real = fs::canonicalize(sh("command -v systemctl").trim()).unwrap();
    sh(&format!(
        "mount --bind '{}' '{}'",
        fake.display(),
        real.display()
    ));
    let mut command = guest.gvad(&[]);
    #[expect(
        unsafe_code,
        clippy::multiple_unsafe_ops_per_block,
        reason = "what a child may do can only be set between fork and exec"
    )]
    // SAFETY: one system call, safe between fork and exec; 22 is CAP_SYS_BOOT.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, 22, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    command
}

#[test]
fn when_drained_poweroff_turns_the_machine_off_after_the_last_result() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.set("lifecycle.when_drained", "poweroff");
    guest.script("a", TELL);
    guest.script("b", TELL);
    let command = of_a_machine(&guest);
    let daemon = Daemon::start(&guest, command);
    wait_until("it turns the machine off", || guest.path("called").exists());
    wait_until("the fake is done", || {
        fs::read_to_string(guest.path("called"))
            .unwrap()
            .lines()
            .count()
            == 3
    });
    let called = fs::read_to_string(guest.path("called")).unwrap();
    let lines: Vec<_> = called.lines().collect();
    assert!(
        lines[0].split(' ').any(|word| word == "poweroff"),
        "{called}"
    );
    assert_eq!(lines[1..], ["a", "b"]);
    if daemon.is_alive() {
        assert_eq!(daemon.stop(), Some(0));
    }
    assert_eq!(guest.results().len(), 2);
    assert_eq!(
        fs::read_to_string(guest.path("called")).unwrap(),
        called,
        "once"
    );
    guest.assert_clean();
}

#[test]
fn machine_that_powers_itself_off_does_so_though_an_image_cannot_be_used() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let host = Host::new(&guest);
    guest.set("lifecycle.when_drained", "poweroff");
    let image = fs::File::options().write(true).open(guest.path("app.img"));
    image.unwrap().set_len(64 << 10).unwrap();
    // As a disk, which may be exchanged, and as a file.
    let disk = guest.attach(&guest.path("app.img"), &[]);
    for source in [disk, guest.text("app.img")] {
        guest.set("application.source", source.clone());
        let daemon = Daemon::start(&guest, of_a_machine(&guest));
        assert_eq!(daemon.wait(), Some(2));
        let called = fs::read_to_string(guest.path("called")).unwrap();
        assert_eq!(called.lines().next(), Some("poweroff"), "{source}");
        fs::remove_file(guest.path("called")).unwrap();
        let told = host.rest();
        assert!(
            told.iter().any(|line| line["event"] == "error"),
            "{told:#?}"
        );
        assert!(
            !told.iter().any(|line| line["event"] == "drained"),
            "{told:#?}"
        );
    }
    guest.assert_unmounted();
}

#[test]
fn stop_does_not_turn_the_machine_off() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.set("lifecycle.when_drained", "poweroff");
    guest.script("a", STAY);
    let daemon = Daemon::start(&guest, of_a_machine(&guest));
    wait_until("it runs", || guest.witness() == ["a"]);
    assert_eq!(daemon.stop(), Some(0));
    assert!(!guest.path("called").exists());
    guest.assert_clean();
}

/// A service manager that listens.
fn manager(guest: &Guest) -> UnixDatagram {
    let socket = UnixDatagram::bind(guest.path("notify")).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    socket
}

/// Takes messages until one has a line that begins so; all of them.
#[track_caller]
fn heard(socket: &UnixDatagram, all: &mut Vec<String>, start: &str) {
    wait_until(&format!("{start} after {all:?}"), || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let found = text.lines().any(|l| l.starts_with(start));
            all.extend(text.lines().map(str::to_owned));
            if found {
                return true;
            }
        }
        false
    });
}

#[test]
fn service_manager_hears_ready_status_watchdog_and_stopping() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let socket = manager(&guest);
    let mut command = guest.gvad(&[]);
    command
        .env("NOTIFY_SOCKET", guest.path("notify"))
        .env("WATCHDOG_USEC", "400000");
    let daemon = Daemon::start(&guest, command);
    let mut all = Vec::new();
    heard(&socket, &mut all, "READY=1");
    for _ in 0..3 {
        heard(&socket, &mut all, "WATCHDOG=1");
    }
    guest.hand_over("long-one", STAY);
    wait_until("it runs", || guest.witness().len() == 1);
    heard(&socket, &mut all, "STATUS=");
    while !all.last().unwrap().contains("long-one") {
        heard(&socket, &mut all, "STATUS=");
    }
    // A running script does not silence the watchdog: three beats within three of its periods.
    let start = Instant::now();
    for _ in 0..3 {
        heard(&socket, &mut all, "WATCHDOG=1");
    }
    assert!(
        start.elapsed() < Duration::from_millis(1200),
        "{:?}",
        start.elapsed()
    );
    assert!(!all.iter().any(|l| l.starts_with("STOPPING")));
    assert_eq!(daemon.stop(), Some(0));
    heard(&socket, &mut all, "STOPPING=1");
    assert_eq!(all.iter().filter(|l| *l == "READY=1").count(), 1, "{all:?}");
}

#[test]
fn service_manager_hears_no_ready_from_a_gvad_that_cannot_work() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let socket = manager(&guest);
    let mut command = guest.gvad(&[]);
    command.env("NOTIFY_SOCKET", guest.path("notify"));
    fs::create_dir(guest.path("state")).unwrap();
    sh(&format!(
        "mount -t tmpfs -o noexec tmpfs '{}'",
        guest.text("state")
    ));
    let ended = run(&mut command);
    assert_eq!(ended.code, Some(2), "{ended}");
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(!text.contains("READY=1"), "{text}");
    }
}

#[test]
fn service_manager_hears_when_the_configuration_is_read_again() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let socket = manager(&guest);
    let mut command = guest.gvad(&[]);
    command.env("NOTIFY_SOCKET", guest.path("notify"));
    let daemon = Daemon::start(&guest, command);
    let mut all = Vec::new();
    heard(&socket, &mut all, "READY=1");
    daemon.wait_state("idle");
    daemon.signal(Signal::SIGHUP);
    heard(&socket, &mut all, "RELOADING=1");
    assert!(
        all.iter().any(|l| l.starts_with("MONOTONIC_USEC=")),
        "{all:?}"
    );
    heard(&socket, &mut all, "READY=1");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn watchdog_of_another_process_is_not_served() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let socket = manager(&guest);
    let mut command = guest.gvad(&[]);
    command
        .env("NOTIFY_SOCKET", guest.path("notify"))
        .env("WATCHDOG_USEC", "200000")
        .env("WATCHDOG_PID", "1");
    let daemon = Daemon::start(&guest, command);
    let mut all = Vec::new();
    heard(&socket, &mut all, "READY=1");
    guest.hand_over("a", "#!/bin/sh\nsleep 0.5\n");
    daemon.wait_result("a");
    assert_eq!(daemon.stop(), Some(0));
    heard(&socket, &mut all, "STOPPING=1");
    assert!(!all.iter().any(|l| l.starts_with("WATCHDOG=1")), "{all:?}");
}

#[test]
fn defaults_put_everything_where_the_contract_says() {
    let Some(guest) = Guest::alone() else { return };
    // A machine of its own: /run and /var/lib are the guest's, and so is /etc.
    let label = "gva-app";
    let content = guest.path("content");
    let body = "#!/bin/sh\necho \"$GVA_APPLICATION $GVA_DATA $GVA_OUTPUT ${TMPDIR%/*}\"\n";
    write_script(&content.join("script-bin/a"), body);
    let image = Image::of(Fs::Ext4, guest.path("app.img"), label, &content);
    guest.attach(&image.path, &[]);
    sh("mount -t tmpfs tmpfs /etc; mount -t tmpfs tmpfs /var/lib");
    let ended = run(Command::new(env!("CARGO_BIN_EXE_gvad")).arg("drain"));
    assert_eq!(ended.code, Some(0), "{ended}");
    let stdout = image.inside(&guest.path("look"), |root| {
        fs::read_to_string(root.join("output/gvad/000001-a/stdout")).unwrap()
    });
    let base = "/run/gva/application";
    assert_eq!(
        stdout,
        format!("{base} {base}/data {base}/output /var/lib/gvad\n")
    );
    let left = tool(Command::new("sh").args(["-c", "grep -c /run/gva /proc/self/mounts || true"]));
    assert_eq!(left.trim(), "0");
}

/// A systemd that knows that the machine is going down, for as long as the test's process lives.
fn systemd_that_is_stopping() {
    fs::create_dir_all("/run/systemd").unwrap();
    let listener = UnixListener::bind("/run/systemd/private").unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = answer_that_it_is_stopping(stream.unwrap());
        }
    });
}

fn answer_that_it_is_stopping(mut stream: UnixStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 26])?;
    stream.write_all(b"OK 1\r\n")?;
    let _question = stream.read(&mut [0; 1024])?;
    let header = b"l\x02\x01\x01\x11\0\0\0\x01\0\0\0\0\0\0\0";
    let body = b"\x01s\0\0\x08\0\0\0stopping\0";
    stream.write_all(&[header.as_slice(), body].concat())?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

#[test]
fn script_behind_one_that_shuts_the_machine_down_is_not_started() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    systemd_that_is_stopping();
    guest.script("a", TELL);
    guest.script("b", TELL);
    let daemon = guest.daemon();
    let status = daemon.wait_state("stopping");
    assert_eq!(status["problem"], "the machine is being shut down");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
    assert_eq!(guest.waiting(), ["b"], "the next boot runs it");
    guest.assert_clean();
}
