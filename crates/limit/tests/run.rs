//! The program as the benchmark uses it: it reads every block once, says so, and is gone when its input ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const BLOB_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 64 << 10;

fn directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    for blob in 0..2u8 {
        let content: Vec<u8> = (0..BLOB_BYTES).map(|at| (at / 4096 * 31 + at) as u8 ^ blob).collect();
        fs::write(directory.join(format!("big{blob}.bin")), content).unwrap();
    }
    directory
}

fn program(directory: &str, clients: &str, in_flight: &str, wait: &str, place: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pvblob-limit"));
    command.args([directory, "2", &BLOB_BYTES.to_string(), clients, &BLOCK_BYTES.to_string(), in_flight, wait, place]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command, orders: &str) -> Output {
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(orders.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_block_is_read_once_by_however_many_clients() {
    let directory = directory("once");
    for (clients, in_flight, wait, place) in
        [("1", "1", "spin", "copy"), ("3", "4", "block", "in-place"), ("5", "16", "spin", "copy")]
    {
        let output = run(program(directory.to_str().unwrap(), clients, in_flight, wait, place), "run 0\nrun 0\n");
        let lines: Vec<String> = BufReader::new(&output.stdout[..]).lines().map(Result::unwrap).collect();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines.len(), 3, "the processes, then a line for each run");
        assert!(lines[0].starts_with("{\"host_pid\":"));
        for line in &lines[1..] {
            assert!(line.contains("\"requests\":32,"), "{line}");
        }
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let output = run(program("/nonexistent", "1", "1", "spin", "copy"), "run 0\n");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/big0.bin"));
}

#[test]
fn wrong_arguments_get_the_usage() {
    let output = run(program("/tmp", "1", "17", "spin", "copy"), "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: pvblob-limit DIRECTORY"));
}
