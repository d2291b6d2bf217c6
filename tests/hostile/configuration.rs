//! Configurations: every kind of wrong value, file and drop-in. Each is refused with one line that names the place and the cure, before
//! anything is touched; with the configuration put right the same guest runs its script.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::frame::TELL;
use crate::harness::{Ended, Guest, run, sh, wait_until};

/// The longest that gvad's word on a configuration may be, in bytes: a page of a terminal.
const LONGEST_LINE: usize = 2500;

fn gvad(guest: &Guest, command: &[&str]) -> Ended {
    let mut gvad = Command::new(env!("CARGO_BIN_EXE_gvad"));
    gvad.args(command);
    run(gvad.args(["--config", &guest.text("wrong.toml")]))
}

/// Whatever is asked of gvad with that file, it says one line with all the words and touches nothing; with the right file the script runs once.
#[track_caller]
fn assert_refused(guest: &Guest, words: &[&str]) {
    for command in [&["check"][..], &["drain"], &["status"], &[]] {
        let ended = gvad(guest, command);
        assert_eq!(ended.code, Some(2), "{command:?}: {ended}");
        assert_eq!(ended.stdout, "", "{command:?}: {ended}");
        let line = ended.stderr.strip_suffix('\n').unwrap();
        assert!(
            !line.contains(char::is_control),
            "one line, no escapes: {ended}"
        );
        assert!(line.len() <= LONGEST_LINE, "{} bytes: {ended}", line.len());
        for word in words {
            assert!(line.contains(word), "{command:?}: {word:?} in {ended}");
        }
    }
    assert!(!guest.path("state").exists() && !guest.path("mnt").exists());
    assert_eq!(guest.waiting(), ["good"]);
    assert_eq!(guest.witness(), Vec::<String>::new());
    runs_the_good_one(guest);
}

#[track_caller]
fn runs_the_good_one(guest: &Guest) {
    guest.drain_ok();
    assert_eq!(guest.witness(), ["good"]);
    assert_eq!(guest.result("good")["success"], true);
    guest.drain_ok();
    assert_eq!(guest.witness(), ["good"], "once");
    guest.assert_clean();
}

fn guest() -> Option<Guest> {
    let guest = Guest::in_directory()?;
    guest.script("good", TELL);
    Some(guest)
}

/// A text that is refused; the complaint names the file, that line, and the words.
#[track_caller]
fn text(text: &[u8], line: usize, words: &[&str]) {
    let Some(guest) = guest() else { return };
    fs::write(guest.path("wrong.toml"), text).unwrap();
    let place = format!("{}:{line}: ", guest.text("wrong.toml"));
    assert_refused(&guest, &[&[place.as_str()][..], words].concat());
}

/// A pair in a section that is refused; the complaint names the file, the line, the key, and says why.
#[track_caller]
fn value(section: &str, pair: &str, why: &str) {
    let key = pair.split(" = ").next().unwrap();
    let named = format!("{section}.{}: ", key.trim_matches('"'));
    let toml = format!("# a comment\n[{section}]\n\n{pair}\n");
    text(toml.as_bytes(), 4, &[&named, why]);
}

const NO_TIME: &str = "is not a duration such as \"90s\" or \"1h 30m\"";
const NO_SIZE: &str =
    "is not a size: a whole number and one of B, kB, KiB, MB, MiB, GB, GiB, TB, TiB";
const NO_SOURCE: &str = "is not a source: LABEL=, UUID=, PARTLABEL=, PARTUUID=, the absolute path";
const NO_PATH: &str = "must be an absolute path without \"..\"";
const NOT_INSIDE: &str = "must be a path within the image, relative and without \"..\"";

cases! { value {
    timeout_that_is_a_word: ("run", "timeout = \"soon\"", NO_TIME),
    timeout_below_zero: ("run", "timeout = \"-1s\"", NO_TIME),
    timeout_that_is_a_number: ("run", "timeout = 5", "invalid type: integer `5`, expected a string"),
    timeout_without_a_unit: ("run", "timeout = \"5\"", "time unit needed"),
    timeout_of_ages: ("run", "timeout = \"584542046090years\"", "is longer than 1000 years"),
    timeout_beyond_numbers: ("run", "timeout = \"99999999999999999999s\"", "number is too large"),
    timeout_with_a_unit_that_is_none: ("run", "timeout = \"1 fortnight\"", "unknown time unit"),
    stop_grace_that_is_empty: ("run", "stop_grace = \"\"", NO_TIME),
    output_limit_that_is_a_word: ("run", "output_limit = \"many\"", NO_SIZE),
    output_limit_below_zero: ("run", "output_limit = \"-1MiB\"", NO_SIZE),
    output_limit_with_a_fraction: ("run", "output_limit = \"1.5GiB\"", NO_SIZE),
    output_limit_beyond_files: ("run", "output_limit = \"8388608TiB\"", "is too large"),
    output_limit_that_is_a_date: ("run", "output_limit = 1979-05-27", "expected a string"),
    leftovers_of_another_kind: ("run", "leftovers = \"spare\"", "unknown variant `spare`, expected `kill` or `keep`"),
    on_interrupted_of_another_kind: ("run", "on_interrupted = \"retry\"", "unknown variant `retry`, expected `report` or `rerun`"),
    max_attempts_of_none: ("run", "max_attempts = 0", "must be at least 1"),
    max_attempts_below_zero: ("run", "max_attempts = -1", "invalid value: integer `-1`, expected u32"),
    max_attempts_that_is_a_text: ("run", "max_attempts = \"3\"", "invalid type: string \"3\", expected u32"),
    max_attempts_beyond_numbers: ("run", "max_attempts = 4294967296", "invalid value: integer `4294967296`, expected u32"),
    max_attempts_with_a_fraction: ("run", "max_attempts = 2.5", "invalid type: floating point `2.5`, expected u32"),
    memory_max_that_is_a_number: ("run", "memory_max = 64", "invalid type: integer `64`, expected a string"),
    memory_max_that_is_a_word: ("run", "memory_max = \"some\"", NO_SIZE),
    tasks_max_below_zero: ("run", "tasks_max = -1", "invalid value: integer `-1`, expected u64"),
    tasks_max_beyond_numbers: ("run", "tasks_max = 99999999999999999999", "expected u64"),
    cpu_weight_beyond_the_heaviest: ("run", "cpu_weight = 10001", "must be from 1 to 10000, or 0"),
    working_directory_of_another_kind: ("run", "working_directory = \"/tmp\"", "unknown variant `/tmp`, expected `application` or `private`"),
    temp_dir_that_is_relative: ("run", "temp_dir = \"relative\"", NO_PATH),
    temp_dir_with_a_way_up: ("run", "temp_dir = \"/var/../etc\"", NO_PATH),
    temp_dir_that_is_everything: ("run", "temp_dir = \"/\"", NO_PATH),
    temp_dir_with_a_nul: ("run", "temp_dir = \"/a\\u0000b\"", NO_PATH),
    temp_dir_within_an_image: ("run", "temp_dir = \"/run/gva/data/x\"", "/run/gva/data/x lies within data.mount_point or around it"),
    temp_dir_that_is_a_list: ("run", "temp_dir = [\"/a\"]", "invalid type: sequence, expected path string"),
    source_that_is_empty: ("application", "source = \"\"", NO_SOURCE),
    source_without_a_label: ("application", "source = \"LABEL=\"", "nothing stands behind LABEL="),
    source_with_quotes_around_nothing: ("application", "source = 'UUID=\"\"'", "nothing stands behind UUID="),
    source_that_is_relative: ("application", "source = \"relative/app.img\"", NO_SOURCE),
    source_of_an_unknown_kind: ("application", "source = \"COLOUR=red\"", NO_SOURCE),
    source_with_a_nul: ("application", "source = \"/a\\u0000b\"", "a source cannot contain a NUL byte"),
    source_that_is_a_number: ("output", "source = 3", "invalid type: integer `3`, expected a string"),
    output_source_that_is_a_pattern: ("output", "source = \"LABEL=gva-out*\"", "only application.source may name several images"),
    data_source_that_is_a_pattern: ("data", "source = \"PARTLABEL=d[0-9]\"", "only application.source may name several images"),
    mount_point_that_is_relative: ("application", "mount_point = \"relative\"", NO_PATH),
    mount_point_that_is_everything: ("output", "mount_point = \"/\"", NO_PATH),
    mount_point_within_another: ("output", "mount_point = \"/run/gva/data/x\"", "lies within data.mount_point or around it"),
    mount_point_around_the_others: ("data", "mount_point = \"/run\"", "/run lies within application.mount_point or around it"),
    fstype_that_is_none_of_an_image: ("application", "fstype = \"proc\"", "\"proc\" is none of auto, ext2, ext3, ext4, xfs, btrfs"),
    fstype_that_is_empty: ("data", "fstype = \"\"", "\"\" is none of auto, ext2, ext3, ext4, xfs, btrfs"),
    share_without_a_tag: ("application", "source = \"\"\nfstype = \"9p\"", "an empty source; with fstype = \"9p\" it is the share's tag"),
    options_that_let_set_user_programs_in: ("application", "options = \"noatime,suid\"", "\"suid\" is refused: every image is mounted nosuid,nodev"),
    key_that_is_none: ("application", "verify = \"RWx\"", "verify: not a public key of minisign: give the second line of its .pub file"),
    key_with_a_blank: ("application", "verify = \" \"", "verify: not a public key of minisign"),
    options_that_let_devices_in: ("data", "options = \"dev\"", "\"dev\" is refused: every image is mounted nosuid,nodev"),
    options_that_say_what_a_key_says: ("application", "options = \"ro\"", "\"ro\" belongs in the key read_only"),
    options_of_fstab: ("output", "options = \"defaults\"", "\"defaults\" is a word of mount(8) or fstab(5) that no file system knows"),
    options_with_blanks: ("output", "options = \"noatime, sync\"", "options are separated by commas alone"),
    options_with_a_nul: ("output", "options = \"a\\u0000b\"", "options are separated by commas alone"),
    read_only_that_is_a_text: ("application", "read_only = \"yes\"", "invalid type: string \"yes\", expected a boolean"),
    required_that_is_a_number: ("data", "required = 1", "invalid type: integer `1`, expected a boolean"),
    script_bin_with_a_way_up: ("application", "script_bin = \"../x\"", NOT_INSIDE),
    script_bin_with_a_way_up_inside: ("application", "script_bin = \"a/../../x\"", NOT_INSIDE),
    script_bin_that_is_absolute: ("application", "script_bin = \"/x\"", NOT_INSIDE),
    script_bin_that_is_empty: ("application", "script_bin = \"\"", NOT_INSIDE),
    script_bin_that_is_the_image: ("application", "script_bin = \".\"", NOT_INSIDE),
    script_bin_with_a_nul: ("application", "script_bin = \"a\\u0000b\"", NOT_INSIDE),
    wait_of_another_kind: ("application", "wait = \"never\"", NO_TIME),
    wait_for_ever_where_that_cannot_be: ("data", "wait = \"forever\"", NO_TIME),
    poll_interval_that_is_a_word: ("watch", "poll_interval = \"fast\"", NO_TIME),
    poll_interval_of_nothing: ("watch", "poll_interval = \"0s\"", "must be at least 10ms"),
    settle_that_is_true: ("watch", "settle = true", "invalid type: boolean `true`, expected a string"),
    when_drained_of_another_kind: ("lifecycle", "when_drained = \"reboot\"", "unknown variant `reboot`, expected one of `wait`, `exit`, `poweroff`"),
    heartbeat_below_zero: ("report", "heartbeat = \"-1s\"", NO_TIME),
    port_that_is_relative: ("report", "port = \"ttyS0\"", "must be an absolute path, or empty"),
    port_with_a_nul: ("report", "port = \"/dev/a\\u0000\"", "must be an absolute path, or empty"),
    wait_for_parameters_that_is_a_number: ("parameters", "wait = 10", "invalid type: integer `10`, expected a string"),
    variable_that_is_a_number: ("environment", "A = 3", "invalid type: integer `3`, expected a string"),
    variable_that_is_a_table: ("environment", "A = { B = \"x\" }", "invalid type: map, expected a string"),
    variable_with_an_equals_sign: ("environment", "\"A=B\" = \"x\"", "a variable has a name without \"=\""),
    variable_without_a_name: ("environment", "\"\" = \"x\"", "a variable has a name without \"=\""),
    variable_with_a_nul: ("environment", "A = \"x\\u0000y\"", "neither it nor its value a NUL byte"),
    variable_that_is_gvads_own: ("environment", "GVA_DATA = \"x\"", "GVA_DATA is set by gvad"),
    variable_that_every_run_has_its_own_of: ("environment", "TMPDIR = \"/tmp\"", "TMPDIR is set by gvad"),
    key_with_a_slip_in_it: ("run", "time_out = \"1s\"", "unknown field `time_out`, expected one of `timeout`, `stop_grace`"),
    key_of_another_section: ("output", "read_only = true", "unknown field `read_only`, expected one of `source`, `mount_point`"),
} }

cases! { text {
    dotted_key: (b"\napplication.source = \"gva\"\n", 2, &["application.source: \"gva\" is not a source"]),
    section_that_is_none: (b"\n\n[running]\n", 3, &["running: unknown field `running`, expected one of `application`, `data`, `output`"]),
    key_without_a_section: (b"timeout = \"1s\"\n", 1, &["timeout: unknown field `timeout`, expected one of `application`"]),
    key_twice: (b"[run]\ntimeout = \"1s\"\ntimeout = \"2s\"\n", 3, &["duplicate key", "in: timeout = \"2s\""]),
    section_twice: (b"[run]\n[data]\n[run]\n", 3, &["duplicate key", "in: [run]"]),
    section_that_is_a_number: (b"watch = 3\n", 1, &["watch: invalid type: integer `3`"]),
    section_that_is_a_list_of_values: (b"\nrun = [\"1s\", \"2s\"]\n", 2, &["run: ", "a list stands where a section belongs, [run]"]),
    section_that_is_an_empty_list: (b"run = []\n", 1, &["run: ", "a list stands where a section belongs, [run]"]),
    section_that_is_a_list_of_sections: (b"[[run]]\ntimeout = \"1s\"\n", 1, &["run: ", "a list stands where a section belongs, [run]"]),
    section_that_never_ends: (b"[run\n", 1, &["in: [run"]),
    value_that_is_missing: (b"[run]\ntimeout = \n", 2, &["in: timeout ="]),
    text_that_never_ends: (b"[environment]\nA = \"\"\"\nx\n", 4, &["invalid multi-line basic string"]),
    list_without_bottom: (&[b"a=".as_slice(), &[b'['; 100_000]].concat(), 1, &["max recursion depth met"]),
    tables_without_bottom: (&[b"a=".as_slice(), &b"{a=".repeat(100_000)].concat(), 1, &["max recursion depth met"]),
    dotted_key_without_end: (&[b"a".as_slice(), &b".a".repeat(100_000), b"=1"].concat(), 1, &["recursion limit"]),
    key_of_a_megabyte: (&[b"[run]\n", [b'a'; 900_000].as_slice(), b"=1"].concat(), 2, &["run.aaaa", "…"]),
    value_of_a_megabyte: (&[b"[data]\nfstype=\"", [b'a'; 900_000].as_slice(), b"\""].concat(), 2, &["data.fstype: \"aaaa", "…"]),
    variable_longer_than_a_program_may_be_given: (
        &[b"[environment]\nA=\"", [b'a'; 131_072].as_slice(), b"\""].concat(), 2,
        &["environment.A: ", "longer than 128 KiB"],
    ),
    options_longer_than_mount_takes: (
        &[b"[data]\noptions=\"", b"noatime,".repeat(500).as_slice(), b"\""].concat(), 2,
        &["data.options: ", "longer than"],
    ),
    key_with_a_line_break: (b"[run]\n\"a\\nb\" = 1\n", 2, &["run.a\\nb: unknown field `a b`"]),
    key_that_paints_the_terminal: (b"[run]\n\"a\\u001b[31mb\" = 1\n", 2, &["unknown field `a\\u{1b}[31mb`"]),
    value_that_paints_the_terminal: (b"[application]\nsource = \"\\u001b]0;x\\u0007\"\n", 2, &["\"\\u{1b}]0;x\\u{7}\" is not a source"]),
    lines_that_end_as_on_an_old_macintosh: (b"[run]\rtimeout=\"1s\"\r", 1, &["carriage return must be followed by newline"]),
    nul_bytes: (b"[run]\n\0\0\0\n", 2, &["key with no value"]),
    file_of_nul_bytes_alone: (&[0; 4096], 1, &["key with no value"]),
    program_in_place_of_a_text: (b"\x7fELF\x02\x01\x01\0\0\0", 1, &[""]),
} }

/// Something in the place of the file; the complaint names the file and has the words.
#[track_caller]
fn file(make: fn(&Guest, &str), words: &[&str]) {
    let Some(guest) = guest() else { return };
    let path = guest.text("wrong.toml");
    make(&guest, &path);
    assert_refused(
        &guest,
        &[&["reading the configuration ", &path][..], words].concat(),
    );
}

fn sparse(path: &str, size: u64) {
    fs::File::create(path).unwrap().set_len(size).unwrap();
}

cases! { file {
    file_that_is_missing: (|_, _| {}, &["No such file or directory"]),
    file_that_is_a_directory: (|_, path| fs::create_dir(path).unwrap(), &["it is not a regular file"]),
    file_that_is_a_pipe: (|_, path| drop(sh(&format!("mkfifo '{path}'"))), &["it is not a regular file"]),
    file_that_is_a_device: (|_, path| symlink("/dev/zero", path).unwrap(), &["it is not a regular file"]),
    file_that_is_a_socket: (|_, path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), &["it is not a regular file"]),
    file_of_a_hundred_megabytes: (|_, path| fs::write(path, vec![b'#'; 100_000_000]).unwrap(), &["it is larger than 1 MiB"]),
    file_of_ten_gibibytes: (|_, path| sparse(path, 10 << 30), &["it is larger than 1 MiB"]),
    link_that_leads_nowhere: (|guest, path| symlink(guest.path("nothing"), path).unwrap(), &["No such file or directory"]),
    link_that_leads_to_itself: (|_, path| symlink(path, path).unwrap(), &["Too many levels of symbolic links"]),
    bytes_that_are_no_text: (|_, path| fs::write(path, b"[run]\n# \xff\n").unwrap(), &["line 2 is not UTF-8"]),
    text_of_two_bytes_a_letter: (|_, path| fs::write(path, b"\xff\xfe[\0r\0u\0n\0]\0").unwrap(), &["line 1 is not UTF-8"]),
} }

/// A file that looks odd and is fine: the script runs with it.
#[track_caller]
fn fine(change: fn(String) -> Vec<u8>) {
    let Some(guest) = guest() else { return };
    let right = fs::read_to_string(guest.write_config()).unwrap();
    fs::write(guest.path("odd.toml"), change(right)).unwrap();
    symlink("odd.toml", guest.path("wrong.toml")).unwrap();
    let ended = gvad(&guest, &["drain"]);
    assert_eq!(ended.code, Some(0), "{ended}");
    runs_the_good_one(&guest);
}

cases! { fine {
    byte_order_mark_is_no_fault: (|text| format!("\u{feff}{text}").into()),
    lines_that_end_as_on_windows_are_no_fault: (|text| text.replace('\n', "\r\n").into()),
    last_line_without_its_end_is_no_fault: (|text| text.trim_end().into()),
    sections_in_one_line_are_no_fault: (|text| {
        let table: toml::Table = text.parse().unwrap();
        let lines = table.iter().map(|(section, keys)| format!("{section} = {keys}\n"));
        lines.collect::<String>().into()
    }),
    file_just_as_long_as_allowed_is_no_fault: (|text| {
        let rest = (1 << 20) - text.len();
        format!("#{}\n{text}", "x".repeat(rest - 2)).into()
    }),
    durations_of_ages_are_no_fault: (|text| {
        let ages = text.replace("stop_grace = \"1s\"", "stop_grace = \"999years\"\ntimeout = \"999years\"");
        let ages = ages.replace("settle = \"100ms\"", "settle = \"999years\"");
        (ages + "[report]\nheartbeat = \"999years\"\n[parameters]\nwait = \"999years\"\n").into()
    }),
    limits_beyond_every_machine_are_no_fault: (|text| {
        text.replace("[run]\n", "[run]\noutput_limit = \"4194304TiB\"\nmax_attempts = 4294967295\n").into()
    }),
} }

/// A drop-in that is refused; the file itself is right, and alone it runs the script.
#[track_caller]
fn drop_in(make: fn(&str), words: &[&str]) {
    let Some(guest) = guest() else { return };
    fs::rename(guest.write_config(), guest.path("wrong.toml")).unwrap();
    fs::create_dir_all("/run/credentials/@system").unwrap();
    make("/run/credentials/@system/gva.config");
    for command in ["check", "drain", "status"] {
        let ended = gvad(&guest, &[command]);
        assert_eq!(ended.code, Some(2), "{command}: {ended}");
        assert_eq!(
            (ended.stdout.as_str(), ended.stderr.lines().count()),
            ("", 1),
            "{ended}"
        );
        for word in [&["credential gva.config"][..], words].concat() {
            assert!(
                ended.stderr.contains(word),
                "{command}: {word:?} in {ended}"
            );
        }
    }
    assert!(!guest.path("state").exists());
    assert_eq!(guest.waiting(), ["good"]);
    sh("rm -rf /run/credentials/@system/gva.config");
    runs_the_good_one(&guest);
}

fn put(path: &str, text: impl AsRef<[u8]>) {
    fs::write(path, text).unwrap();
}

cases! { drop_in {
    drop_in_with_a_slip_in_it: (|path| put(path, "\n[watch]\npol_interval = \"1s\"\n"), &[":3: watch.pol_interval: unknown field `pol_interval`, expected `poll_interval` or `settle`"]),
    drop_in_with_a_wrong_value: (|path| put(path, "[watch]\npoll_interval = \"1ms\"\n"), &[":2: watch.poll_interval: must be at least 10ms"]),
    drop_in_that_is_no_toml: (|path| put(path, "["), &[":1: ", "in: ["]),
    drop_in_with_a_list_of_values: (|path| put(path, "run = [\"1s\"]"), &[":1: run: ", "a list stands where a section belongs, [run]"]),
    drop_in_that_is_no_text: (|path| put(path, b"\xff"), &["it is not UTF-8"]),
    drop_in_that_is_too_long: (|path| put(path, "#".repeat(65_537)), &["it is longer than 64 KiB"]),
    drop_in_that_is_a_directory: (|path| fs::create_dir(path).unwrap(), &["it is not a regular file"]),
    drop_in_that_is_a_pipe: (|path| drop(sh(&format!("mkfifo {path}"))), &["it is not a regular file"]),
    drop_in_that_is_a_link: (|path| symlink("/etc/passwd", path).unwrap(), &["Too many levels of symbolic links"]),
} }

/// A port that is none: what is wrong is said, and the scripts run all the same.
#[track_caller]
fn port(make: fn(&Guest) -> String, words: &[&str]) {
    let Some(guest) = guest() else { return };
    guest.set("report.port", make(&guest));
    let daemon = guest.daemon();
    daemon.wait_result("good");
    for word in words {
        daemon.wait_log(word);
    }
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
    guest.set("report.port", "");
    runs_the_good_one(&guest);
}

cases! { port {
    port_that_is_a_directory: (|guest| guest.text("app"), &["opening the port ", "; trying again"]),
    port_that_is_a_file: (|guest| { put(&guest.text("port"), "{}"); guest.text("port") }, &["opening the port ", "; trying again"]),
    port_that_is_a_pipe: (|guest| { sh(&format!("mkfifo '{}'", guest.text("port"))); guest.text("port") }, &["opening the port ", "; trying again"]),
    port_that_takes_all_and_says_nothing: (|_| "/dev/null".to_owned(), &[]),
    port_that_never_ends_talking: (|_| "/dev/zero".to_owned(), &[]),
    port_that_has_no_room: (|_| "/dev/full".to_owned(), &[]),
} }

#[test]
fn configuration_that_is_damaged_while_gvad_runs_changes_nothing() {
    let Some(guest) = guest() else { return };
    let daemon = guest.daemon();
    daemon.wait_result("good");
    fs::write(guest.path("gvad.toml"), "[run]\ntimeout = 5\n").unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.wait_log("gvad.toml:2: run.timeout: invalid type: integer `5`, expected a string");
    guest.hand_over("next", TELL);
    wait_until("it runs", || guest.witness() == ["good", "next"]);
    daemon.wait_state("idle");
    assert_eq!(daemon.stop(), Some(0));
    runs_nothing_more(&guest);
}

#[track_caller]
fn runs_nothing_more(guest: &Guest) {
    guest.drain_ok();
    assert_eq!(guest.witness(), ["good", "next"]);
    guest.assert_clean();
}
