//! Whether a shared library would be found by the dynamic linker, without loading it.
//!
//! The places are those of ld.so(8), in its order: `LD_LIBRARY_PATH`, what `/etc/ld.so.conf`
//! names, the default directories of the distributions.

use std::fs;
use std::path::{Path, PathBuf};

/// The library that RDMA needs, by the name that programs load.
const NAMES: [&str; 1] = ["libibverbs.so.1"];

/// Directories that the linker searches without being told: Debian's multiarch ones, and those of
/// openEuler and its relatives.
const DEFAULT_DIRECTORIES: [&str; 8] = [
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
];

/// Files of `ld.so.conf` that are followed, so that files that name each other end.
const FILES_MAX: usize = 64;

/// A library and where it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Library {
    /// The name that programs load.
    pub name: &'static str,
    /// The file; `None` if the linker would not find it.
    pub path: Option<PathBuf>,
}

/// Looks for `libibverbs.so.1` below `root`.
#[must_use]
pub fn find_libraries(root: &Path, ld_library_path: Option<&str>) -> Vec<Library> {
    let own = ld_library_path.unwrap_or_default().split(':');
    let own = own.filter(|directory| directory.starts_with('/')).map(|text| below(root, text));
    let mut directories: Vec<PathBuf> = own.collect();
    directories.extend(configured_directories(root));
    directories.extend(DEFAULT_DIRECTORIES.iter().map(|directory| root.join(directory)));
    let find = |name| directories.iter().map(|directory| directory.join(name)).find(|p| p.exists());
    NAMES.iter().map(|name| Library { name, path: find(*name) }).collect()
}

/// The directories that `ld.so.conf` and the files that it includes name.
fn configured_directories(root: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let mut files = vec![root.join("etc/ld.so.conf")];
    let mut followed = 0;
    while let Some(file) = files.pop() {
        followed += 1;
        if FILES_MAX < followed {
            break;
        }
        let text = fs::read_to_string(&file).unwrap_or_default();
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            if let Some(pattern) = line.strip_prefix("include ") {
                files.extend(matching_files(root, pattern.trim()));
            } else if line.starts_with('/') {
                directories.push(below(root, line));
            }
        }
    }
    directories
}

/// The files that an include line such as `/etc/ld.so.conf.d/*.conf` names; a star may stand in
/// the last part, which is how every distribution writes it.
fn matching_files(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = if pattern.starts_with('/') { pattern } else { &format!("/etc/{pattern}") };
    let (directory, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let directory = below(root, directory);
    let Some((before, after)) = name.split_once('*') else { return vec![directory.join(name)] };
    let Ok(entries) = fs::read_dir(&directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with(before) && name.ends_with(after)).collect();
    names.sort_unstable();
    names.into_iter().map(|name| directory.join(name)).collect()
}

fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}
