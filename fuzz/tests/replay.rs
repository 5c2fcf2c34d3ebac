//! Every input that fuzzing has kept, and the golden vectors, through the same properties: in `make test`, without
//! cargo-fuzz.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use pvblob_fuzz::{Check, TARGETS};

/// Miri maps no memory, runs a thousandth as fast, and takes a fifth of a second for every look at a directory's entry: it
/// sees copies of a few short inputs of each target that maps nothing.
const FOLDER: &str = if cfg!(miri) { "miri" } else { "corpus" };
const INPUTS_MIN: usize = if cfg!(miri) { 4 } else { 20 };

fn targets() -> impl Iterator<Item = (&'static str, Check)> {
    TARGETS.into_iter().filter(|(name, _)| !cfg!(miri) || *name != "ranges")
}

fn kept(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_of_every_target_holds() {
    for (target, check) in targets() {
        let files = kept(target);
        assert!(files.len() >= INPUTS_MIN, "the corpus of {target} is gone");
        for file in files {
            println!("{}", file.display());
            check(&fs::read(&file).unwrap());
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "sixteen times as long")]
fn every_kept_input_cut_short_holds() {
    for (target, check) in targets() {
        for file in kept(target) {
            let data = fs::read(&file).unwrap();
            println!("{}", file.display());
            (0..data.len()).step_by(data.len() / 16 + 1).for_each(|cut| check(&data[..cut]));
        }
    }
}

#[test]
fn every_target_has_its_corpus_and_its_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (folder, suffix) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let mut found: Vec<_> =
            fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        let mut expected: Vec<_> = TARGETS.iter().map(|(name, _)| OsString::from(format!("{name}{suffix}"))).collect();
        expected.sort();
        assert_eq!(found, expected, "{folder}");
    }
}
