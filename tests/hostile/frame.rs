//! The frame around each row: a neighbour is handed over with what the row prepares, everything is run, the row's own expectations are
//! looked at, what is ruined is mended if the row says how, and a next good script is handed over. Of every row it is asserted that both
//! good scripts ran exactly once, that nothing is left (processes, control groups, mounts, loop devices, claims, private directories),
//! that gvad did not panic, and that neither the log nor the status has a character in it that a terminal obeys.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Ended, Guest, run};

/// A script that tells that it ran.
pub(crate) const TELL: &str = "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\" >> \"$WITNESS\"\n";

const GVAD: &str = env!("CARGO_BIN_EXE_gvad");

/// Runs behind everything that a row hands over, unless that is named `zz` too.
const NEIGHBOUR: &str = "zz-good";
/// Handed over when the row is over.
const NEXT: &str = "zz-next";

/// What a row left to see, after the first drain.
pub(crate) struct Seen<'g> {
    pub(crate) guest: &'g Guest,
    pub(crate) ended: Ended,
    /// `status.json` on the output; null where there is none.
    pub(crate) status: Value,
    /// What `gvad status` printed while the neighbour ran; empty if it has not run yet.
    pub(crate) page: String,
    pub(crate) results: Vec<Value>,
    /// What `gvad results` says of the output.
    pub(crate) table: String,
}

/// One thing that must be so after the first drain.
pub(crate) enum Expect {
    /// The exit status. Without this: 0 if every script succeeded, else 1.
    Exits(i32),
    /// A signal ended gvad itself.
    Killed(i32),
    /// The neighbour has not had its turn yet. Without this it must have run.
    Waits,
    /// Something that must be so after the second drain.
    Later(Box<Expect>),
    /// Anything else.
    That(Box<dyn Fn(&Seen<'_>)>),
}

/// Makes a test of each row:
/// `name: prepare => [expectation, …];` or `name: prepare => [expectation, …], cure: mend;`, all on guests made by the first line.
macro_rules! rows {
    ($guest:expr; $($(#[$attribute:meta])* $name:ident: $prepare:expr => [$($expect:expr),* $(,)?] $(, cure: $cure:expr)?;)+) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            #[allow(unused_mut, unused_assignments, clippy::allow_attributes, reason = "most rows have no cure")]
            let mut cure: Option<fn(&crate::harness::Guest)> = None;
            $(cure = Some($cure);)?
            crate::frame::row($guest, $prepare, || vec![$($expect),*], cure);
        }
    )+};
}

/// Makes a test of each row that is told by arguments alone, `name: (argument, …)`: a call of the check.
macro_rules! cases {
    ($check:ident { $($name:ident: ($($argument:expr),* $(,)?)),* $(,)? }) => {$(
        #[test]
        fn $name() {
            $check($($argument),*);
        }
    )*};
}

/// One row; see the macro `rows`.
#[track_caller]
pub(crate) fn row(
    guest: Option<Guest>,
    prepare: impl FnOnce(&Guest),
    expect: impl FnOnce() -> Vec<Expect>,
    cure: Option<fn(&Guest)>,
) {
    let Some(guest) = guest else {
        return;
    };
    guest.script(NEIGHBOUR, &good(&guest));
    prepare(&guest);
    let before = guest.mounts();
    let seen = look(&guest, guest.drain());
    let expect = expect();
    meets(&seen, &expect);
    // A gvad that comes later would end and remove what this one left.
    if seen.ended.signal.is_none() {
        guest.assert_over(&before);
    }
    if let Some(mend) = cure {
        mend(&guest);
    }
    guest.script(NEXT, &good(&guest));
    let next = look(&guest, guest.drain());
    let ended = &next.ended;
    assert!(matches!(ended.code, Some(0..=2)), "the next gvad: {ended}");
    assert_harmless("the next gvad's log", &ended.stderr);
    for one in &expect {
        if let Expect::Later(later) = one
            && let Expect::That(is_so) = &**later
        {
            is_so(&next);
        }
    }
    let mut ran = told(&guest);
    ran.sort();
    assert_eq!(
        ran,
        [NEIGHBOUR, NEXT],
        "the good scripts run once each\n--- first {}\n--- next {ended}",
        seen.ended
    );
    for name in [NEIGHBOUR, NEXT] {
        assert_eq!(guest.result(name)["outcome"], "exited");
    }
    let (before, ran) = (next.results.len(), guest.witness());
    let ended = guest.drain();
    assert_eq!(
        told(&guest).len(),
        2,
        "a further start runs nothing: {ended}"
    );
    assert_eq!(
        guest.witness(),
        ran,
        "a further start runs nothing: {ended}"
    );
    assert_eq!(guest.results().len(), before, "{ended}");
    guest.assert_clean();
}

/// A script that tells that it ran where no row looks, and what `gvad status` says meanwhile.
fn good(guest: &Guest) -> String {
    format!(
        "#!/bin/sh\necho \"${{0##*/}}\" >> '{0}'\n'{1}' status --config '{2}' > '{0}.page'\n",
        guest.text("good"),
        GVAD,
        guest.write_config().display()
    )
}

/// The good scripts that ran, in the order in which they did.
fn told(guest: &Guest) -> Vec<String> {
    let text = fs::read_to_string(guest.path("good")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn look(guest: &Guest, ended: Ended) -> Seen<'_> {
    let (status, table) = guest.inside_output(|output| {
        let table = run(Command::new(GVAD).arg("results").arg(output)).stdout;
        (fs::read_to_string(output.join("gvad/status.json")), table)
    });
    Seen {
        table,
        guest,
        ended,
        status: status.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap()),
        page: fs::read_to_string(guest.path("good.page")).unwrap_or_default(),
        results: guest.results(),
    }
}

#[track_caller]
fn meets(seen: &Seen<'_>, expect: &[Expect]) {
    let Seen { guest, ended, .. } = seen;
    assert_harmless("the log", &ended.stderr);
    assert_harmless("the status", &seen.page);
    assert_harmless("the table", &seen.table);
    let failed = seen.results.iter().any(|result| result["success"] != true);
    let (mut code, mut signal, mut ran) = (Some(i32::from(failed)), None, vec![NEIGHBOUR]);
    for one in expect {
        match one {
            Expect::Exits(status) => code = Some(*status),
            Expect::Killed(by) => (code, signal) = (None, Some(*by)),
            Expect::Waits => ran.clear(),
            Expect::That(is_so) => is_so(seen),
            Expect::Later(_) => {}
        }
    }
    assert_eq!((ended.code, ended.signal), (code, signal), "{ended}");
    assert_eq!(told(guest), ran, "{ended}");
}

/// No panic, and nothing that a terminal obeys or that changes the order of what is read.
#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    assert!(!text.contains("panicked"), "{what}: {text}");
    let obeyed = |c: &char| {
        (c.is_control() && *c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
    };
    let found = text.chars().find(obeyed);
    assert_eq!(found, None, "{what}: {text:?}");
}

impl Seen<'_> {
    /// The results of a script.
    fn of(&self, script: &str) -> Vec<&Value> {
        let of = self.results.iter().filter(|one| one["script"] == script);
        of.collect()
    }
}

/// The exit status of the first drain.
pub(crate) fn exits(status: i32) -> Expect {
    Expect::Exits(status)
}

/// The first drain is ended by a signal.
pub(crate) fn killed(signal: i32) -> Expect {
    Expect::Killed(signal)
}

/// The neighbour has its turn only in the second drain.
pub(crate) fn neighbour_waits() -> Expect {
    Expect::Waits
}

/// What must be so after the second drain.
pub(crate) fn later(expect: Expect) -> Expect {
    Expect::Later(Box::new(expect))
}

/// Anything.
pub(crate) fn that(is_so: impl Fn(&Seen<'_>) + 'static) -> Expect {
    Expect::That(Box::new(is_so))
}

/// The script has one result: this outcome, and a reason with this text in it; an empty text is no reason.
#[track_caller]
pub(crate) fn result(script: &'static str, outcome: &'static str, reason: &'static str) -> Expect {
    that(move |seen| {
        let [one] = seen.of(script)[..] else {
            let (all, ended) = (&seen.results, &seen.ended);
            panic!("one result of {script:?} in {all:#?}\n{ended}")
        };
        assert_eq!(one["outcome"], outcome, "{one:#}");
        let said = one["reason"].as_str().unwrap_or_default();
        assert_eq!(said.is_empty(), reason.is_empty(), "{one:#}");
        assert!(said.contains(reason), "{reason:?} in {one:#}");
        let started = ["started_at", "finished_at", "exit_code", "signal"];
        if outcome == "not_started" {
            assert!(started.iter().all(|field| one[*field].is_null()), "{one:#}");
            assert_eq!(one["success"], false);
        }
    })
}

/// The script exited with 0, without a remark.
pub(crate) fn succeeded(script: &'static str) -> Expect {
    result(script, "exited", "")
}

/// A field of the script's only result.
pub(crate) fn field(script: &'static str, name: &'static str, value: impl Into<Value>) -> Expect {
    let value = value.into();
    that(move |seen| {
        let all = seen.of(script);
        let found: Vec<_> = all.iter().map(|one| &one[name]).collect();
        assert_eq!(found, [&value], "{name} of {script:?}: {all:#?}");
    })
}

/// What the script printed is this.
pub(crate) fn printed(script: &'static str, text: &'static str) -> Expect {
    that(move |seen| {
        let said = seen.guest.run_file(seen.of(script)[0], "stdout");
        assert_eq!(String::from_utf8_lossy(&said), text, "{}", seen.ended);
    })
}

/// What scripts told of themselves (`TELL`), in their order.
pub(crate) fn ran<const N: usize>(scripts: [&'static str; N]) -> Expect {
    that(move |seen| assert_eq!(seen.guest.witness(), scripts, "{}", seen.ended))
}

/// The file stays in script-bin, has no result, and is told with a reason that has this text in it: in the log, and in `status.json`.
pub(crate) fn not_taken(file: &'static str, reason: &'static str) -> Expect {
    that(move |seen| {
        assert!(seen.guest.waiting().iter().any(|name| name == file));
        assert_eq!(seen.of(file), Vec::<&Value>::new(), "it has no result");
        let listed = seen.status["passed_over"].as_array().unwrap().iter();
        let [one] = listed.filter(|one| one["name"] == file).collect::<Vec<_>>()[..] else {
            panic!("{file:?} once in {:#}", seen.status)
        };
        let said = one["reason"].as_str().unwrap();
        assert!(said.contains(reason), "{reason:?} in {said:?}");
        let tells = |line: &&str| line.contains("passed over") && line.contains(said);
        let logged = seen.ended.stderr.lines().any(|line| tells(&line));
        assert!(logged, "{said:?} in {}", seen.ended);
    })
}

/// [`not_taken`], and it is on the page of `gvad status` while the neighbour runs.
pub(crate) fn passed_over(file: &'static str, reason: &'static str) -> Expect {
    let Expect::That(is_so) = not_taken(file, reason) else {
        unreachable!()
    };
    that(move |seen| {
        is_so(seen);
        let listed = |line: &str| line.contains("passed over") && line.contains(reason);
        let on_page = seen.page.is_empty() || seen.page.lines().any(listed);
        assert!(on_page, "{reason:?} in {}", seen.page);
    })
}

/// The file stays in script-bin.
pub(crate) fn stays(file: &'static str) -> Expect {
    that(move |seen| {
        let waiting = seen.guest.waiting();
        assert!(waiting.iter().any(|name| name == file), "{waiting:?}");
    })
}

/// The log has a line with this text.
pub(crate) fn logged(text: &'static str) -> Expect {
    that(move |seen| {
        let log = &seen.ended.stderr;
        assert!(log.contains(text), "{text:?} in {log}");
    })
}

/// The page of `gvad status` has this text.
pub(crate) fn on_the_page(text: &'static str) -> Expect {
    that(move |seen| assert!(seen.page.contains(text), "{text:?} in {}", seen.page))
}

/// Runs a line of shell in script-bin, before the first drain; `$ROOT` is the application, `$TEST` the test's own directory.
pub(crate) fn in_script_bin(line: &str) -> impl FnOnce(&Guest) + use<> {
    let line = line.to_owned();
    move |guest| {
        guest.inside(|root| {
            let mut shell = Command::new("bash");
            shell.args(["-euc", &line]).env("ROOT", root);
            shell.current_dir(root.join("script-bin"));
            let ended = run(shell.env("TEST", guest.path("")));
            assert_eq!(ended.code, Some(0), "{line}: {ended}");
        });
    }
}

/// Hands over a script.
pub(crate) fn script<N: AsRef<OsStr>>(name: N, body: &str) -> impl FnOnce(&Guest) {
    move |guest| guest.script(name, body)
}
