//! Every input that fuzzing has kept, and the golden vectors, through the same properties: in `make test`, without
//! cargo-fuzz.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use pvblob_fuzz::{Check, TARGETS};

/// Miri runs a thousandth as fast and maps no memory: it sees a sample, and no target that maps.
const SAMPLE_EVERY: usize = if cfg!(miri) { 25 } else { 1 };

fn targets() -> impl Iterator<Item = (&'static str, Check)> {
    TARGETS.into_iter().filter(|(name, _)| !cfg!(miri) || *name != "ranges")
}

fn kept(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_of_every_target_holds() {
    for (target, check) in targets() {
        let files = kept(target);
        assert!(files.len() >= 20, "the corpus of {target} is gone");
        for file in files.iter().step_by(SAMPLE_EVERY) {
            println!("{}", file.display());
            check(&fs::read(file).unwrap());
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "sixteen times as long")]
fn every_kept_input_cut_short_holds() {
    for (target, check) in targets() {
        for file in kept(target).iter().step_by(SAMPLE_EVERY) {
            let data = fs::read(file).unwrap();
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
