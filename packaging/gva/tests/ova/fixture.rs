//! Images to pack, and packages to take apart and to put together wrongly.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A directory with images that can be packed.
pub(crate) struct Workshop {
    dir: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Workshop {
        let dir = tempfile::tempdir().unwrap();
        let base = File::create(dir.path().join("base.img")).unwrap();
        base.set_len(8 << 20).unwrap();
        // One Linux partition from sector 2048 on, 8192 long.
        let entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 32, 0, 0];
        base.write_all_at(&entry, 446).unwrap();
        base.write_all_at(&[0x55, 0xaa], 510).unwrap();
        let workshop = Workshop { dir };
        workshop.labelled("app.img", "gva-app");
        workshop
    }

    /// An ext4 image of 4 MiB.
    pub(crate) fn labelled(&self, name: &str, label: &str) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(4 << 20).unwrap();
        let made = Command::new("mke2fs")
            .env("PATH", path_with_sbin())
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-L", label])
            .arg(&path)
            .status();
        assert!(made.unwrap().success(), "mke2fs");
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// gva in this directory.
    pub(crate) fn gva(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gva"));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }

    /// `gva pack` with what is always needed.
    pub(crate) fn pack(&self, further: &[&str]) -> Output {
        let always = [
            "pack",
            "--base",
            "base.img",
            "--application",
            "app.img",
            "--output-size",
            "16MiB",
        ];
        self.gva(&[&always, further].concat())
    }

    /// The names in the directory.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn path_with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

/// All that a command said, and its exit status.
pub(crate) fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(text).unwrap(),
    )
}

#[track_caller]
pub(crate) fn succeeded(output: &Output) {
    assert_eq!(said(output).0, 0, "{}", said(output).1);
}

/// A file in a package.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) kind: u8,
    pub(crate) content: Vec<u8>,
}

/// The files of a package, in their order.
#[derive(Clone)]
pub(crate) struct Parts(pub(crate) Vec<Member>);

impl Parts {
    pub(crate) fn read(path: &Path) -> Parts {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let members = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            Member {
                name: entry.path().unwrap().to_str().unwrap().to_owned(),
                kind: b'0',
                content,
            }
        });
        Parts(members.collect())
    }

    /// Writes a tar, whatever the names are.
    pub(crate) fn write(&self, path: &Path) {
        let mut tar = tar::Builder::new(File::create(path).unwrap());
        for member in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..member.name.len()].copy_from_slice(member.name.as_bytes());
            header.set_entry_type(tar::EntryType::new(member.kind));
            header.set_mode(0o644);
            header.set_size(member.content.len() as u64);
            header.set_cksum();
            tar.append(&header, member.content.as_slice()).unwrap();
        }
        tar.into_inner().unwrap().flush().unwrap();
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|member| member.name.as_str()).collect()
    }

    /// The member whose name ends so.
    pub(crate) fn member(&mut self, end: &str) -> &mut Member {
        self.0
            .iter_mut()
            .find(|member| member.name.ends_with(end))
            .unwrap()
    }

    pub(crate) fn text(&mut self, end: &str) -> String {
        String::from_utf8(self.member(end).content.clone()).unwrap()
    }

    /// Changes the descriptor's text, and the manifest with it.
    pub(crate) fn edit(&mut self, from: &str, to: &str) {
        let text = self.text(".ovf");
        assert!(text.contains(from), "{from:?} is not in {text}");
        self.member(".ovf").content = text.replace(from, to).into_bytes();
        self.list();
    }

    /// Writes the manifest anew.
    pub(crate) fn list(&mut self) {
        let lines = self
            .0
            .iter()
            .filter(|member| !member.name.ends_with(".mf"))
            .map(|member| {
                let hash = Sha256::digest(&member.content);
                let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("SHA256({})= {hash}\n", member.name)
            });
        let text: String = lines.collect();
        self.member(".mf").content = text.into_bytes();
    }

    pub(crate) fn swap(&mut self, one: &str, other: &str) {
        let place = |end: &str| {
            self.0
                .iter()
                .position(|member| member.name.ends_with(end))
                .unwrap()
        };
        let (one, other) = (place(one), place(other));
        self.0.swap(one, other);
    }
}

/// A sound package, as the file job.ova and in its parts.
pub(crate) fn packed() -> (Workshop, Parts) {
    let shop = Workshop::new();
    succeeded(&shop.pack(&["--param", "a=1", "-o", "job.ova"]));
    let parts = Parts::read(&shop.path("job.ova"));
    (shop, parts)
}

/// A file that belongs to no package.
pub(crate) fn file(name: &str) -> Member {
    Member {
        name: name.to_owned(),
        kind: b'0',
        content: b"content".to_vec(),
    }
}
