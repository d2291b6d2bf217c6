//! A pretend guest for one test: a private mount namespace, a directory with the configuration, the state and the images in
//! it, and the commands of the built gvad run on them. What a test leaves behind (processes, mounts, loop devices) is taken
//! away at the end, whether it passed or not.

mod gpt;
mod host;
mod images;
mod left;
mod machine;
mod process;
mod waiting;

pub(crate) use gpt::gpt;
pub(crate) use host::Host;
pub(crate) use images::{Fs, Image, write_script};
pub(crate) use process::{Daemon, Ended, run, sh, tool};
use waiting::DEADLINE;
pub(crate) use waiting::{skipped, wait_until};

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use serde_json::Value;
use tempfile::TempDir;

const NONE: Option<&str> = None;

/// Where the application or the output of a test is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A directory, used in place.
    Directory(PathBuf),
    /// An image file.
    Image(Image),
}

/// One pretend guest; dropping it cleans up.
pub(crate) struct Guest {
    settings: RefCell<toml::Table>,
    application: RefCell<Place>,
    output: RefCell<Option<Place>>,
    attached: RefCell<Vec<String>>,
    home: File,
    dir: TempDir,
    _lock: Flock<File>,
}

impl Guest {
    /// An application directory that is used in place; results go to `output/` in it.
    pub(crate) fn in_directory() -> Option<Self> {
        let guest = Self::bare(FlockArg::LockShared)?;
        fs::create_dir_all(guest.path("app/script-bin")).unwrap();
        let place = Place::Directory(guest.path("app"));
        Some(guest.with_application(place))
    }

    /// A combined appliance: one writable ext4 image.
    pub(crate) fn on_image() -> Option<Self> {
        Self::on(Fs::Ext4)
    }

    /// A combined appliance on a file system of that type; for the types that are only read, an empty image to be replaced.
    pub(crate) fn on(fs: Fs) -> Option<Self> {
        let guest = Self::bare(FlockArg::LockShared)?;
        let place = Place::Image(Image::empty(fs, guest.path("app.img"), &guest.label("app")));
        Some(guest.with_application(place))
    }

    /// An application image with an output image of its own.
    pub(crate) fn with_output_image() -> Option<Self> {
        let guest = Self::on_image()?;
        guest.add_output_image(Fs::Ext4);
        Some(guest)
    }

    /// A guest that alone may have devices with the default labels; no source is set.
    pub(crate) fn alone() -> Option<Self> {
        Self::bare(FlockArg::LockExclusive)
    }

    fn bare(lock: FlockArg) -> Option<Self> {
        if !Uid::effective().is_root() {
            skipped("needs root, to mount");
            return None;
        }
        // Other tests search for the default labels too: who attaches a device with one must be alone.
        let file = File::create(std::env::temp_dir().join("gvad-tests.lock")).unwrap();
        let lock = Flock::lock(file, lock).map_err(|(_, err)| err).unwrap();
        machine::wait_for_no_default_label();
        let home = File::open("/proc/thread-self/ns/mnt").unwrap();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
        machine::let_go_of_foreign_images();
        mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .unwrap();
        let dir = tempfile::Builder::new()
            .prefix("gvad-it-")
            .tempdir()
            .unwrap();
        let guest = Self {
            settings: RefCell::default(),
            application: RefCell::new(Place::Directory(PathBuf::new())),
            output: RefCell::default(),
            attached: RefCell::default(),
            home,
            dir,
            _lock: lock,
        };
        for role in ["application", "data", "output"] {
            guest.set(
                &format!("{role}.mount_point"),
                guest.text(&format!("mnt/{role}")),
            );
        }
        guest.set("data.wait", "0s");
        guest.set("output.wait", "0s");
        guest.set("watch.poll_interval", "200ms");
        guest.set("watch.settle", "100ms");
        guest.set("run.stop_grace", "1s");
        guest.set("run.temp_dir", guest.text("state"));
        guest.set("environment.WITNESS", guest.text("witness"));
        Some(guest)
    }

    fn with_application(self, place: Place) -> Self {
        self.set_application(place);
        self
    }

    /// Takes another application.
    pub(crate) fn set_application(&self, place: Place) {
        self.set(
            "application.source",
            place.path().to_str().unwrap().to_owned(),
        );
        self.application.replace(place);
    }

    /// Gives the guest an output image of its own, an empty one.
    pub(crate) fn add_output_image(&self, fs: Fs) {
        let image = Image::empty(fs, self.path("output.img"), &self.label("out"));
        self.set_output(Place::Image(image));
    }

    /// Takes another output.
    pub(crate) fn set_output(&self, place: Place) {
        self.set("output.source", place.path().to_str().unwrap().to_owned());
        self.output.replace(Some(place));
    }

    /// A path in the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A label that no other test has, of 12 bytes at most (XFS).
    pub(crate) fn label(&self, name: &str) -> String {
        let unique: String = self
            .dir
            .path()
            .to_str()
            .unwrap()
            .chars()
            .rev()
            .take(6)
            .collect();
        format!("{name}-{unique}")
    }

    /// Sets one key, as `section.key`.
    pub(crate) fn set(&self, key: &str, value: impl Into<toml::Value>) {
        let (section, key) = key.split_once('.').unwrap();
        let mut settings = self.settings.borrow_mut();
        let section = settings
            .entry(section)
            .or_insert_with(|| toml::Table::new().into());
        section
            .as_table_mut()
            .unwrap()
            .insert(key.to_owned(), value.into());
    }

    /// Takes one key out.
    pub(crate) fn unset(&self, key: &str) {
        let (section, key) = key.split_once('.').unwrap();
        if let Some(section) = self.settings.borrow_mut().get_mut(section) {
            section.as_table_mut().unwrap().remove(key);
        }
    }

    /// Writes the configuration file and tells where it is.
    pub(crate) fn write_config(&self) -> PathBuf {
        // Whole or not at all: a gvad that was started a moment ago may be reading it.
        let (new, path) = (self.path("gvad.toml.new"), self.path("gvad.toml"));
        fs::write(&new, toml::to_string(&*self.settings.borrow()).unwrap()).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// A gvad command with the guest's configuration, which is written now.
    pub(crate) fn gvad(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gvad"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.write_config());
        command
    }

    /// `gvad drain`, to its end.
    #[track_caller]
    pub(crate) fn drain(&self) -> Ended {
        run(&mut self.gvad(&["drain"]))
    }

    /// `gvad drain`, which must succeed.
    #[track_caller]
    pub(crate) fn drain_ok(&self) {
        let ended = self.drain();
        assert_eq!(ended.code, Some(0), "{ended}");
    }

    /// The daemon.
    pub(crate) fn daemon(&self) -> Daemon<'_> {
        Daemon::start(self, self.gvad(&[]))
    }

    /// Looks at, or changes, the application from outside; where it is still mounted (a killed gvad left it so), there.
    pub(crate) fn inside<T>(&self, act: impl FnOnce(&Path) -> T) -> T {
        match &*self.application.borrow() {
            Place::Directory(path) => act(path),
            Place::Image(_) if self.is_mounted(&self.path("mnt/application")) => act(&self.live()),
            Place::Image(image) => image.inside(&self.path("edit"), act),
        }
    }

    /// The application's root as the running gvad sees it.
    pub(crate) fn live(&self) -> PathBuf {
        match &*self.application.borrow() {
            Place::Directory(path) => path.clone(),
            Place::Image(_) => self.path("mnt/application"),
        }
    }

    /// The output directory as the running gvad sees it.
    pub(crate) fn live_output(&self) -> PathBuf {
        match &*self.output.borrow() {
            None => self.live().join("output"),
            Some(Place::Directory(path)) => path.clone(),
            Some(Place::Image(_)) => self.path("mnt/output"),
        }
    }

    /// Looks into the output directory, in use or not.
    pub(crate) fn inside_output<T>(&self, act: impl FnOnce(&Path) -> T) -> T {
        let output = self.output.borrow().clone();
        let point = if output.is_some() {
            "mnt/output"
        } else {
            "mnt/application"
        };
        match output {
            _ if self.is_mounted(&self.path(point)) => act(&self.live_output()),
            None => self.inside(|root| act(&root.join("output"))),
            Some(Place::Directory(path)) => act(&path),
            Some(Place::Image(image)) => image.inside(&self.path("edit"), act),
        }
    }

    /// Hands over a script, from outside.
    pub(crate) fn script(&self, name: impl AsRef<OsStr>, body: &str) {
        self.inside(|root| write_script(&root.join("script-bin").join(name.as_ref()), body));
    }

    /// Hands over a script to the running gvad, the documented way: written elsewhere and renamed in.
    pub(crate) fn hand_over(&self, name: impl AsRef<OsStr>, body: &str) {
        let bin = self.live().join("script-bin");
        wait_until("script-bin is there", || bin.is_dir());
        let draft = bin.join(".draft");
        write_script(&draft, body);
        fs::rename(&draft, bin.join(name.as_ref())).unwrap();
    }

    /// The names in script-bin that are no business of gvad's own.
    pub(crate) fn waiting(&self) -> Vec<String> {
        self.inside(|root| names(&root.join("script-bin")))
    }

    /// What scripts told outside of every image, line by line.
    pub(crate) fn witness(&self) -> Vec<String> {
        let told = fs::read(self.path("witness")).unwrap_or_default();
        String::from_utf8_lossy(&told)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Every result, in the order of the runs; a torn one fails the test.
    pub(crate) fn results(&self) -> Vec<Value> {
        self.inside_output(results_in)
    }

    /// The one result of a script.
    #[track_caller]
    pub(crate) fn result(&self, script: &str) -> Value {
        let mut found: Vec<_> = self
            .results()
            .into_iter()
            .filter(|r| r["script"] == script)
            .collect();
        assert_eq!(found.len(), 1, "results of {script}: {found:?}");
        found.remove(0)
    }

    /// A file of a run, as bytes: `stdout`, `stderr`.
    pub(crate) fn run_file(&self, result: &Value, file: &str) -> Vec<u8> {
        let run = result["run_id"].as_str().unwrap();
        self.inside_output(|out| fs::read(out.join("gvad").join(run).join(file)).unwrap())
    }

    /// Runs one script in a drain of its own and gives its result and its output.
    #[track_caller]
    pub(crate) fn outcome_of(&self, name: &str, body: &str) -> (Value, String) {
        self.script(name, body);
        let ended = self.drain();
        assert_ne!(ended.code, Some(2), "{ended}");
        let result = self.result(name);
        let stdout = self.run_file(&result, "stdout");
        (result, String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Attaches an image as a loop device, for as long as the test runs.
    pub(crate) fn attach(&self, image: &Path, options: &[&str]) -> String {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).args(options).arg(image);
        let device = tool(&mut losetup).trim().to_owned();
        self.attached.borrow_mut().push(device.clone());
        device
    }

    /// Detaches it before the end; from then on it may be another test's.
    pub(crate) fn detach(&self, device: &str) {
        self.attached.borrow_mut().retain(|one| one != device);
        tool(Command::new("losetup").args(["--detach", device]));
    }
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) => path,
            Self::Image(image) => &image.path,
        }
    }
}

/// The names in a directory, sorted, without gvad's own.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| name != ".gvad");
    names.sort();
    names
}

/// The results under an output directory, in the order of the runs.
pub(crate) fn results_in(output: &Path) -> Vec<Value> {
    let runs = names(&output.join("gvad"));
    let files = runs
        .iter()
        .map(|run| output.join("gvad").join(run).join("result.json"));
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    texts
        .map(|text| {
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("a torn result: {e}: {text:?}"))
        })
        .collect()
}
