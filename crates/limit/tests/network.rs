//! The program itself, carrying connections to a service of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const DELAY: Duration = Duration::from_millis(20);

struct Network {
    child: Child,
    said: BufReader<ChildStdout>,
    port: u16,
}

impl Network {
    /// To a service that handles one connection with *serve*.
    fn to<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (Self, JoinHandle<T>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let service = thread::spawn(move || serve(listener.accept().unwrap().0));
        let mut child = Command::new(env!("CARGO_BIN_EXE_pvblob-network"))
            .args([port, DELAY.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut network = Self { child, said, port: 0 };
        network.port = number_in(&network.line());
        (network, service)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success(), "it ends with its standard input");
    }
}

fn number_in(line: &str) -> u16 {
    line.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// Bytes that show a piece that is missing, doubled or at the wrong place.
fn content(size: usize, seed: u32) -> Vec<u8> {
    (0..size as u32).map(|at| (at.wrapping_mul(2_654_435_761) ^ (at >> 11) ^ seed) as u8).collect()
}

#[test]
fn a_byte_takes_the_delay_each_way_and_the_first_one_the_handshake_too() {
    let (network, service) = Network::to(|mut connection: TcpStream| {
        let mut byte = [0];
        while connection.read(&mut byte).unwrap() == 1 {
            connection.write_all(&byte).unwrap();
        }
    });
    let began = Instant::now();
    let mut client = network.connect();
    for round in 0..3 {
        let asked = Instant::now();
        client.write_all(&[round]).unwrap();
        let mut answer = [9];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round]);
        assert!(asked.elapsed() >= 2 * DELAY, "round {round} took {:?}", asked.elapsed());
        assert!(began.elapsed() >= DELAY * (4 + 2 * u32::from(round)));
    }
    drop(client);
    service.join().unwrap();
}

#[test]
fn more_than_may_be_under_way_arrives_whole_and_in_order_in_both_directions() {
    let size = 37 << 20;
    let (mut network, service) = Network::to(move |connection: TcpStream| {
        let mut writing = connection.try_clone().unwrap();
        let writer = thread::spawn(move || {
            // Pieces of many sizes, as records and heads are.
            let answer = content(size, 1);
            let (mut at, mut length) = (0, 1);
            while at < size {
                let end = size.min(at + length);
                writing.write_all(&answer[at..end]).unwrap();
                (at, length) = (end, length * 3 % 100_003);
            }
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        (&connection).read_to_end(&mut got).unwrap();
        writer.join().unwrap();
        got
    });
    let client = network.connect();
    let mut sending = client.try_clone().unwrap();
    let sender = thread::spawn(move || {
        sending.write_all(&content(size, 2)).unwrap();
        sending.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    (&client).read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    assert!(got == content(size, 1));
    assert!(service.join().unwrap() == content(size, 2));
    network.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert_eq!(network.line(), format!("{{\"connections\": 1, \"bytes_down\": {size}}}\n"));
}

#[test]
fn a_reader_that_takes_nothing_holds_its_sender_up_and_loses_nothing() {
    let size = 24 << 20;
    let (network, service) = Network::to(move |mut connection: TcpStream| {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        connection.write_all(&content(size, 3)).unwrap();
    });
    let mut client = network.connect();
    client.write_all(&[0]).unwrap();
    let mut got = vec![0; 1000];
    client.read_exact(&mut got).unwrap();
    while !service.is_finished() && got.len() < size {
        // Little by little: pipe and sockets are full again and again.
        let held = got.len();
        got.resize((held + 70_000).min(size), 0);
        client.read_exact(&mut got[held..]).unwrap();
    }
    client.read_to_end(&mut got).unwrap();
    assert!(got == content(size, 3));
    service.join().unwrap();
}
