//! What starting a program leaves in this process, and what it tells.

use super::*;
use std::fs::File;
use std::os::fd::AsFd;

fn start(path: &CStr, directory: &CStr) -> Result<Child, NotStarted> {
    let nothing = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    spawn(&Program {
        path,
        environment: &[c"A=b".to_owned()],
        directory,
        stdin: nothing.as_fd(),
        stdout: nothing.as_fd(),
        stderr: nothing.as_fd(),
        cgroup: None,
        namespaces: &Namespaces::default(),
    })
}

fn refused(path: &CStr, directory: &CStr) -> (Step, Option<i32>) {
    let refused = start(path, directory).unwrap_err();
    (refused.step, refused.error.raw_os_error())
}

#[test]
fn child_that_shares_the_memory_tells_where_it_failed() {
    let none = Some(Errno::ENOENT as i32);
    assert_eq!(refused(c"/none", c"/"), (Step::Execute, none));
    assert_eq!(refused(c"/bin/true", c"/none"), (Step::Directory, none));
    let denied = Some(Errno::EACCES as i32);
    assert_eq!(refused(c"/etc/passwd", c"/"), (Step::Execute, denied));
}

#[test]
fn threads_that_start_programs_at_once_do_not_hurt_one_another() {
    let many = || {
        for _ in 0..50 {
            let child = start(c"/bin/true", c"/").unwrap();
            super::super::process::reap_blocking(&child.pidfd).unwrap();
            assert_eq!(refused(c"/none", c"/").0, Step::Execute);
            // What the child might have damaged.
            assert_eq!(
                vec![7_u8; 100_000]
                    .iter()
                    .map(|&x| u32::from(x))
                    .sum::<u32>(),
                700_000
            );
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(many))));
}

/// The kernel gives one score to all who share a memory, and this child does.
#[test]
fn score_for_the_oom_killer_is_the_childs_own() {
    let score = "/proc/self/oom_score_adj";
    std::fs::write(score, "321").unwrap();
    let child = start(c"/bin/true", c"/").unwrap();
    super::super::process::reap_blocking(&child.pidfd).unwrap();
    assert_eq!(std::fs::read_to_string(score).unwrap(), "321\n");
}
