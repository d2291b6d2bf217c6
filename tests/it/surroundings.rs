//! What a script finds when it starts: the promises of "A script's surroundings".

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;

use serde_json::Value;

use crate::harness::{Guest, run};

/// Runs `body` in a gvad that itself has dirty surroundings, and gives what it printed.
#[track_caller]
fn in_dirty_surroundings(guest: &Guest, name: &str, body: &str) -> (Value, String) {
    guest.script(name, body);
    let mut gvad = guest.gvad(&["drain"]);
    gvad.env("EVIL", "1")
        .env("LD_LIBRARY_PATH", "/evil")
        .env("NOTIFY_SOCKET", guest.path("no-such-socket"));
    gvad.env("HOME", "/evil")
        .env("GVA_EVIL", "1")
        .current_dir("/usr");
    let open = File::open("/etc/passwd").unwrap();
    let fd = open.as_raw_fd();
    #[expect(
        unsafe_code,
        reason = "what a child inherits can only be set between fork and exec"
    )]
    // SAFETY: only calls that are safe between fork and exec.
    unsafe {
        gvad.pre_exec(move || dirty(fd))
    };
    let ended = run(&mut gvad);
    assert_ne!(ended.code, Some(2), "{ended}");
    let result = guest.result(name);
    let stdout = guest.run_file(&result, "stdout");
    (result, String::from_utf8_lossy(&stdout).into_owned())
}

#[expect(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "plain system calls on values of our own"
)]
fn dirty(fd: i32) -> std::io::Result<()> {
    // SAFETY: system calls on a set of our own and a descriptor that is open.
    unsafe {
        libc::umask(0o077);
        libc::dup2(fd, 57);
        for signal in [
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGPIPE,
            libc::SIGUSR1,
            libc::SIGCHLD,
            libc::SIGRTMIN() + 3,
        ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR2);
        libc::sigaddset(&raw mut set, libc::SIGALRM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    // Lower needs CAP_SYS_RESOURCE, which not every root has.
    let score = "/proc/self/oom_score_adj";
    fs::write(score, "-700").or_else(|_| fs::write(score, "300"))
}

#[test]
fn environment_is_only_what_is_promised() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    guest.set("environment.SITE", "cluster a\nline \"two\" $HOME");
    guest.set("environment.EMPTY", "");
    let (result, text) = in_dirty_surroundings(&guest, "env.sh", "#!/bin/cat /proc/self/environ\n");
    let environ = text.split_once("#!/bin/cat").unwrap().0;
    let found: BTreeMap<_, _> = environ
        .split_terminator('\0')
        .map(|pair| pair.split_once('=').unwrap())
        .collect();
    let names: Vec<_> = found.keys().copied().collect();
    let promised = [
        "EMPTY",
        "GVA_APPLICATION",
        "GVA_ATTEMPT",
        "GVA_DATA",
        "GVA_OUTPUT",
        "GVA_PROGRESS",
        "GVA_RUN_ID",
        "GVA_SCRIPT",
        "HOME",
        "LANG",
        "LOGNAME",
        "PATH",
        "SHELL",
        "SITE",
        "TMPDIR",
        "USER",
        "WITNESS",
    ];
    assert_eq!(names, promised);
    assert_eq!(found["SITE"], "cluster a\nline \"two\" $HOME");
    assert_eq!(found["EMPTY"], "");
    assert_eq!(found["GVA_APPLICATION"], guest.text("mnt/application"));
    assert_eq!(found["GVA_DATA"], guest.text("mnt/application/data"));
    assert_eq!(found["GVA_OUTPUT"], guest.text("mnt/output"));
    assert_eq!(found["GVA_SCRIPT"], "env.sh");
    assert_eq!(found["GVA_RUN_ID"], result["run_id"].as_str().unwrap());
    assert_eq!(found["GVA_ATTEMPT"], "1");
    assert_eq!(
        (found["HOME"], found["USER"], found["LOGNAME"]),
        ("/root", "root", "root")
    );
    assert_eq!((found["SHELL"], found["LANG"]), ("/bin/sh", "C.UTF-8"));
    for dir in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        assert!(
            found["PATH"].split(':').any(|d| d == dir),
            "{}",
            found["PATH"]
        );
    }
    assert!(
        found["PATH"].split(':').all(|d| d.starts_with('/')),
        "no relative directory: {}",
        found["PATH"]
    );
    assert!(found["TMPDIR"].starts_with(&guest.text("state/")));
}

#[test]
fn private_directory_is_private_and_gone_afterwards() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\necho \"$TMPDIR\"; stat -c %a:%u \"$TMPDIR\"; cd \"$TMPDIR\"\n\
                mkdir -p a/b; echo x > a/b/c; chmod 000 a/b/c a/b a; ln -s / root; mkfifo p\n";
    let (result, stdout) = guest.outcome_of("tmp.sh", body);
    assert_eq!(result["success"], true, "{result}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[1], "700:0");
    assert!(!fs::exists(lines[0]).unwrap());
    assert!(fs::exists("/etc/passwd").unwrap());
    guest.assert_clean();
}

#[test]
fn script_is_root_with_a_session_of_its_own() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\nid -u; id -g; id -ru; id -G; cut -d' ' -f 6,7 /proc/$$/stat; echo $$\n";
    let (_, stdout) = in_dirty_surroundings(&guest, "id", body);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[..4], ["0", "0", "0", "0"]);
    // Its session is its own pid; it has no controlling terminal.
    assert_eq!(lines[4], format!("{} 0", lines[5]));
}

#[test]
fn signals_are_as_a_fresh_process_has_them() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let (_, text) = in_dirty_surroundings(&guest, "signals", "#!/bin/cat /proc/self/status\n");
    for field in ["SigBlk", "SigIgn", "SigPnd", "ShdPnd"] {
        let line = text.lines().find(|l| l.starts_with(field)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

#[test]
fn umask_input_and_oom_score_are_the_promised_ones() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\numask\nreadlink /proc/$$/fd/0\ncat /proc/$$/oom_score_adj\n";
    let (_, stdout) = in_dirty_surroundings(&guest, "umask", body);
    assert_eq!(stdout, "0022\n/dev/null\n0\n");
}

#[test]
fn no_descriptor_is_inherited() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    // `ls` lists the three, and the directory that it lists.
    let (_, stdout) = in_dirty_surroundings(&guest, "fds", "#!/bin/ls /proc/self/fd\n");
    let open: Vec<_> = stdout
        .lines()
        .filter(|l| l.parse::<u32>().is_ok())
        .collect();
    assert_eq!(open, ["0", "1", "2", "3"], "{stdout}");
}

#[test]
fn name_is_gone_from_script_bin_while_it_runs_and_dollar_zero_ends_in_it() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let body = "#!/bin/sh\nls \"$GVA_APPLICATION/script-bin\"\necho \"0=$0\"; echo \"args=$#\"\n";
    let (_, stdout) = guest.outcome_of("my own.sh", body);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 2, "nothing is listed: {lines:?}");
    let private = format!("0={}", guest.text("state/"));
    assert!(
        lines[0].starts_with(&private) && lines[0].ends_with("/my own.sh"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "args=0");
}

#[test]
fn working_directory_is_the_application_or_the_private_directory() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let (_, stdout) = in_dirty_surroundings(&guest, "a", "#!/bin/sh\npwd -P\n");
    assert_eq!(stdout.trim(), guest.text("mnt/application"));
    guest.set("run.working_directory", "private");
    let (_, stdout) = in_dirty_surroundings(&guest, "b", "#!/bin/sh\npwd -P\necho \"$TMPDIR\"\n");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn script_has_a_cgroup_of_its_own() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if !mounts
        .lines()
        .any(|l| l.split(' ').nth(2) == Some("cgroup2"))
    {
        return crate::harness::skipped("no cgroup v2 is mounted");
    }
    let Some(guest) = Guest::on_image() else {
        return;
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own
        .lines()
        .find(|l| l.starts_with("0::"))
        .unwrap()
        .to_owned();
    let body = "#!/bin/sh\ngrep ^0:: /proc/self/cgroup\n";
    let (_, first) = guest.outcome_of("first", body);
    let (_, second) = guest.outcome_of("second", body);
    assert!(first.trim().len() > own.len(), "{first} is below {own}");
    assert_ne!(first.trim(), own);
    assert_ne!(first, second);
    let root = mounts
        .lines()
        .find(|l| l.split(' ').nth(2) == Some("cgroup2"))
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap();
    for line in [first, second] {
        let group = format!("{root}{}", line.trim().trim_start_matches("0::"));
        assert!(!fs::exists(&group).unwrap(), "{group} is left");
    }
}

#[test]
fn data_and_output_without_images_are_directories_on_the_application() {
    let Some(guest) = Guest::on_image() else {
        return;
    };
    guest.inside(|root| {
        fs::create_dir(root.join("data")).unwrap();
        fs::write(root.join("data/input"), "42\n").unwrap();
    });
    let body = "#!/bin/sh\ncat \"$GVA_DATA/input\"\necho done > \"$GVA_OUTPUT/answer\"\n";
    let (result, stdout) = guest.outcome_of("compute", body);
    assert_eq!(result["success"], true);
    assert_eq!(stdout, "42\n");
    guest.inside(|root| {
        assert_eq!(
            fs::read_to_string(root.join("output/answer")).unwrap(),
            "done\n"
        )
    });
}

/// Whatever a script does to its private directory, the next finds one that is private and has nothing but that script.
#[test]
fn private_directory_has_nothing_of_the_script_before() {
    let Some(guest) = Guest::with_output_image() else {
        return;
    };
    let deeds = [
        "true",
        "echo x > \"$TMPDIR/left\"",
        "mkdir \"$TMPDIR/left\"",
        "chmod 755 \"$TMPDIR\"",
        "chown 1:1 \"$TMPDIR\"",
        "chattr +i \"$TMPDIR\" || true",
        "mount -t tmpfs none \"$TMPDIR\"",
        "mount -t tmpfs none \"$TMPDIR\" && touch \"$TMPDIR/left\"",
        "rm -r \"$TMPDIR\"",
        "mv \"$TMPDIR\" \"$TMPDIR.moved\" && mkdir -m 777 \"$TMPDIR\" && rmdir \"$TMPDIR.moved\"/* || true",
        "rm -r \"$TMPDIR\" && ln -s /etc \"$TMPDIR\"",
        "rm \"$0\"",
    ];
    for (index, deed) in deeds.iter().enumerate() {
        let tell = "#!/bin/sh\nstat -c '%a %u %F' \"$TMPDIR\"; ls -A \"$TMPDIR\"\n";
        guest.script(format!("{index:02}-a"), &format!("{tell}{deed}\n"));
        guest.script(format!("{index:02}-b"), tell);
    }
    let ended = guest.drain();
    assert!(ended.code.is_some_and(|code| code < 2), "{ended}");
    for (index, deed) in deeds.iter().enumerate() {
        for script in [format!("{index:02}-a"), format!("{index:02}-b")] {
            let told = guest.run_file(&guest.result(&script), "stdout");
            let told = String::from_utf8(told).unwrap();
            assert_eq!(
                told,
                format!("700 0 directory\n{script}\n"),
                "{script}, {deed}"
            );
        }
    }
}
