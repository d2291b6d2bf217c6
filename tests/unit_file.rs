//! The systemd unit that ships: systemd accepts it, and it says what the contract asks for.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first surprise"
)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/gvad.service");

/// The assignments of a section, in order.
fn assignments(section: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(UNIT).unwrap().replace("\\\n", " ");
    let mut here = false;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        match line.strip_prefix('[') {
            Some(name) => here = name == format!("{section}]"),
            None if here && !line.starts_with(['#', ';']) => {
                if let Some((key, value)) = line.split_once('=') {
                    found.push((key.trim().to_owned(), value.trim().to_owned()));
                }
            }
            None => {}
        }
    }
    found
}

/// The last value of a key of the service.
fn service(key: &str) -> String {
    let found = assignments("Service").into_iter().rfind(|(k, _)| k == key);
    found.unwrap_or_else(|| panic!("no {key}= in {UNIT}")).1
}

/// A time span of systemd, in seconds.
fn seconds(text: &str) -> u64 {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let number: u64 = digits.parse().unwrap();
    match &text[digits.len()..] {
        "" | "s" => number,
        "min" => number * 60,
        unit => panic!("the unit {unit:?} in {text}"),
    }
}

#[test]
fn unit_says_what_the_contract_asks_for() {
    assert_eq!(service("Type"), "notify");
    assert!(["yes", "true", "on", "1"].contains(&service("Delegate").as_str()));
    assert_eq!(service("KillMode"), "mixed");
    assert_eq!(service("Restart"), "on-failure");
    assert!(service("ExecStart").contains("gvad"));
    assert!(seconds(&service("WatchdogSec")) > 0);
    // The default of run.stop_grace is 10 s; the result is to be recorded after it.
    assert!(seconds(&service("TimeoutStopSec")) > 10);
    assert!(service("OOMScoreAdjust").parse::<i32>().unwrap() < 0);
    let reload = assignments("Service")
        .into_iter()
        .any(|(k, v)| k == "ExecReload" && v.contains("HUP"));
    assert!(reload, "systemctl reload sends SIGHUP");
}

#[test]
fn unit_gives_gvad_no_mount_namespace() {
    let private = [
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateUsers",
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectClock",
        "ProtectProc",
        "ProcSubset",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "TemporaryFileSystem",
        "BindPaths",
        "BindReadOnlyPaths",
        "MountFlags",
        "MountImages",
        "ExtensionImages",
        "ExtensionDirectories",
        "RootDirectory",
        "RootImage",
        "DynamicUser",
        "StateDirectory",
        "RuntimeDirectory",
        "CacheDirectory",
        "LogsDirectory",
        "JoinsNamespaceOf",
    ];
    // The last few make none by themselves, but with DynamicUser= or quotas they do.
    let harmless = [
        "StateDirectory",
        "RuntimeDirectory",
        "CacheDirectory",
        "LogsDirectory",
    ];
    for (key, value) in assignments("Service").iter().chain(&assignments("Unit")) {
        let makes_one = private.contains(&key.as_str()) && !harmless.contains(&key.as_str());
        assert!(
            !makes_one,
            "{key}={value} would hide the images from the guest"
        );
    }
    let text = fs::read_to_string(UNIT).unwrap();
    let comment = text
        .lines()
        .any(|l| l.starts_with('#') && l.contains("namespace"));
    assert!(comment, "a comment says why");
}

#[test]
fn unit_is_ordered_so_that_scripts_may_call_systemctl() {
    let words = |key: &str| {
        let all = assignments("Unit").into_iter().filter(|(k, _)| k == key);
        all.flat_map(|(_, v)| v.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    for target in ["multi-user.target", "graphical.target", "default.target"] {
        assert!(
            !words("Before").contains(&target.to_owned()),
            "a script that waits for {target} would wait for itself"
        );
    }
    let text = fs::read_to_string(UNIT).unwrap();
    assert!(
        text.contains("WantedBy=multi-user.target"),
        "systemctl enable starts it at boot"
    );
    assert_ne!(service("Type"), "oneshot");
}

#[test]
fn systemd_accepts_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("gvad.service");
    // The program is where this machine has it.
    let binary = env!("CARGO_BIN_EXE_gvad");
    let lines = fs::read_to_string(UNIT).unwrap();
    let lines = lines
        .lines()
        .map(|line| match line.strip_prefix("ExecStart=") {
            Some(rest) => match rest.split_once(' ') {
                Some((_, arguments)) => format!("ExecStart={binary} {arguments}"),
                None => format!("ExecStart={binary}"),
            },
            None => line.to_owned(),
        });
    fs::write(&unit, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let Ok(output) = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output()
    else {
        writeln!(std::io::stderr(), "skipped: no systemd-analyze").unwrap();
        assert!(
            std::env::var_os("CI").is_none(),
            "skipped in CI: no systemd-analyze"
        );
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> = said.lines().filter(|l| l.contains("gvad")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
    assert!(Path::new(UNIT).exists());
}
