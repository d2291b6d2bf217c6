//! Shares: the host puts scripts into a directory while the guest runs, and reads the results there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gvad::report::event::Event;
use gvad_vm_tests::image::{output, results, scripts};
use gvad_vm_tests::machine::{Base, Machine, Plan};
use gvad_vm_tests::wait_for;

const HELLO: &str = "#!/bin/sh\necho hello\n";

fn config(fstype: &str) -> String {
    format!(
        "application.source = 'job'\napplication.fstype = '{fstype}'\nwatch.poll_interval = '1s'\n"
    )
}

/// A host's directory by 9p, which only the generic kernel knows.
fn by_9p(directory: &Path) -> Plan {
    let share = format!(
        "local,path={},mount_tag=job,security_model=none",
        directory.display()
    );
    Plan::new(Base::Bios)
        .serving_with(&config("9p"))
        .with(&["-virtfs", &share])
}

/// The host's side of virtiofs; it ends with its machine.
struct Virtiofsd(Child);

impl Drop for Virtiofsd {
    fn drop(&mut self) {
        // It ends by itself when QEMU does.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_virtiofs(directory: &Path) -> (Virtiofsd, Plan) {
    let plan = Plan::new(Base::Bios).serving_with(&config("virtiofs"));
    let socket = plan.dir().join("virtiofs");
    let mut daemon = Command::new("/usr/lib/qemu/virtiofsd");
    daemon.arg(format!("--socket-path={}", socket.display()));
    daemon
        .arg("-o")
        .arg(format!("source={},cache=none", directory.display()));
    let child = daemon
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let daemon = Virtiofsd(child);
    wait_for("virtiofsd", || socket.exists().then_some(()));
    let plan = plan
        .with(&[
            "-object",
            "memory-backend-memfd,id=memory,size=384M,share=on",
            "-m",
            "384",
            "-numa",
            "node,memdev=memory",
        ])
        .with(&[
            "-chardev",
            &format!("socket,id=virtiofs,path={}", socket.display()),
        ])
        .with(&["-device", "vhost-user-fs-pci,chardev=virtiofs,tag=job"]);
    (daemon, plan)
}

/// A script is put there as a host does it: whole, by a rename.
fn drop_in(directory: &Path, name: &str, text: &str) {
    let script_bin = directory.join("script-bin");
    let part = script_bin.join(format!("{name}.part"));
    fs::write(&part, text).unwrap();
    fs::set_permissions(&part, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(part, script_bin.join(name)).unwrap();
}

fn on_a_share(machine: &mut Machine, directory: &Path, out: &Path) {
    assert!(machine.port.result("first").success);
    // While it runs, and not whole at first: not to be run before it is.
    let half = directory.join("script-bin/half");
    fs::write(&half, "#!/bin/sh\necho begun\n").unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..8 {
        std::thread::sleep(std::time::Duration::from_millis(400));
        let mut text = fs::read_to_string(&half).unwrap();
        text.push_str("echo more\n");
        fs::write(&half, text).unwrap();
    }
    assert!(machine.port.result("half").success);
    drop_in(directory, "second", HELLO);
    assert!(machine.port.result("second").success);
    assert_eq!(waiting(directory), Vec::<String>::new());
    assert!(machine.port.ask(gvad::report::event::Command::Poweroff).0);
    assert!(machine.wait_end().success());
    let names: Vec<_> = results(out, "/gvad")
        .into_iter()
        .map(|result| (result.name.script, result.stdout_bytes))
        .collect();
    let whole = "begun\n".len() + 8 * "more\n".len();
    let expected = [("first", 6), ("half", whole as u64), ("second", 6)];
    assert_eq!(
        names,
        expected.map(|(name, bytes)| (name.to_owned(), bytes))
    );
}

/// What is in script-bin, but for claims.
fn waiting(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory.join("script-bin")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".gvad").collect()
}

#[test]
fn scripts_come_by_9p_while_the_guest_runs() {
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job");
    scripts(&job, &[("first", HELLO)]);
    let out = output(dir.path(), "out.img");
    let mut machine = by_9p(&job).disk("gva-o", &out).start();
    on_a_share(&mut machine, &job, &out);
}

#[test]
fn scripts_come_by_virtiofs_while_the_guest_runs() {
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job");
    scripts(&job, &[("first", HELLO)]);
    let out = output(dir.path(), "out.img");
    let (_daemon, plan) = by_virtiofs(&job);
    let mut machine = plan.disk("gva-o", &out).start();
    on_a_share(&mut machine, &job, &out);
}

/// Every `result.json` below a directory of the host.
fn result_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(result_files(&path));
        } else if path.ends_with("result.json") {
            found.push(path);
        }
    }
    found
}

#[test]
fn two_guests_on_one_share_run_each_script_in_exactly_one_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("job");
    let names: Vec<String> = (0..30).map(|number| format!("{number:02}-once")).collect();
    // The witness is written by whoever runs it: a second run is a second line.
    let text = "#!/bin/sh\ncat /proc/sys/kernel/random/boot_id >> \"$GVA_APPLICATION/witness-$GVA_SCRIPT\"\nsleep 0.2\n";
    scripts(&job, &[]);
    let (mut one, mut other) = (by_9p(&job).start(), by_9p(&job).start());
    for machine in [&mut one, &mut other] {
        machine
            .port
            .wait("the share", |event| matches!(event, Event::Mounted { .. }));
    }
    for name in &names {
        drop_in(&job, name, text);
    }
    wait_for("all results", || {
        (result_files(&job.join("output")).len() == names.len()).then_some(())
    });
    let mut boots = BTreeSet::new();
    for name in &names {
        let witness = fs::read_to_string(job.join(format!("witness-{name}"))).unwrap();
        assert_eq!(
            witness.lines().count(),
            1,
            "{name} ran more than once: {witness}"
        );
        boots.insert(witness);
    }
    assert_eq!(boots.len(), 2, "both guests had work");
    for machine in [&mut one, &mut other] {
        assert!(machine.port.ask(gvad::report::event::Command::Poweroff).0);
        assert!(machine.wait_end().success());
    }
}
