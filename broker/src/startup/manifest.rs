//! The data directory: its manifest, and the lock that keeps a second broker out of it.
//!
//! The manifest holds what must not change between starts: the format of the directory, its
//! identity, the key that client identifiers are hashed with, and the number of partitions. And the
//! epoch, which is one higher at every start: it is durable before anything is appended, so that an
//! offset that is used again after a lost tail is told from the first one. The manifest is replaced
//! as a whole (temporary file, fsync, rename, fsync of the directory), so that a crash leaves the
//! old one or the new one. In a cluster, identity, key and partitions are the cluster's, and epochs
//! come from outside ([`super::member`]).

use super::member::Member;
use crate::system_random::random_bytes;
use ringlane_dataplane::log::format::COUNT_MAX;
use ringlane_transport_uring::failpoint::hit;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The newest format that this version reads, and the one that it writes for a node of a cluster: a
/// version that knows no clusters must not open it. A node that is alone has format 2. Format 1 had
/// no log: no `id` and no `epoch`. It is upgraded by the first start.
pub const FORMAT: u32 = 3;

const FORMAT_ALONE: u32 = 2;

const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// A file operation failed.
    #[error("data directory {}: cannot {what}: {error}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process holds the lock.
    #[error("data directory {} is in use by {holder}; stop it, or set data_dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// `pid N`, or that it is unknown.
        holder: String,
    },
    /// The manifest cannot be understood.
    #[error("{}: damaged manifest: {message}; restore it from a backup, or start with an empty \
             data_dir", path.display())]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A newer version wrote the directory.
    #[error("{}: format {found} was written by a newer version; this one reads up to {FORMAT}: \
             upgrade ringlane, or start with an empty data_dir", path.display())]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The configuration wants another number of partitions.
    #[error("{}: the directory has {found} partitions, the configuration wants {wanted}; set \
             runtime.partitions = {found} (or 0), or start with an empty data_dir", path.display())]
    Partitions {
        /// The manifest.
        path: PathBuf,
        /// What the directory has.
        found: u32,
        /// What `runtime.partitions` says.
        wanted: u32,
    },
    /// The directory is of a cluster, and the configuration has none.
    #[error("{}: the directory is that of node {node} of a cluster, and cluster.members is empty: \
             alone it would write what the cluster knows nothing of. Set cluster.members and \
             cluster.node = {node}, or start with an empty data_dir", path.display())]
    OfCluster {
        /// The manifest.
        path: PathBuf,
        /// Its number.
        node: u16,
    },
    /// The directory is another node's.
    #[error("{}: the directory is that of node {found}, the configuration says cluster.node = \
             {wanted}; set cluster.node = {found}, or start with an empty data_dir", path.display())]
    OtherNode {
        /// The manifest.
        path: PathBuf,
        /// Whose it is.
        found: u16,
        /// What `cluster.node` says.
        wanted: u16,
    },
}

/// What the manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Identity of the directory: its logs name it, so that those of another one are told apart.
    pub id: [u8; 16],
    /// Of the last start; 0 before the first one.
    pub epoch: u64,
    /// Key of the hash of client identifiers (SipHash).
    pub key: [u8; 16],
    /// Partitions of the node.
    pub partitions: u32,
    /// Which node of the cluster; `None` for one that is alone.
    pub member: Option<Member>,
}

#[derive(Serialize, Deserialize)]
struct ManifestFile {
    format: u32,
    /// 32 hexadecimal digits; empty in format 1.
    #[serde(default)]
    id: String,
    #[serde(default)]
    epoch: u64,
    partitions: u32,
    /// 32 hexadecimal digits.
    hash_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    member: Option<Member>,
}

/// Only what every format has, to tell a newer one from a damaged one.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A data directory that this process holds, until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    /// What its manifest says.
    pub manifest: Manifest,
    /// Whether the manifest was made by this start.
    pub created: bool,
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Opens `path`, makes it if it is missing, locks it, and reads or writes its manifest.
    ///
    /// `partitions` is what the configuration says; 0 accepts what the directory has, and takes
    /// `partitions_default` for a new one.
    ///
    /// # Errors
    /// See [`ManifestError`]; each says what to do.
    pub fn open(
        path: &Path,
        partitions: u32,
        partitions_default: u32,
    ) -> Result<Self, ManifestError> {
        let opened = Self::open_any(path, partitions, partitions_default)?;
        match &opened.manifest.member {
            None => Ok(opened),
            Some(member) => {
                let path = opened.file();
                Err(ManifestError::OfCluster { path, node: member.node })
            }
        }
    }

    /// As [`Self::open`], whether or not it is of a cluster.
    pub(super) fn open_any(
        path: &Path,
        partitions: u32,
        partitions_default: u32,
    ) -> Result<Self, ManifestError> {
        make_directories(path).map_err(|error| io_error("create it", path, error))?;
        let path = &path.canonicalize().map_err(|error| io_error("find it", path, error))?;
        let lock = lock(path)?;
        let file = path.join(MANIFEST);
        let (manifest, created) = match fs::read(&file) {
            Ok(bytes) => (parse(&file, &bytes)?, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let wanted = if partitions == 0 { partitions_default } else { partitions };
                (create(path, &file, wanted)?, true)
            }
            Err(error) => return Err(io_error("read the manifest", &file, error)),
        };
        if partitions != 0 && partitions != manifest.partitions {
            let found = manifest.partitions;
            return Err(ManifestError::Partitions { path: file, found, wanted: partitions });
        }
        Ok(Self { manifest, created, path: path.clone(), _lock: lock })
    }

    /// Where it is, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a new epoch, above that of the last start and above `highest`, the highest one that
    /// was found in a log: durable when this returns.
    ///
    /// # Errors
    /// If the manifest cannot be written, or names an epoch that no broker has come to.
    ///
    /// # Panics
    /// In a cluster: there epochs come from outside.
    pub fn begin_epoch(&mut self, highest: u64) -> Result<u64, ManifestError> {
        assert!(self.manifest.member.is_none(), "a node of a cluster has made up an epoch");
        hit("epoch.before");
        let last = self.manifest.epoch.max(highest);
        if COUNT_MAX <= last {
            let message = format!("after epoch {last} there is none");
            return Err(ManifestError::Damaged { path: self.path.join(MANIFEST), message });
        }
        self.manifest.epoch = last + 1;
        self.save()?;
        hit("epoch.after");
        Ok(self.manifest.epoch)
    }

    /// Makes the manifest durable as it is now.
    pub(super) fn save(&self) -> Result<(), ManifestError> {
        write(&self.path, &self.file(), &self.manifest)
    }

    /// The manifest's file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(MANIFEST)
    }
}

/// Reads the manifest of a data directory, and changes nothing.
///
/// # Errors
/// See [`ManifestError`]; a directory without a manifest is `Io`.
pub fn peek(directory: &Path) -> Result<Manifest, ManifestError> {
    let file = directory.join(MANIFEST);
    let bytes = fs::read(&file).map_err(|error| io_error("read the manifest", &file, error))?;
    parse(&file, &bytes)
}

/// Whether a broker uses a data directory now.
///
/// # Errors
/// The lock cannot be looked at.
pub fn is_in_use(directory: &Path) -> Result<bool, ManifestError> {
    let path = directory.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("open the lock file", &path, error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(io_error("look at the lock", &path, error.into())),
    }
}

/// Keeps brokers out of a data directory for as long as the file is open.
///
/// # Errors
/// `InUse` if one uses it.
pub fn hold(directory: &Path) -> Result<File, ManifestError> {
    peek(directory)?;
    lock(directory)
}

/// Makes a directory and those above it, for the owner alone, each entry durable: a directory whose
/// own name is lost with the power takes everything in it along.
fn make_directories(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    sync_above(missing.last().copied().unwrap_or(path));
    for directory in missing.into_iter().rev().filter(|path| !path.as_os_str().is_empty()) {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Syncs the names of the directories that are there: whoever made them, a broker that was killed
/// perhaps, may not have done it. Those above a data directory may be closed to its owner, or on a
/// file system that does not sync: then whoever set them up has to see to it.
fn sync_above(path: &Path) {
    let Ok(path) = std::path::absolute(path) else { return };
    for directory in path.ancestors().skip(1) {
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
    }
}

/// Locks the directory for as long as the file is open (flock(2)): the kernel lets go of it when
/// the process ends, however it ends. The file holds the holder's process id for the message.
fn lock(directory: &Path) -> Result<File, ManifestError> {
    let path = directory.join(LOCK);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(|error| io_error("open the lock file", &path, error))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io_error("lock it", &path, error.into()));
        }
        let holder = holder(&mut file);
        return Err(ManifestError::InUse { path: directory.to_owned(), holder });
    }
    let write = || -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    }();
    write.map_err(|error| io_error("write the lock file", &path, error))?;
    Ok(file)
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text).map(|_| text.trim().parse::<u32>()) {
        Ok(Ok(pid)) => format!("pid {pid}"),
        Ok(Err(_)) | Err(_) => "another process".to_owned(),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let damaged = |message: String| ManifestError::Damaged { path: path.to_owned(), message };
    let format: FormatOnly =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if FORMAT < format.format {
        return Err(ManifestError::Newer { path: path.to_owned(), found: format.format });
    }
    let file: ManifestFile =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let digits = |name: &str, text: &str| {
        parse_digits(text).ok_or_else(|| damaged(format!("{name} is not 32 hexadecimal digits")))
    };
    let key = digits("hash_key", &file.hash_key)?;
    if file.partitions == 0 {
        return Err(damaged("partitions is 0".to_owned()));
    }
    let id = match file.format {
        1 => random(path)?,
        _ => digits("id", &file.id)?,
    };
    if let Some(member) = &file.member {
        member.check().map_err(damaged)?;
    }
    let ManifestFile { epoch, partitions, member, .. } = file;
    Ok(Manifest { id, epoch, key, partitions, member })
}

/// The bytes that 32 hexadecimal digits stand for.
pub(crate) fn parse_digits(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut key = [0; 16];
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(key)
}

fn render_digits(key: &[u8; 16]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn create(directory: &Path, path: &Path, partitions: u32) -> Result<Manifest, ManifestError> {
    // The key is one that nobody can guess, so that nobody can choose client identifiers that fall
    // on one core.
    let (id, key) = (random(path)?, random(path)?);
    let manifest = Manifest { id, epoch: 0, key, partitions, member: None };
    write(directory, path, &manifest)?;
    Ok(manifest)
}

fn write(directory: &Path, path: &Path, manifest: &Manifest) -> Result<(), ManifestError> {
    let file = ManifestFile {
        format: if manifest.member.is_some() { FORMAT } else { FORMAT_ALONE },
        id: render_digits(&manifest.id),
        epoch: manifest.epoch,
        partitions: manifest.partitions,
        hash_key: render_digits(&manifest.key),
        member: manifest.member.clone(),
    };
    let mut text = serde_json::to_vec_pretty(&file)
        .map_err(|error| io_error("render the manifest", path, io::Error::other(error)))?;
    text.push(b'\n');
    replace(directory, path, &text).map_err(|error| io_error("write the manifest", path, error))
}

/// Sixteen random bytes of the system.
pub(super) fn random(path: &Path) -> Result<[u8; 16], ManifestError> {
    random_bytes().map_err(|error| io_error("draw a random key", path, error))
}

/// Replaces a file as a whole: after a crash it holds the old bytes or the new ones.
fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    hit("epoch.before-rename");
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

fn io_error(what: &'static str, path: &Path, error: io::Error) -> ManifestError {
    ManifestError::Io { what, path: path.to_owned(), error }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that is not there yet, and gone behind the test.
    pub(in crate::startup) struct Directory(pub(in crate::startup) PathBuf);

    impl Directory {
        pub(in crate::startup) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("ringlane-manifest-{}-{number}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn write(&self, text: &str) {
            fs::create_dir_all(&self.0).unwrap();
            fs::write(self.0.join(MANIFEST), text).unwrap();
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_new_directory_gets_a_manifest_that_the_next_start_reads() {
        let directory = Directory::new();
        let first = DataDirectory::open(&directory.0, 0, 8).unwrap();
        assert!(first.created);
        assert_eq!(first.manifest.partitions, 8);
        let manifest = first.manifest.clone();
        drop(first);
        let second = DataDirectory::open(&directory.0, 0, 4).unwrap();
        assert!(!second.created);
        assert_eq!(second.manifest, manifest);
        assert!(!directory.0.join("manifest.tmp").exists());
    }

    #[test]
    fn two_directories_have_different_keys() {
        let (one, two) = (Directory::new(), Directory::new());
        let one = DataDirectory::open(&one.0, 4, 4).unwrap();
        let two = DataDirectory::open(&two.0, 4, 4).unwrap();
        assert_ne!(one.manifest.key, two.manifest.key);
    }

    #[test]
    fn a_directory_in_use_names_its_holder() {
        let directory = Directory::new();
        let held = DataDirectory::open(&directory.0, 0, 4).unwrap();
        let message = DataDirectory::open(&directory.0, 0, 4).unwrap_err().to_string();
        let pid = format!("in use by pid {}", std::process::id());
        assert!(message.contains(&pid), "{message}");
        drop(held);
        assert!(DataDirectory::open(&directory.0, 0, 4).is_ok());
    }

    #[test]
    fn another_number_of_partitions_is_refused_with_the_remedy() {
        let directory = Directory::new();
        drop(DataDirectory::open(&directory.0, 16, 4).unwrap());
        let error = DataDirectory::open(&directory.0, 8, 4).unwrap_err();
        assert!(matches!(error, ManifestError::Partitions { found: 16, wanted: 8, .. }));
        assert!(error.to_string().contains("runtime.partitions = 16"), "{error}");
        assert!(DataDirectory::open(&directory.0, 16, 4).is_ok());
    }

    #[test]
    fn a_manifest_that_cannot_be_used_is_refused() {
        let key = "00112233445566778899aabbccddeeff";
        let text = |format: u32, partitions: u32, key: &str| {
            format!(r#"{{"format":{format},"partitions":{partitions},"hash_key":"{key}"}}"#)
        };
        let cases = [
            (text(4, 4, key), "newer version"),
            (text(2, 4, key), "id is not 32 hexadecimal digits"),
            (r#"{"format":9,"unknown":[]}"#.to_owned(), "newer version"),
            (String::new(), "damaged manifest"),
            (text(1, 0, key), "partitions is 0"),
            (text(1, 4, "xyz"), "32 hexadecimal digits"),
            (text(1, 4, &"é".repeat(16)), "32 hexadecimal digits"),
            (text(1, 4, key)[..20].to_owned(), "damaged manifest"),
        ];
        for (text, expected) in cases {
            let directory = Directory::new();
            directory.write(&text);
            let message = DataDirectory::open(&directory.0, 0, 4).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
        let directory = Directory::new();
        directory.write(&text(1, 4, key));
        let opened = DataDirectory::open(&directory.0, 0, 8).unwrap();
        assert_eq!(opened.manifest.partitions, 4);
        assert_eq!(opened.manifest.key[15], 0xff);
    }

    #[test]
    fn a_directory_of_the_format_without_a_log_is_upgraded() {
        let directory = Directory::new();
        directory
            .write(r#"{"format":1,"partitions":4,"hash_key":"00112233445566778899aabbccddeeff"}"#);
        let mut first = DataDirectory::open(&directory.0, 0, 8).unwrap();
        assert_eq!(first.begin_epoch(0).unwrap(), 1);
        let manifest = first.manifest.clone();
        drop(first);
        let second = DataDirectory::open(&directory.0, 0, 8).unwrap();
        assert_eq!(second.manifest, manifest);
        assert_eq!(second.manifest.key[15], 0xff);
    }

    #[test]
    fn every_start_has_an_epoch_above_all_before() {
        let directory = Directory::new();
        for expected in 1..4 {
            let mut opened = DataDirectory::open(&directory.0, 0, 4).unwrap();
            assert_eq!(opened.begin_epoch(0).unwrap(), expected);
        }
        let mut opened = DataDirectory::open(&directory.0, 0, 4).unwrap();
        assert_eq!(opened.begin_epoch(7).unwrap(), 8, "a log knows of a later one");
        drop(opened);
        let mut opened = DataDirectory::open(&directory.0, 0, 4).unwrap();
        assert_eq!(opened.manifest.epoch, 8);
        for highest in [COUNT_MAX, u64::MAX] {
            let message = opened.begin_epoch(highest).unwrap_err().to_string();
            assert!(message.contains("damaged manifest"), "{message}");
        }
    }

    #[test]
    fn directories_are_made_for_the_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let directory = Directory::new();
        let inner = directory.0.join("a/b");
        let opened = DataDirectory::open(&inner, 0, 4).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert_eq!(mode(&inner.join(MANIFEST)), 0o600);
        assert!(opened.path().is_absolute());
    }
}
