//! Names of files in script-bin.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::frame::{
    TELL, exits, field, in_script_bin, logged, neighbour_waits, on_the_page, passed_over, printed,
    ran, result, script, stays, succeeded, that,
};
use crate::harness::Guest;

/// Prints its name, twice: as `$0` has it, and as `$GVA_SCRIPT`.
const SAY: &str = "#!/bin/sh\nprintf '%s|%s' \"${0##*/}\" \"$GVA_SCRIPT\"\n";
/// Makes a script of the name in `$N`.
const MAKE: &str = "printf '#!/bin/sh\\necho ran >> \"$WITNESS\"\\n' > \"$N\"; chmod 755 \"$N\"";
const LONGEST: &str = "LLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLLL";

/// A name that is not UTF-8.
fn bytes(name: &'static [u8]) -> &'static OsStr {
    OsStr::from_bytes(name)
}

fn named(name: &str, line: &str) -> impl FnOnce(&Guest) + use<> {
    in_script_bin(&format!("N={name}; {line}"))
}

rows! { Guest::in_directory();
    name_with_a_leading_dash_is_no_option:
        script("-rf", SAY) => [succeeded("-rf"), printed("-rf", "-rf|-rf")];
    name_of_an_option_is_no_option:
        script("--help", SAY) => [printed("--help", "--help|--help"), field("--help", "run_id", "000001---help")];
    name_of_255_bytes_runs_and_arrives_whole:
        script(LONGEST, "#!/bin/sh\nprintf %s \"$GVA_SCRIPT\"\n") => [
            printed(LONGEST, LONGEST), field(LONGEST, "run_id", &format!("000001-{}", &LONGEST[..64])[..])];
    name_of_255_bytes_that_are_not_utf8_arrives_in_hexadecimal:
        named("$(printf '\\xff%.0s' {1..255})", MAKE) => [ran(["ran"]), that(|seen| {
            assert_eq!(seen.results[1]["script_hex"], "ff".repeat(255), "{}", seen.ended);
        })];
    name_with_a_line_feed_makes_no_line_in_the_log:
        script("a\n2026 ERROR forged", "#!/bin/sh\nprintf '%s|%s' \"${0##*/}\" \"$GVA_SCRIPT\"\nexit 3\n") => [
            printed("a\n2026 ERROR forged", "a\n2026 ERROR forged|a\n2026 ERROR forged"),
            field("a\n2026 ERROR forged", "exit_code", 3), that(|seen| {
                assert!(!seen.ended.stderr.lines().any(|line| line.starts_with("2026 ERROR")), "{}", seen.ended);
            })];
    passed_over_name_with_a_line_feed_is_one_line_of_the_status:
        script(".a\n  running      evil", TELL) => [
            passed_over(".a\n  running      evil", "begins with a dot"), on_the_page("  passed over  .a\\n  running      evil: its name")];
    name_with_terminal_escapes_is_shown_harmless:
        script(".\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m", TELL) => [
            passed_over(".\u{1b}[2J\u{1b}]0;x\u{7}\u{9b}31m", "begins with a dot"), on_the_page(".\\u{1b}[2J\\u{1b}]0;x\\u{7}\\u{9b}31m")];
    name_that_turns_the_reading_direction_is_shown_harmless:
        script(".a\u{202e}hs.live\u{2066}", TELL) => [
            passed_over(".a\u{202e}hs.live\u{2066}", "begins with a dot"), on_the_page(".a\\u{202e}hs.live\\u{2066}")];
    name_with_a_line_separator_or_a_mark_nobody_sees_is_shown_harmless:
        script(".a\u{2028}b\u{200b}c\u{feff}", TELL) => [
            passed_over(".a\u{2028}b\u{200b}c\u{feff}", "begins with a dot"), on_the_page(".a\\u{2028}b\\u{200b}c\\u{feff}")];
    name_of_control_characters_alone_runs:
        script("\u{1}\u{7f}\r", SAY) => [printed("\u{1}\u{7f}\r", "\u{1}\u{7f}\r|\u{1}\u{7f}\r"), field("\u{1}\u{7f}\r", "run_id", "000001-___")];
    name_that_is_not_utf8_is_in_the_result_byte_by_byte:
        script(bytes(b"latin1-\xe9\xff"), SAY) => [field("latin1-\u{fffd}\u{fffd}", "script_hex", "6c6174696e312de9ff")];
    name_with_half_a_surrogate_pair_is_in_the_result_byte_by_byte:
        script(bytes(b"s\xed\xa0\x80"), SAY) => [field("s\u{fffd}\u{fffd}\u{fffd}", "script_hex", "73eda080")];
    passed_over_name_that_is_not_utf8_is_listed_byte_by_byte:
        script(bytes(b".\xff"), TELL) => [passed_over(".\u{fffd}", "begins with a dot"), that(|seen| {
            assert_eq!(seen.status["passed_over"][0]["name_hex"], "2eff");
        })];
    name_in_other_scripts_arrives_unchanged:
        script("grüße-日本", SAY) => [printed("grüße-日本", "grüße-日本|grüße-日本"), field("grüße-日本", "script_hex", serde_json::Value::Null)];
    name_with_blanks_at_its_ends_runs:
        script(" a ", SAY) => [printed(" a ", " a | a ")];
    name_that_a_shell_would_run_is_text:
        script("$(touch x) `touch y` *; exit 3", SAY) => [
            printed("$(touch x) `touch y` *; exit 3", "$(touch x) `touch y` *; exit 3|$(touch x) `touch y` *; exit 3"),
            that(|seen| assert!(!seen.guest.path("app/x").exists() && !seen.guest.path("app/y").exists()))];
    name_with_quotes_and_patterns_of_print_is_text:
        script("%s%n{}'\"back\\slash", SAY) => [printed("%s%n{}'\"back\\slash", "%s%n{}'\"back\\slash|%s%n{}'\"back\\slash")];
    name_of_two_dots_and_more_is_not_handed_over:
        script("..a", TELL) => [passed_over("..a", "begins with a dot"), ran([])];
    name_of_three_dots_is_not_handed_over:
        script("...", TELL) => [passed_over("...", "begins with a dot"), ran([])];
    name_that_ends_in_dots_leads_nowhere:
        script("a..", SAY) => [printed("a..", "a..|a.."), field("a..", "run_id", "000001-a..")];
    name_of_a_draft_part_is_not_handed_over: script("a.part", TELL) => [passed_over("a.part", "ends in .part"), ran([])];
    name_of_a_draft_tmp_is_not_handed_over: script("a.tmp", TELL) => [passed_over("a.tmp", "ends in .part, .tmp"), ran([])];
    name_of_a_backup_is_not_handed_over: script("a~", TELL) => [passed_over("a~", "ends in .part, .tmp or ~"), ran([])];
    name_with_a_draft_ending_in_the_middle_runs: script("a.part.sh", TELL) => [succeeded("a.part.sh"), ran(["a.part.sh"])];
    name_like_a_draft_ending_without_its_dot_runs: script("part", TELL) => [succeeded("part"), ran(["part"])];
    name_of_a_draft_ending_alone_runs: script("tmp", TELL) => [succeeded("tmp"), ran(["tmp"])];
    name_with_blanks_and_a_tab_runs: script("with space and\ttab", SAY) => [printed("with space and\ttab", "with space and\ttab|with space and\ttab")];
    name_like_a_backup_in_the_middle_runs: script("d~.sh", TELL) => [succeeded("d~.sh"), ran(["d~.sh"])];
    name_of_a_run_gets_a_number_of_its_own:
        script("000007-a", TELL) => [field("000007-a", "run_id", "000001-000007-a"), ran(["000007-a"])];
    name_of_a_result_touches_no_result: script("result.json", SAY) => [printed("result.json", "result.json|result.json")];
    name_of_the_ledger_touches_no_ledger: script("ledger", TELL) => [succeeded("ledger"), ran(["ledger"])];
    names_that_differ_in_case_alone_are_two:
        in_script_bin(&format!("N=a; {MAKE}; N=A; {MAKE}")) => [succeeded("a"), succeeded("A"), ran(["ran", "ran"])];
    names_that_look_alike_are_two:
        in_script_bin(&format!("N=$'\\u00e9'; {MAKE}; N=$'e\\u0301'; {MAKE}")) => [succeeded("\u{e9}"), succeeded("e\u{301}"), ran(["ran", "ran"])];
    same_name_handed_over_by_itself_is_a_new_run:
        script("a", "#!/bin/sh\nS=\"$GVA_APPLICATION/script-bin\"\necho a >> \"$WITNESS\"\n[ $(wc -l < \"$WITNESS\") -ge 3 ] || { cp \"$0\" \"$S/.a\"; mv \"$S/.a\" \"$S/a\"; }\n") => [
            ran(["a", "a", "a"]), that(|seen| {
                let runs: Vec<_> = seen.results.iter().filter(|one| one["script"] == "a").map(|one| one["run_id"].clone()).collect();
                assert_eq!(runs, ["000001-a", "000003-a", "000004-a"]);
            })];
    file_in_the_place_of_the_claims_is_named_with_the_cure:
        in_script_bin("echo mine > .gvad") => [exits(2), neighbour_waits(), logged("script-bin/.gvad is not a directory")],
        cure: |guest| std::fs::remove_file(guest.path("app/script-bin/.gvad")).unwrap();
    link_in_the_place_of_the_claims_is_named_and_not_followed:
        in_script_bin("mkdir \"$TEST/else\"; ln -s \"$TEST/else\" .gvad") => [
            exits(2), neighbour_waits(), logged("script-bin/.gvad is or lies behind a symbolic link"),
            that(|seen| assert_eq!(std::fs::read_dir(seen.guest.path("else")).unwrap().count(), 0))],
        cure: |guest| std::fs::remove_file(guest.path("app/script-bin/.gvad")).unwrap();
    claim_forged_for_a_ledger_nobody_has_is_told_and_not_run:
        in_script_bin(&format!("mkdir -p .gvad/0123456789abcdef; N=.gvad/0123456789abcdef/a; {MAKE}")) => [
            ran([]), result("a", "interrupted", "another output image")];
    junk_among_the_claims_stops_nothing:
        in_script_bin("mkdir -p .gvad/x/dir; echo > .gvad/file; ln -s / .gvad/link; mkfifo .gvad/fifo; mkdir -m 000 $'.gvad/\\x1b[2J\\xff'") => [ran([])],
        cure: |guest| crate::harness::sh(&format!("rm -r '{}'", guest.text("app/script-bin/.gvad"))).clear();
    file_of_the_name_of_script_bin_in_it_is_a_script: script("script-bin", TELL) => [succeeded("script-bin")];
    directory_with_a_dot_name_stays: in_script_bin("mkdir .d; touch .d/x") => [passed_over(".d", "a directory"), stays(".d")];
}
