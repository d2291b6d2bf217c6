//! QEMU is killed at any moment of a long drain, and the host looks at what the disks have: GVA_POWER_CUTS times, 2 if that is not set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gvad::outcome::{Outcome, RunResult};
use gvad_vm_tests::image::{application, is_clean, output, results, run};
use gvad_vm_tests::machine::{Base, Plan};
use gvad_vm_tests::{PATIENCE, wait_for};

/// So many scripts that one machine would run.
const SCRIPTS: usize = 60;
/// Where a script in the machine tells that it runs: QEMU writes it to a file, and the script waits until it has.
const WITNESS: &str = "/dev/virtio-ports/org.gva.witness";
/// Its output: longer than a page, and known.
const LINES: usize = 400;

#[test]
fn a_machine_that_is_killed_at_any_moment_neither_loses_nor_repeats_a_script() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: needs root, to mount what the machine leaves");
        return;
    }
    let count = std::env::var("GVA_POWER_CUTS").map_or(2, |count| count.parse().unwrap());
    for turn in 0..count {
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let seed = u64::from_str_radix(&random[..8], 16).unwrap();
        cut_and_recover(turn, seed);
    }
}

/// The witness's file in `dir`, the application and the output.
struct Disks {
    dir: tempfile::TempDir,
    app: PathBuf,
    out: PathBuf,
}

fn cut_and_recover(turn: u64, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "#!/bin/sh\necho \"$GVA_SCRIPT\" >> \"${{WITNESS:-{WITNESS}}}\"\nyes \"$GVA_SCRIPT says this\" | head -n {LINES}\n"
    );
    let names: Vec<String> = (0..SCRIPTS).map(|number| format!("{number:03}")).collect();
    let scripts: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), text.as_str()))
        .collect();
    let app = application(dir.path(), "app", &scripts);
    let out = output(dir.path(), "out.img");
    // Labels of their own: any gvad on the host that looks for the usual ones would take the images while they are recovered there.
    for (image, label) in [(&app, "power-app"), (&out, "power-out")] {
        run(Command::new("/usr/sbin/e2label").arg(image).arg(label));
    }
    let disks = Disks { dir, app, out };

    // After that many scripts have begun, and a moment that no script chooses.
    let begun = usize::try_from(seed).unwrap() % (SCRIPTS - 1);
    let moment = Duration::from_micros(seed / 64 % 250_000);
    let cache = ["none", "writethrough"][usize::try_from(turn).unwrap() % 2];
    let ended = kill_machine(&disks, cache, begun, moment);
    let told = disks.witness();
    let said = format!(
        "cut {turn}: cache={cache}, {begun} begun and {moment:?}; {} had begun",
        told.len()
    );

    disks.configure();
    let first = disks.drain();
    assert!(
        matches!(first, Some(0 | 1)),
        "{said}: {first:?}: {}",
        disks.log()
    );
    let interrupted = disks.check(&told, &said);
    let after = (disks.witness(), disks.everything());
    assert_eq!(disks.drain(), Some(0), "{said}: {}", disks.log());
    assert_eq!((disks.witness(), disks.everything()), after, "{said}: I7");
    for image in [&disks.app, &disks.out] {
        assert!(is_clean(image), "{said}: {}", image.display());
        run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(image));
    }
    println!("{said}; interrupted: {interrupted:?}; the machine had ended by itself: {ended}");
}

/// Boots a machine and kills it; whether it was all done before.
fn kill_machine(disks: &Disks, cache: &str, begun: usize, moment: Duration) -> bool {
    let labels = "application.source = 'LABEL=power-app'\noutput.source = 'LABEL=power-out'\n";
    let mut plan = Plan::new(Base::Direct).config(labels);
    for (serial, image) in [("gva-a0", &disks.app), ("gva-o", &disks.out)] {
        let drive = format!(
            "file={},format=raw,if=none,id={serial},cache={cache}",
            image.display()
        );
        let device = format!("virtio-blk-pci,drive={serial},serial={serial}");
        plan = plan.with(&["-drive", &drive, "-device", &device]);
    }
    let file = format!("file,id=witness,path={}", disks.path("witness").display());
    let mut machine = plan
        .with(&[
            "-chardev",
            &file,
            "-device",
            "virtserialport,chardev=witness,name=org.gva.witness",
        ])
        .start();
    let until = Instant::now() + PATIENCE;
    while disks.witness().len() < begun.max(1) {
        assert!(
            Instant::now() < until,
            "no script begins: {}",
            machine.console()
        );
        // Events are read on, so that nothing waits for that.
        let _ = machine.port.next(Duration::from_millis(2));
    }
    std::thread::sleep(moment);
    let ended = machine.has_ended();
    machine.cut_power();
    ended
}

impl Disks {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What has begun, in its order.
    fn witness(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("witness")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// For the gvad of the host: the images by their paths, and no other disk.
    fn configure(&self) {
        for directory in ["state", "data"] {
            fs::create_dir(self.path(directory)).unwrap();
        }
        let (dir, app, out) = (
            self.dir.path().display(),
            self.app.display(),
            self.out.display(),
        );
        let text = format!(
            "[application]\nsource = '{app}'\nmount_point = '{dir}/mnt/application'\n[data]\nsource = '{dir}/data'\nmount_point = '{dir}/mnt/data'\n\
             [output]\nsource = '{out}'\nmount_point = '{dir}/mnt/output'\n[run]\ntemp_dir = '{dir}/state'\n[environment]\nWITNESS = '{dir}/told'\n\
             [report]\nport = ''\n[parameters]\nwait = '0s'\n"
        );
        fs::write(self.path("gvad.toml"), text).unwrap();
    }

    /// Drains the images on the host, in a mount namespace of its own; the exit status.
    fn drain(&self) -> Option<i32> {
        let gvad = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/gvad");
        assert!(gvad.exists(), "no {}: cargo build", gvad.display());
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(gvad)
            .args(["drain", "--config"])
            .arg(self.path("gvad.toml"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.path("log")).unwrap())
            .status()
            .unwrap();
        // What begins on the host is told beside what began in the machine.
        let told = fs::read_to_string(self.path("told")).unwrap_or_default();
        let _ = fs::remove_file(self.path("told"));
        let all = self.witness().join("\n") + "\n" + &told;
        fs::write(self.path("witness"), all.trim_start()).unwrap();
        wait_for("the loop devices to be gone", || {
            self.is_detached().then_some(())
        });
        status.code()
    }

    fn is_detached(&self) -> bool {
        let attached = run(Command::new("/usr/sbin/losetup").arg("-a"));
        !attached.contains(&self.dir.path().display().to_string())
    }

    /// Results and output of every run.
    fn everything(&self) -> Vec<(String, String)> {
        let copy = self.path("copy");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir(&copy).unwrap();
        let request = format!("rdump /gvad {}", copy.display());
        run(Command::new("/usr/sbin/debugfs")
            .args(["-R", &request])
            .arg(&self.out));
        let mut all = Vec::new();
        for entry in fs::read_dir(copy.join("gvad")).unwrap() {
            let place = entry.unwrap().path();
            for file in ["result.json", "stdout", "stderr"] {
                let text = fs::read_to_string(place.join(file));
                let name = place.file_name().unwrap().to_string_lossy().into_owned();
                all.extend(text.ok().map(|text| (format!("{name}/{file}"), text)));
            }
        }
        all.sort();
        all
    }

    /// I1, I2, I4, I5 and I8; gives who was interrupted.
    fn check(&self, told: &[String], said: &str) -> Option<String> {
        let mut starts: BTreeMap<String, usize> = BTreeMap::new();
        let witness = self.witness();
        witness
            .iter()
            .for_each(|name| *starts.entry(name.clone()).or_default() += 1);
        assert!(
            starts.values().all(|count| *count == 1),
            "{said}: I1: {witness:?}"
        );
        assert!(witness.is_sorted(), "{said}: I8: {witness:?}");
        let all = results(&self.out, "/gvad");
        let mut names: Vec<_> = all
            .iter()
            .map(|result| result.name.script.clone())
            .collect();
        names.sort();
        let expected: Vec<String> = (0..SCRIPTS).map(|number| format!("{number:03}")).collect();
        assert_eq!(names, expected, "{said}: I2");
        let outputs: BTreeMap<_, _> = self.everything().into_iter().collect();
        let (good, other): (Vec<&RunResult>, Vec<&RunResult>) = all
            .iter()
            .partition(|result| result.outcome != Outcome::Interrupted);
        for result in good {
            let name = &result.name.script;
            let whole = format!("{name} says this\n").repeat(LINES);
            let printed = &outputs[&format!("{}/stdout", result.run_id)];
            assert!(
                result.success && *printed == whole && starts.contains_key(name),
                "{said}: I4: {result:#?}"
            );
        }
        assert!(other.len() <= 1, "{said}: I5: {other:#?}");
        let interrupted = other.first().map(|result| result.name.script.clone());
        if let Some(name) = &interrupted {
            let over = told.contains(name) && told.last() != Some(name);
            assert!(!over, "{said}: I5: {name} was over before another began");
        }
        interrupted
    }
}
