//! Which parameters are passed on, and what credentials and files are read.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use super::*;
use crate::stop;
use crate::sys::dir::Dir;

fn given(pairs: &[(&str, &str)]) -> Vec<Given> {
    let pairs = pairs.iter().map(|(name, value)| Given {
        name: name.as_bytes().to_vec(),
        value: value.as_bytes().to_vec(),
    });
    pairs.collect()
}

/// `VARIABLE=value` of each, and the problems.
fn outcome(origins: &[(Origin, &[Given])]) -> (Vec<String>, Vec<String>) {
    let (passed, problems) = in_force(origins);
    let shown = |p: &Parameter| format!("{}={}", p.variable, p.value.to_str().unwrap());
    (passed.iter().map(shown).collect(), problems)
}

#[test]
fn every_name_becomes_a_variable_of_one_form() {
    for (name, expected) in [
        ("site", "GVA_PARAM_SITE"),
        ("SITE", "GVA_PARAM_SITE"),
        ("run_7", "GVA_PARAM_RUN_7"),
        ("a.b-c d", "GVA_PARAM_A_B_C_D"),
        ("é", "GVA_PARAM___"),
        ("x=y", "GVA_PARAM_X_Y"),
        ("$(id)\n", "GVA_PARAM___ID__"),
        ("7", "GVA_PARAM_7"),
        ("ı", "GVA_PARAM___"),
    ] {
        assert_eq!(variable(name.as_bytes()), expected, "{name:?}");
    }
    assert_eq!(variable(b"\xff\x00"), "GVA_PARAM___");
}

#[test]
fn values_are_passed_as_they_are() {
    let value = " $(id) `id` \"'\\\n\té\u{1} ";
    let (passed, problems) = outcome(&[(Origin::Credential, &given(&[("a", value), ("b", "")]))]);
    assert_eq!(
        passed,
        [format!("GVA_PARAM_A={value}"), "GVA_PARAM_B=".into()]
    );
    assert!(problems.is_empty());
}

#[test]
fn credential_wins_over_the_ovf_environment_without_a_word() {
    let (passed, problems) = outcome(&[
        (Origin::Credential, &given(&[("b-1", "credential")])),
        (Origin::Ovf, &given(&[("B_1", "ovf"), ("c", "ovf")])),
    ]);
    assert_eq!(passed, ["GVA_PARAM_B_1=credential", "GVA_PARAM_C=ovf"]);
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn of_two_names_for_one_variable_the_first_in_byte_order_holds_and_the_other_is_told() {
    for origin in [Origin::Credential, Origin::Ovf] {
        let (passed, problems) =
            outcome(&[(origin, &given(&[("a_b", "2"), ("a-b", "1"), ("z", "3")]))]);
        assert_eq!(passed, ["GVA_PARAM_A_B=1", "GVA_PARAM_Z=3"]);
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].contains("a_b") && problems[0].contains("GVA_PARAM_A_B is taken"),
            "{problems:?}"
        );
    }
}

#[test]
fn what_cannot_be_passed_is_told_without_its_value_and_nothing_else_is_lost() {
    let long = "secret".repeat(LONGEST_VALUE);
    let name = "n".repeat(300);
    let pairs = [
        ("long", long.as_str()),
        ("nul", "secret\0"),
        ("", "secret"),
        (name.as_str(), "secret"),
        ("ok", "x"),
    ];
    let (passed, problems) = outcome(&[
        (Origin::Credential, &given(&pairs)),
        (Origin::Ovf, &given(&[("LONG", "other")])),
    ]);
    assert_eq!(passed, ["GVA_PARAM_OK=x"], "no other value in its place");
    assert_eq!(problems.len(), 4, "{problems:?}");
    for problem in problems {
        assert!(
            !problem.contains("secret") && problem.len() < 300,
            "{problem}"
        );
    }
}

#[test]
fn sum_of_all_is_bounded_and_small_ones_still_pass() {
    let value = "v".repeat(LONGEST_VALUE);
    let pairs = [
        ("a", &value),
        ("b", &value),
        ("c", &value),
        ("d", &value),
        ("e", &value),
    ];
    let mut all = given(&pairs.map(|(name, value)| (name, value.as_str())));
    all.extend(given(&[("f", "small")]));
    let (passed, problems) = outcome(&[(Origin::Credential, &all)]);
    assert_eq!(passed.len(), 4, "a, b, c and f");
    assert_eq!(passed[3], "GVA_PARAM_F=small");
    assert_eq!(problems.len(), 2);
}

#[test]
fn values_show_in_no_debug_output() {
    let parameters = Parameters::default();
    let (passed, _) = in_force(&[(Origin::Credential, &given(&[("a", "secret")]))]);
    parameters.passed.replace(passed);
    assert_eq!(format!("{parameters:?}"), "[\"GVA_PARAM_A\"]");
}

#[test]
fn credentials_are_read_from_each_directory_and_the_first_counts() {
    let base = tempfile::tempdir().unwrap();
    let (own, system) = (base.path().join("own"), base.path().join("system"));
    for dir in [&own, &system] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(own.join("gva.param.a"), "own").unwrap();
    fs::write(system.join("gva.param.a"), "system").unwrap();
    fs::write(system.join("gva.param.b"), "line\n").unwrap();
    fs::write(system.join("other.secret"), "x").unwrap();
    symlink("/etc/passwd", system.join("gva.param.link")).unwrap();
    fs::create_dir(system.join("gva.param.dir")).unwrap();
    let directories = [own, base.path().join("missing"), system.clone()];
    let found = credentials::parameters(&directories);
    assert!(found.given == given(&[("a", "own"), ("b", "line\n")]));
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    assert!(describe(&directories).contains("# GVA_PARAM_A: from the credential gva.param.a\n"));

    assert_eq!(credentials::drop_in(&directories).unwrap(), None);
    fs::write(system.join("gva.config"), "a = 1\n").unwrap();
    let said = credentials::drop_in(&directories).unwrap();
    assert_eq!(said.as_deref(), Some("a = 1\n"));
    for (bytes, complaint) in [
        (vec![0xff], "credential gva.config: it is not UTF-8"),
        (
            vec![b' '; (64 << 10) + 1],
            "credential gva.config: it is longer than 64 KiB",
        ),
    ] {
        fs::write(system.join("gva.config"), bytes).unwrap();
        let err = format!("{:#}", credentials::drop_in(&directories).unwrap_err());
        assert_eq!(err, complaint);
    }
}

#[test]
fn ovf_environment_is_read_only_as_a_regular_file_of_bounded_size() {
    let base = tempfile::tempdir().unwrap();
    let root = Dir::open(base.path()).unwrap();
    let file = base.path().join(ovf_env::FILE);
    assert_eq!(ovf_env::read(&root).unwrap(), None);
    symlink("/etc/passwd", &file).unwrap();
    assert!(ovf_env::read(&root).is_err());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(ovf_env::read(&root).is_err());
    fs::remove_dir(&file).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(fifo.unwrap().success());
    assert!(
        ovf_env::read(&root).is_err(),
        "and it does not wait for a writer"
    );
    fs::remove_file(&file).unwrap();
    fs::write(&file, vec![b' '; 1 << 20]).unwrap();
    assert_eq!(ovf_env::read(&root).unwrap().unwrap().len(), 1 << 20);
    fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
    let err = ovf_env::read(&root).unwrap_err().to_string();
    assert!(err.contains("larger than 1 MiB"), "{err}");
}

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn without_udev_nothing_is_waited_for_and_while_it_works_it_is() {
    let base = tempfile::tempdir().unwrap();
    let queue = base.path().join("queue");
    let (stopper, stop) = stop::pair();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let begun = Instant::now();
        wait_for_udev(&queue, &stop, BOUND).await;
        assert!(begun.elapsed() < UDEV_LOOK, "{:?}", begun.elapsed());
        fs::write(&queue, "").unwrap();
        let mut waiting = std::pin::pin!(wait_for_udev(&queue, &stop, BOUND));
        let early = tokio::time::timeout(UDEV_REST * 2, &mut waiting).await;
        assert!(early.is_err(), "it works");
        let begun_again = Instant::now();
        wait_for_udev(&queue, &stop, Duration::ZERO).await;
        assert!(begun_again.elapsed() < UDEV_LOOK, "not at all");
        fs::remove_file(&queue).unwrap();
        waiting.await;
        fs::write(&queue, "").unwrap();
        stopper.stop();
        wait_for_udev(&queue, &stop, BOUND).await;
        assert!(begun.elapsed() < BOUND, "a stop ends it");
    });
}
