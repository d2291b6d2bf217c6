//! What of the disks is durable while recovery goes on, and what a power cut leaves.

use super::*;

/// Knows what was durable.
pub(super) struct Disk {
    gvad: PathBuf,
    claims: PathBuf,
    kept: PathBuf,
    ledger: Vec<u8>,
    deleted: Vec<OsString>,
}

impl Disk {
    pub(super) fn new(world: &World) -> Disk {
        let mut disk = Disk {
            gvad: world.gvad(),
            claims: world.path(At::Claims),
            kept: world.root.path().join("kept"),
            ledger: Vec::new(),
            deleted: Vec::new(),
        };
        fs::create_dir_all(&disk.kept).unwrap();
        disk.synced();
        disk
    }

    fn synced(&mut self) {
        self.ledger = fs::read(self.gvad.join("ledger")).unwrap();
    }

    pub(super) fn before(&mut self, action: &Action, earlier: Option<&Action>) {
        if matches!(earlier, Some(Action::Sync | Action::Mark(_))) {
            self.synced();
        }
        if let Action::DeleteClaim(name) = action {
            let kept = self.kept.join(name);
            let _ = fs::remove_file(&kept); // of an earlier recovery
            // With a ledger that was lost the claims are another directory.
            if fs::hard_link(self.claims.join(name), kept).is_ok() {
                self.deleted.push(name.clone());
            }
        }
    }

    /// The power goes.
    pub(super) fn cut(&self, deletes: bool) {
        fs::write(self.gvad.join("ledger"), &self.ledger).unwrap();
        for name in self.deleted.iter().filter(|_| deletes) {
            // One that was not deleted any more is there still.
            let _ = fs::hard_link(self.kept.join(name), self.claims.join(name));
        }
    }
}
