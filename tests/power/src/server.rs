//! The disks that remember: a FUSE file system with the images and the file `mark`. One thread answers, one request after the other, and nothing is
//! cached on the way, so that the log has the kernel's own order.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};

use crate::log::{Entry, Log};

/// Written to, never read.
pub(crate) const MARK: &str = "mark";
const MARK_INODE: u64 = 2;
const FIRST_DISK: u64 = 3;
const NOT_CACHED: Duration = Duration::ZERO;

/// Everything that is logged, and the disks as they are now.
#[derive(Debug, Default)]
struct State {
    log: Log,
    now: Vec<crate::disk::Disk>,
}

#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<State>>);

/// A server; it ends with this.
pub(crate) struct Server {
    shared: Shared,
    session: BackgroundSession,
}

impl Server {
    /// Serves the disks of `log` in the directory `at`.
    pub(crate) fn start(log: Log, at: &Path) -> anyhow::Result<Self> {
        let now = log.disks.clone();
        let shared = Shared(Arc::new(Mutex::new(State { log, now })));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("gvad-power".to_owned())];
        let session = Session::new(shared.clone(), at, &config)?.spawn()?;
        Ok(Self { shared, session })
    }

    /// Takes it away and gives what was logged.
    pub(crate) fn end(self) -> anyhow::Result<Log> {
        self.session.umount_and_join()?;
        let mut state = self.shared.state();
        Ok(std::mem::take(&mut state.log))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what changes a disk, and changes it.
    fn change(&self, inode: INodeNo, entry: impl FnOnce(usize) -> Entry) -> Result<(), Errno> {
        let index = disk_of(inode).ok_or(Errno::EINVAL)?;
        let mut state = self.state();
        let entry = entry(index);
        entry.apply(state.now.get_mut(index).ok_or(Errno::ENOENT)?);
        state.log.entries.push(entry);
        Ok(())
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode.0 {
            1 => (FileType::Directory, 0o755, 0),
            MARK_INODE => (FileType::RegularFile, 0o600, 0),
            _ => {
                let state = self.state();
                let size = state.now.get(disk_of(inode)?)?.size();
                (FileType::RegularFile, 0o600, size)
            }
        };
        Some(attributes(inode, kind, perm, size))
    }
}

fn disk_of(inode: INodeNo) -> Option<usize> {
    usize::try_from(inode.0.checked_sub(FIRST_DISK)?).ok()
}

fn attributes(ino: INodeNo, kind: FileType, perm: u16, size: u64) -> FileAttr {
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn answer(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(err) => reply.error(err),
    }
}

impl Filesystem for Shared {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = self
            .state()
            .log
            .names
            .iter()
            .position(|disk| name == disk.as_str());
        let inode = match disk {
            Some(index) => Some(FIRST_DISK + index as u64),
            None => (name == MARK).then_some(MARK_INODE),
        };
        match inode.and_then(|inode| self.attributes(INodeNo(inode))) {
            Some(attributes) => reply.entry(&NOT_CACHED, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&NOT_CACHED, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Times may be set to what they like.
    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.getattr(request, inode, handle, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // No page cache: what is written comes here at once, and as it is.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        match disk_of(inode).and_then(|index| state.now.get(index)) {
            Some(disk) => reply.data(&disk.get(offset, size as usize)),
            None => reply.data(&[]),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let done = if inode.0 == MARK_INODE {
            let text = String::from_utf8_lossy(data).into_owned();
            self.state().log.entries.push(Entry::Mark(text));
            Ok(())
        } else {
            let data = data.to_vec();
            self.change(inode, |disk| Entry::Write { disk, offset, data })
        };
        match done {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(err) => reply.error(err),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Of a descriptor that is closed; no disk hears of that.
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if inode.0 != MARK_INODE {
            answer(self.change(inode, |disk| Entry::Flush { disk }), reply);
        } else {
            reply.ok();
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & zeroes == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let entry = |disk| Entry::Zero {
            disk,
            offset,
            length,
        };
        answer(self.change(inode, entry), reply);
    }
}
