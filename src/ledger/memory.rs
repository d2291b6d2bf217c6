//! What the lines of a ledger come to in memory, and which of them still matter.

use super::Ledger;
use super::kept::remember;
use super::line::Line;

impl Ledger {
    /// Takes a line into memory.
    pub(super) fn note(&mut self, line: Line) {
        match line {
            Line::Ledger { id, schema: _ } => self.id = id,
            Line::Start(start) => {
                self.next_run = self.next_run.max(start.run.saturating_add(1));
                // This is the further attempt that was owed.
                self.unsettled
                    .retain(|(old, again)| !(*again && old.identity.same_file(&start.identity)));
                self.unfinished.push(start);
            }
            Line::End { run, again } => self.note_end(run, again),
            Line::Result(kept) => {
                self.note_end(kept.run, false);
                self.next_run = self.next_run.max(kept.run.saturating_add(1));
                remember(&mut self.kept, Line::Result(kept));
            }
            Line::Filed { .. } => remember(&mut self.kept, line),
            Line::Ran { key, sha256 } => {
                self.ran.insert(key, sha256);
            }
            Line::Lost { run } => {
                self.lost = run;
                self.next_run = self.next_run.max(run.saturating_add(1));
            }
            Line::Settled { run } => {
                if run >= self.lost {
                    self.lost = 0;
                }
                self.settled = self.settled.max(run);
                remember(&mut self.kept, line);
                self.next_run = self.next_run.max(run.saturating_add(1));
                self.unsettled.retain(|(start, _)| start.run > run);
            }
        }
    }

    fn note_end(&mut self, run: u64, again: bool) {
        let open = self.unfinished.iter().position(|start| start.run == run);
        let mut closed = self.unsettled.iter();
        let closed = closed.position(|(start, _)| start.run == run);
        let start = match (open, closed) {
            (Some(index), _) => self.unfinished.remove(index),
            (None, Some(index)) => self.unsettled.remove(index).0,
            (None, None) => return,
        };
        if start.in_place && !again {
            self.ran.insert(start.identity.key(), start.sha256.clone());
        }
        self.unsettled.push((start, again));
    }

    /// Takes what still counts of a line of a damaged ledger.
    pub(super) fn salvage(&mut self, line: Line) {
        match line {
            Line::Ran { key, sha256 } => {
                self.ran.insert(key, sha256);
            }
            Line::Start(start) if start.in_place => {
                self.ran.insert(start.identity.key(), start.sha256);
            }
            Line::Result(kept) => {
                self.lost = self.lost.max(kept.run);
                self.next_run = self.next_run.max(kept.run.saturating_add(1));
                remember(&mut self.kept, Line::Result(kept));
            }
            Line::Filed { .. } | Line::Settled { .. } => remember(&mut self.kept, line),
            Line::Start(_) | Line::Ledger { .. } | Line::End { .. } | Line::Lost { .. } => {}
        }
    }

    /// Everything that is remembered, as lines.
    pub(super) fn lines_that_matter(&self) -> impl Iterator<Item = Line> {
        let head = Line::Ledger {
            id: self.id.clone(),
            schema: 1,
        };
        let settled = Line::Settled { run: self.settled };
        let ran = self.ran.iter().map(|(key, sha256)| Line::Ran {
            key: key.clone(),
            sha256: sha256.clone(),
        });
        let ended = self.unsettled.iter().flat_map(|(start, again)| {
            let (run, again) = (start.run, *again);
            [Line::Start(start.clone()), Line::End { run, again }]
        });
        let kept = self.kept.iter().cloned().map(Line::Result);
        let open = self.unfinished.iter().cloned().map(Line::Start);
        let lost = (self.lost > 0).then_some(Line::Lost { run: self.lost });
        [head, settled]
            .into_iter()
            .chain(lost)
            .chain(ran)
            // First: what is said of their runs behind them counts.
            .chain(kept)
            .chain(ended)
            .chain(open)
    }
}
