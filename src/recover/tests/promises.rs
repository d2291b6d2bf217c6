//! What must hold after recovery.

use super::states::any_state;
use super::*;

/// What is right for a script.
#[derive(Debug, PartialEq)]
enum Right {
    /// It was not started, or is owed a further attempt: this one.
    Runs(u32),
    /// It may have been started.
    RunsNot,
}

impl World {
    fn right(&self, script: &Script) -> Right {
        let at = self.at(script);
        if self.state.ledger_lost {
            // What was claimed for it is another ledger's now. In script-bin only what was run in place is known: from the lines that are whole.
            let marked = script.mark.as_ref().is_some_and(|mark| !mark.other_file);
            return if at == At::ScriptBin && (self.state.writable || !marked) {
                Right::Runs(1)
            } else {
                Right::RunsNot
            };
        }
        let Some(mark) = script.mark.as_ref().filter(|mark| !mark.other_file) else {
            return if at == At::OtherLedger {
                Right::RunsNot
            } else {
                Right::Runs(1)
            };
        };
        if at == At::OtherLedger {
            return Right::RunsNot;
        }
        let attempt = script.earlier + 1;
        let next = attempt + u32::from(!mark.unstarted);
        let owed = match mark.end {
            Some(again) => again,
            None if mark.directory == Directory::Result => false,
            None if mark.unstarted => true,
            None => self.state.rerun && attempt < self.state.max_attempts && !mark.pending,
        };
        if owed {
            Right::Runs(next)
        } else {
            Right::RunsNot
        }
    }

    /// Whether a script that lies in script-bin would be started from there.
    fn would_run(&self, index: usize, ledger: &Ledger) -> bool {
        let there = self.identity(At::ScriptBin, index);
        let mut marks = ledger.unsettled.iter();
        let passed_by = !self.state.writable
            && marks.any(|(start, again)| !again && start.identity.same(&there));
        !passed_by && ledger.ran(&there).is_none()
    }

    fn check_script(
        &self,
        index: usize,
        resumed: &[Resumed],
        ledger: &Ledger,
    ) -> Result<(), TestCaseError> {
        let script = &self.state.scripts[index];
        let at = self.at(script);
        let name = name(index);
        let lies = self.path(At::ScriptBin).join(&name).exists();
        let mut claims = resumed.iter();
        let claim = claims.find(|one| one.name == name);
        if at == At::Nowhere {
            prop_assert!(!lies && claim.is_none(), "{script:?} came from nowhere");
            return Ok(());
        }
        let attempt = match claim {
            Some(one) => Some(one.attempt),
            None if lies && self.would_run(index, ledger) => {
                Some(ledger.next_attempt(&self.identity(At::ScriptBin, index)))
            }
            None => None,
        };
        match self.right(script) {
            Right::Runs(right) => {
                prop_assert_eq!(
                    attempt,
                    Some(right),
                    "script {} was lost, or is miscounted",
                    index
                );
            }
            Right::RunsNot => {
                prop_assert_eq!(attempt, None, "script {} would be started once more", index);
                let told = self.results().into_values().any(|result| {
                    let marked = script.mark.as_ref().is_some_and(|mark| !mark.other_file);
                    let last = run_id(self.known[index].1, &name);
                    let named = result.name == ScriptName::of(&name);
                    if self.state.ledger_lost {
                        // Of the script's name only what stands in the directory's is known.
                        named || result.is_of(&last)
                    } else {
                        named && (!marked || at == At::OtherLedger || result.is_of(&last))
                    }
                });
                // The result of a run whose end was noted was durable before, and what a lost ledger said is known from directories; a state
                // may lack both.
                let ended = script.mark.as_ref().is_some_and(|mark| {
                    let lost = self.state.ledger_lost && mark.directory == Directory::Missing;
                    (mark.end == Some(false) && !mark.kept) || lost
                });
                prop_assert!(told || ended, "script {index} is gone without a result");
                prop_assert!(lies != self.state.writable, "script {index} is there still");
            }
        }
        Ok(())
    }

    /// That a script was claimed for another ledger is told once.
    fn check_foreign(&self) -> Result<(), TestCaseError> {
        for index in 0..self.state.scripts.len() {
            let name = ScriptName::of(&name(index));
            let told = self.results().into_values().filter(|result| {
                let reason = result.reason.as_deref().unwrap_or_default();
                result.name == name && reason.contains("another output image")
            });
            prop_assert!(told.count() <= 1, "script {} was told of twice", index);
        }
        Ok(())
    }

    /// A result that the ledger kept is there, with what was printed.
    fn check_kept(&self, index: usize) -> Result<(), TestCaseError> {
        let mark = self.state.scripts[index].mark.as_ref();
        if mark.is_none_or(|mark| !mark.kept) {
            return Ok(());
        }
        let id = run_id(self.known[index].1, &name(index));
        let results = self.results();
        let result = results.get(OsStr::new(&id));
        prop_assert_eq!(result, Some(&exited(&id, index)));
        let stdout = fs::read(self.gvad().join(&id).join("stdout")).unwrap();
        prop_assert_eq!(stdout, b"out");
        Ok(())
    }

    fn check(&self, resumed: &[Resumed], ledger: &Ledger) -> Result<(), TestCaseError> {
        for index in 0..self.state.scripts.len() {
            self.check_script(index, resumed, ledger)?;
            self.check_kept(index)?;
        }
        prop_assert!(ledger.kept.is_empty());
        self.check_foreign()?;
        prop_assert!(ledger.unfinished.is_empty());
        let nothing_left = self.state.writable && resumed.is_empty();
        prop_assert!(
            !nothing_left || ledger.unsettled.is_empty(),
            "it remembers for nothing"
        );
        let results = self.results();
        for (run, id) in run_directories(&Dir::open(&self.gvad()).unwrap()).unwrap() {
            let noted = ledger.unsettled.iter().any(|(start, _)| start.run == run);
            let whole = results.contains_key(&id);
            prop_assert!(
                whole || noted || run <= ledger.settled(),
                "{id:?} has no result"
            );
        }
        let mut told: Vec<_> = self.told.iter().map(|result| &result.run_id).collect();
        told.sort_unstable();
        let all = told.len();
        told.dedup();
        prop_assert_eq!(told.len(), all, "a result was told twice: {:?}", self.told);
        for (_, pending) in self.pending.iter().filter(|_| !self.state.ledger_lost) {
            let open = self
                .state
                .scripts
                .iter()
                .zip(&self.known)
                .any(|(script, (_, run))| {
                    let unended = script.mark.as_ref().is_some_and(|mark| mark.end.is_none());
                    unended && pending.run_id == run_id(*run, &pending.name.file_name().unwrap())
                });
            let there = results.get(OsStr::new(&pending.run_id));
            prop_assert!(!open || there.is_some_and(|there| there.outcome == Outcome::Exited));
        }
        Ok(())
    }
}

fn try_out(state: State) -> Result<(), TestCaseError> {
    let mut world = World::new(state);
    let before = world.results();
    for kill in world.state.kills.clone() {
        // It may be done before it is killed.
        let _ = world.recover(Some(kill));
    }
    let failed = |err: anyhow::Error| TestCaseError::fail(format!("{err:#}"));
    let (resumed, _, ledger) = world.recover(None).map_err(failed)?;
    world.check(&resumed, &ledger)?;
    let results = world.results();
    for (id, result) in before {
        prop_assert_eq!(results.get(&id), Some(&result), "a result has changed");
    }
    drop(ledger);
    let (again, actions, ledger) = world.recover(None).map_err(failed)?;
    prop_assert_eq!(&again, &resumed, "a further start changes what is run");
    prop_assert!(
        actions.iter().all(|action| *action == Action::Sync),
        "a further start does {:?}",
        actions
    );
    prop_assert_eq!(world.results(), results);
    world.check(&again, &ledger)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recovery_loses_no_script_and_starts_none_twice_whatever_it_finds_and_wherever_it_is_killed(state in any_state()) {
        try_out(state)?;
    }
}
