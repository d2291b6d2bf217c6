//! Two gvads at once: on one private directory, one application, one output. The second says what is in use and by whom, and nothing runs twice.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::frame::TELL;
use crate::harness::{Daemon, Ended, Fs, Guest, Image, Place, run, sh, wait_until, write_script};

const STAY: &str = "#!/bin/sh\necho a >> \"$WITNESS\"\nexec sleep 1000\n";

const SHORT: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\nexec sleep 0.3\n";

/// A gvad runs script `a` on the guest that `make` gives; then `change` takes from its configuration what the second shall have for itself. The
/// second is refused with these words, told as a daemon too; the first goes on, and what comes next runs once.
#[track_caller]
fn refused(make: fn() -> Option<Guest>, prepare: fn(&Guest), change: fn(&Guest), words: &[&str]) {
    let Some(guest) = make() else { return };
    prepare(&guest);
    guest.script("a", STAY);
    let right = settings(&guest);
    let first = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    change(&guest);
    fs::copy(guest.write_config(), guest.path("second.toml")).unwrap();
    fs::write(guest.path("gvad.toml"), &right).unwrap();
    for command in [&["drain"][..], &[]] {
        let ended = second(&guest, command);
        assert_eq!(ended.code, Some(2), "{ended}");
        let last = ended.stderr.lines().last().unwrap();
        let by = format!("(process {})", first.pid());
        for word in [
            &["gvad: ", "another gvad", "only one may at a time", &by][..],
            words,
        ]
        .concat()
        {
            let word = word.replace(
                "$TEST",
                guest.path("").to_str().unwrap().trim_end_matches('/'),
            );
            assert!(last.contains(&word), "{word:?} in {ended}");
        }
    }
    assert_eq!(guest.witness(), ["a"]);
    fs::write(guest.path("first.toml"), &right).unwrap();
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
    // Now that the first has ended, the second may work on it.
    assert_eq!(
        guest.waiting().iter().filter(|name| *name == "a").count(),
        0
    );
    write_script(&guest.path("next"), TELL);
    guest.inside(|root| fs::copy(guest.path("next"), root.join("script-bin/next")).unwrap());
    let ended = run(Command::new(env!("CARGO_BIN_EXE_gvad")).args([
        "drain",
        "--config",
        &guest.text("first.toml"),
    ]));
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(guest.witness(), ["a", "next"]);
    guest.assert_clean();
}

fn settings(guest: &Guest) -> Vec<u8> {
    fs::read(guest.write_config()).unwrap()
}

fn second(guest: &Guest, command: &[&str]) -> Ended {
    let mut gvad = Command::new(env!("CARGO_BIN_EXE_gvad"));
    run(gvad
        .args(command)
        .args(["--config", &guest.text("second.toml")]))
}

fn nothing(_: &Guest) {}

/// Everything that is not an image is the second's own.
fn own_places(guest: &Guest) {
    guest.set("run.temp_dir", guest.text("state-2"));
    for role in ["application", "data", "output"] {
        guest.set(
            &format!("{role}.mount_point"),
            guest.text(&format!("mnt-2/{role}")),
        );
    }
}

fn own_output(guest: &Guest) {
    own_places(guest);
    fs::create_dir(guest.path("output-2")).unwrap();
    guest.set("output.source", guest.text("output-2"));
}

fn own_application(guest: &Guest) {
    own_places(guest);
    write_script(&guest.path("app-2/script-bin/b"), TELL);
    guest.set("application.source", guest.text("app-2"));
}

fn on_a_device(guest: &Guest) {
    let device = guest.attach(&guest.path("app.img"), &[]);
    guest.set("application.source", device);
}

fn output_directory(guest: &Guest) {
    fs::create_dir(guest.path("out")).unwrap();
    guest.set_output(Place::Directory(guest.path("out")));
}

fn output_device(guest: &Guest) {
    let image = Image::empty(Fs::Ext4, guest.path("out.img"), &guest.label("out"));
    guest.set("output.source", guest.attach(&image.path, &[]));
}

cases! { refused {
    second_gvad_with_everything_the_same: (Guest::on_image, nothing, nothing, &["is running with run.temp_dir $TEST/state"]),
    second_gvad_with_another_image: (Guest::on_image, nothing, |guest| guest.set("application.source", guest.text("another.img")), &["is running with run.temp_dir $TEST/state"]),
    second_gvad_by_another_name_of_the_private_directory: (Guest::on_image, nothing, |guest| {
        sh(&format!("ln -s state '{}'", guest.text("link")));
        guest.set("run.temp_dir", guest.text("link"));
    }, &["is running with run.temp_dir $TEST/link"]),
    second_gvad_on_the_same_image: (Guest::on_image, nothing, own_output, &["works on the application image $TEST/app.img"]),
    second_gvad_on_the_same_image_by_a_link: (Guest::on_image, nothing, |guest| {
        own_output(guest);
        sh(&format!("ln -s app.img '{}'", guest.text("link.img")));
        guest.set("application.source", guest.text("link.img"));
    }, &["works on the application image $TEST/link.img"]),
    second_gvad_on_the_same_device: (Guest::on_image, on_a_device, own_output, &["works on the application image /dev/loop"]),
    second_gvad_on_the_same_directory: (Guest::in_directory, nothing, own_output, &["works on the application image $TEST/app"]),
    second_gvad_on_the_same_output_directory: (Guest::in_directory, output_directory, own_application, &["works on the output directory $TEST/out"]),
    second_gvad_on_the_same_output_image: (Guest::with_output_image, nothing, own_application, &["works on the output directory $TEST/mnt-2/output"]),
    second_gvad_on_the_same_output_device: (Guest::on_image, output_device, own_application, &["works on the output directory $TEST/mnt-2/output"]),
} }

/// Both are started in one moment; one works, the other is refused, and each script runs once.
#[track_caller]
fn at_once(make: fn() -> Option<Guest>, change: fn(&Guest)) {
    let Some(guest) = make() else { return };
    let first = settings(&guest);
    change(&guest);
    fs::write(guest.path("second.toml"), settings(&guest)).unwrap();
    // The guest itself looks where the first has its things.
    guest.set("run.temp_dir", guest.text("state"));
    fs::write(guest.path("first.toml"), first).unwrap();
    let start = |config: &str| {
        let mut gvad = Command::new(env!("CARGO_BIN_EXE_gvad"));
        gvad.args(["drain", "--config", &guest.text(config)]);
        Daemon::start(&guest, gvad)
    };
    let mut expected = Vec::new();
    for round in 0..3 {
        expected.push(format!("a{round}"));
        guest.script(&expected[round], SHORT);
        let both = [start("first.toml"), start("second.toml")];
        let mut codes = both.map(|one| one.wait().unwrap());
        codes.sort_unstable();
        let log = fs::read_to_string(guest.path("log")).unwrap();
        // The second may also come when the first has ended already.
        assert!(matches!(codes, [0, 2] | [0, 0]), "{codes:?}: {log}");
        assert_eq!(guest.witness(), expected, "{log}");
        assert!(
            codes == [0, 0] || log.contains("another gvad (process "),
            "{log}"
        );
        guest.assert_clean();
    }
}

cases! { at_once {
    two_gvads_started_at_once_with_everything_the_same: (Guest::on_image, nothing),
    two_gvads_started_at_once_on_one_image: (Guest::on_image, own_places),
    two_gvads_started_at_once_on_one_directory: (Guest::in_directory, own_places),
    two_gvads_started_at_once_on_one_application_and_output_image: (Guest::with_output_image, own_places),
} }

/// What somebody else's lock, or what is left of one, does.
#[track_caller]
fn lock(hold: &str, words: &[&str]) {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("a", TELL);
    fs::create_dir(guest.path("state")).unwrap();
    let mut holder = Command::new("bash");
    holder.current_dir(guest.path("")).args([
        "-euc",
        &format!("{hold}; echo ready > ready; exec sleep 1000"),
    ]);
    let holder = Daemon::start(&guest, holder);
    wait_until("it is locked", || guest.path("ready").exists());
    let ended = guest.drain();
    assert_eq!(
        ended.code,
        Some(if words.is_empty() { 0 } else { 2 }),
        "{ended}"
    );
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} in {ended}");
    }
    holder.kill();
    guest.drain_ok();
    assert_eq!(guest.witness(), ["a"]);
    guest.assert_clean();
}

cases! { lock {
    private_directory_that_somebody_else_locks: ("exec 9< state; flock 9", &["is running with run.temp_dir ", "(process "]),
    application_that_somebody_else_locks: ("exec 9< app; flock 9", &["works on the application image ", "(process "]),
    application_that_a_reader_locks: ("exec 9< app; flock -s 9", &["works on the application image ", "(process "]),
    output_that_somebody_else_locks: ("mkdir -p app/output/gvad; exec 9< app/output/gvad; flock 9", &["works on the output directory ", "(process "]),
    script_bin_that_somebody_else_locks: ("exec 9< app/script-bin; flock 9", &[]),
    file_that_looks_like_a_lock: ("touch state/lock state/gvad.lock state/.lock", &[]),
} }

#[test]
fn commands_that_only_look_work_beside_a_running_gvad() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("a", STAY);
    let daemon = guest.daemon();
    wait_until("it runs", || guest.witness() == ["a"]);
    for command in ["check", "status"] {
        let ended = run(&mut guest.gvad(&[command]));
        assert_eq!(ended.code, Some(0), "{command}: {ended}");
    }
    let ended = run(Command::new(env!("CARGO_BIN_EXE_gvad"))
        .arg("results")
        .arg(guest.path("app/output")));
    assert_eq!(ended.code, Some(0), "{ended}");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
}

#[test]
fn socket_of_a_gvad_that_is_gone_is_replaced() {
    let Some(guest) = Guest::in_directory() else {
        return;
    };
    guest.script("a", TELL);
    fs::create_dir(guest.path("state")).unwrap();
    drop(UnixListener::bind(guest.path("state/control")).unwrap());
    let daemon = guest.daemon();
    daemon.wait_result("a");
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(guest.witness(), ["a"]);
    guest.assert_clean();
}
