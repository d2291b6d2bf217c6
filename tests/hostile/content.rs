//! What is in a script: what the kernel can execute runs, and what it cannot is not started, with a reason that names the cure.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::frame::{TELL, field, in_script_bin, printed, ran, result, script, succeeded, that};
use crate::harness::{Guest, write_script};

/// Hands over these bytes as `a`.
fn of(bytes: impl AsRef<[u8]>) -> impl FnOnce(&Guest) {
    move |guest| {
        guest.inside(|root| {
            let path = root.join("script-bin/a");
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        });
    }
}

/// A program of this machine, with these bytes in place of those.
fn program(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = fs::read("/bin/true").unwrap();
    let at = bytes
        .windows(from.len())
        .position(|some| some == from)
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// The smallest static program: it exits with 7.
fn static_program() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0x40_0078_u64, 0x40, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    for word in [0, 0x40_0000, 0x40_0000, 0x84, 0x84, 0x1000_u64] {
        elf.extend(word.to_le_bytes());
    }
    // mov edi, 7; mov eax, 60; syscall
    elf.extend(b"\xbf\x07\0\0\0\xb8\x3c\0\0\0\x0f\x05");
    elf
}

/// An interpreter outside of the image, with this mode and these bytes; its name is that of the test's directory and `interpreter`.
fn interpreter(body: &'static str, mode: u32) -> impl FnOnce(&Guest) {
    move |guest| {
        let path = guest.text("interpreter");
        write_script(path.as_ref(), &body.replace("SELF", &path));
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        guest.script("a", &format!("#!{path}\n"));
    }
}

const OTHER_MACHINE: [u8; 2] = if cfg!(target_arch = "aarch64") {
    [62, 0]
} else {
    [183, 0]
};

rows! { Guest::in_directory();
    text_without_an_interpreter_line_is_not_given_to_a_shell:
        of("echo ran >> \"$WITNESS\"\n") => [ran([]), result("a", "not_started", "a text file without #!: make its first line name the interpreter, such as #!/bin/sh")];
    interpreter_line_in_the_second_line_is_none:
        of("\n#!/bin/sh\necho ran >> \"$WITNESS\"\n") => [ran([]), result("a", "not_started", "a text file without #!")];
    interpreter_line_with_a_blank_in_its_mark_is_none:
        of("# !/bin/sh\necho ran >> \"$WITNESS\"\n") => [ran([]), result("a", "not_started", "a text file without #!")];
    empty_file_is_not_started: of("") => [result("a", "not_started", "the file is empty")];
    crlf_line_ends_are_named: of("#!/bin/sh\r\necho ran >> \"$WITNESS\"\r\n") => [
        ran([]), result("a", "not_started", "ends in CRLF"), result("a", "not_started", "in place of \"/bin/sh\": save the file with LF line ends")];
    crlf_behind_an_argument_is_the_interpreters_affair:
        of("#!/bin/sh -e\r\necho ran\r\n") => [result("a", "exited", ""), field("a", "success", false)];
    carriage_returns_alone_are_shown_in_the_reason:
        of("#!/bin/sh\recho ran\r") => [result("a", "not_started", "its interpreter \"/bin/sh\\recho\" does not exist")];
    utf8_byte_order_mark_is_named: of("\u{feff}#!/bin/sh\necho ran >> \"$WITNESS\"\n") => [ran([]), result("a", "not_started", "save the file as UTF-8 without BOM")];
    utf16_little_end_first_is_named: of(b"\xff\xfe#\0!\0/\0b\0i\0n\0/\0s\0h\0\n\0") => [result("a", "not_started", "UTF-16: save the file as UTF-8 without BOM")];
    utf16_big_end_first_is_named: of(b"\xfe\xff\0#\0!\0/\0b\0i\0n\0/\0s\0h\0\n") => [result("a", "not_started", "UTF-16: save the file as UTF-8 without BOM")];
    missing_interpreter_is_named: of("#!/opt/no/such-interpreter -x\n") => [result("a", "not_started", "its interpreter \"/opt/no/such-interpreter\" does not exist")];
    interpreter_with_terminal_escapes_is_shown_harmless:
        of("#!/no/\u{1b}[2J\u{202e}x\n") => [result("a", "not_started", "its interpreter \"/no/\\u{1b}[2J\\u{202e}x\" does not exist"),
            that(|seen| assert!(seen.table.contains("\\u{1b}"), "{}", seen.table))];
    interpreter_without_its_directory_is_named_with_the_cure:
        of("#!sh\necho ran >> \"$WITNESS\"\n") => [ran([]), result("a", "not_started", "its interpreter \"sh\" is not an absolute path: write such as #!/bin/sh")];
    interpreter_relative_to_where_gvad_works_is_named_with_the_cure:
        of("#!Cargo.toml\n") => [result("a", "not_started", "its interpreter \"Cargo.toml\" is not an absolute path")];
    interpreter_behind_a_file_is_named: of("#!/etc/passwd/sh\n") => [result("a", "not_started", "its interpreter \"/etc/passwd/sh\" cannot be reached: Not a directory")];
    interpreter_that_is_its_own_is_named: interpreter("#!SELF\n", 0o755) => [result("a", "not_started", "and so on without end")];
    interpreter_that_is_a_script_works: interpreter("#!/bin/sh\necho outer\n", 0o755) => [printed("a", "outer\n")];
    interpreter_that_is_no_program_is_named: interpreter("no program\n", 0o755) => [result("a", "not_started", "is no program that this machine can execute")];
    interpreter_that_is_missing_one_behind_the_other_is_named: interpreter("#!/no/inner\n", 0o755) => [result("a", "not_started", "its interpreter \"/no/inner\" does not exist")];
    interpreter_without_an_execute_bit_is_named: interpreter("#!/bin/sh\n", 0o644) => [result("a", "not_started", "is not executable")];
    interpreter_that_is_a_directory_is_named: of("#!/usr\n") => [result("a", "not_started", "its interpreter \"/usr\" is not a file")];
    interpreter_that_is_a_device_is_named: of("#!/dev/null\n") => [result("a", "not_started", "its interpreter \"/dev/null\" is not a file")];
    interpreter_where_programs_may_not_be_is_named:
        |guest| {
            in_script_bin("mkdir \"$TEST/n\"; mount -t tmpfs -o noexec n \"$TEST/n\"; cp /bin/sh \"$TEST/n/sh\"")(guest);
            guest.script("a", &format!("#!{}/n/sh\n", guest.text("")));
        } => [result("a", "not_started", "lies on a file system that is mounted noexec")],
        cure: |guest| in_script_bin("umount \"$TEST/n\"")(guest);
    mark_alone_is_named: of("#!") => [result("a", "not_started", "no interpreter is named behind #!")];
    mark_with_a_line_end_alone_is_named: of("#!\necho ran\n") => [result("a", "not_started", "no interpreter is named behind #!")];
    mark_with_blanks_alone_is_named: of("#! \t  \necho ran\n") => [result("a", "not_started", "no interpreter is named behind #!")];
    mark_with_blanks_before_the_interpreter_works: of("#! \t/bin/sh -e\necho ran\n") => [printed("a", "ran\n")];
    interpreter_line_alone_without_a_line_end_works: of("#!/bin/sh") => [succeeded("a")];
    interpreter_line_of_255_bytes_works: of(format!("#!{}bin/sh\necho ran\n", "/".repeat(255 - 8))) => [printed("a", "ran\n")];
    interpreter_line_of_300_bytes_is_named: of(format!("#!{}bin/sh\necho ran\n", "/".repeat(300 - 8))) => [
        result("a", "not_started", "its #! line is longer than the 255 bytes that the kernel reads")];
    endless_interpreter_line_is_named: of(format!("#!{}", "/".repeat(3_000_000))) => [
        result("a", "not_started", "its #! line is longer than the 255 bytes that the kernel reads")];
    program_that_is_not_found_in_the_path_is_the_scripts_own_failure:
        of("#!/usr/bin/env no-such-program\n") => [result("a", "exited", ""), field("a", "exit_code", 127)];
    nul_in_the_interpreters_name_ends_it: of("#!/usr\0/bin/sh\n") => [result("a", "not_started", "its interpreter \"/usr\" is not a file")];
    nul_bytes_behind_the_end_of_a_script_do_no_harm: of("#!/bin/sh\necho ran\nexit 0\n\0\0\0\0") => [printed("a", "ran\n")];
    file_of_nul_bytes_is_not_started: of([0; 4096]) => [result("a", "not_started", "neither a script with #! nor a program")];
    garbage_is_not_started: of((0..=255).cycle().skip(128).take(5000).collect::<Vec<u8>>()) => [result("a", "not_started", "neither a script with #! nor a program")];
    program_of_another_system_is_not_started: of(b"MZ\x90\0\x03\0\0\0") => [result("a", "not_started", "neither a script with #! nor a program")];
    program_for_another_machine_is_named:
        of({ let mut elf = program(b"\x7fELF", b"\x7fELF"); elf[18..20].copy_from_slice(&OTHER_MACHINE); elf }) => [
            result("a", "not_started", "wrong architecture: a program for ")];
    program_that_is_all_magic_is_named: of(b"\x7fELF") => [result("a", "not_started", "a damaged or truncated ELF program")];
    program_cut_off_in_its_header_is_named: of(&program(b"\x7fELF", b"\x7fELF")[..40]) => [result("a", "not_started", "a damaged or truncated ELF program")];
    program_cut_off_behind_its_header_is_named: of(&program(b"\x7fELF", b"\x7fELF")[..64]) => [result("a", "not_started", "a damaged or truncated ELF program")];
    program_of_a_type_that_does_not_exist_is_named: of({ let mut elf = program(b"\x7fELF", b"\x7fELF"); elf[16] = 99; elf }) => [result("a", "not_started", "a damaged or truncated ELF program")];
    program_with_a_missing_loader_is_named: of(program(b"/ld-linux", b"/no-linux")) => [result("a", "not_started", "its dynamic loader \"/lib")];
    program_with_a_missing_library_is_the_scripts_own_failure:
        of(program(b"libc.so.6", b"libx.so.6")) => [result("a", "exited", ""), field("a", "exit_code", 127)];
    program_with_its_loader_works: of(program(b"\x7fELF", b"\x7fELF")) => [succeeded("a")];
    #[cfg(target_arch = "x86_64")]
    program_without_a_loader_works: of(static_program()) => [result("a", "exited", ""), field("a", "exit_code", 7)];
    script_of_five_million_bytes_works: of(format!("#!/bin/sh\n{}echo ran\n", "# padding\n".repeat(500_000))) => [printed("a", "ran\n")];
}

mod image {
    use super::*;

    rows! { Guest::on_image();
        interpreter_on_the_application_image_works:
            |guest| {
                in_script_bin("mkdir ../tools; cp /bin/sh ../tools/sh")(guest);
                guest.script("a", &format!("#!{}/tools/sh\necho ran\n", guest.text("mnt/application")));
            } => [printed("a", "ran\n")];
        interpreter_with_setuid_on_the_application_image_gives_no_rights:
            |guest| {
                in_script_bin("mkdir ../tools; cp /usr/bin/id ../tools/id; chown 1000 ../tools/id; chmod 4755 ../tools/id")(guest);
                guest.script("a", &format!("#!/bin/sh\n'{}/tools/id' -u\n", guest.text("mnt/application")));
            } => [printed("a", "0\n")];
        program_on_the_image_is_a_script: script("a", TELL) => [succeeded("a")];
    }
}
