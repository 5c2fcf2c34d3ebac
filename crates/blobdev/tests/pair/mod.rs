//! Both ends of a channel in one process, and a control plane of a few lines: what Python decides, decided here.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use blobdev::bhttp;
use blobdev::hresult;
use blobdev::vsc::channel::{GuestChannel, Refused, Wiring, create_rings};
use blobdev::vsc::memory::LentMemory;
use blobdev::vsc::pending::{Outcome, Token};
use blobdev::vsc::receiving::{Awaited, Woken};
use blobdev::vsc::submission::{Slice, Submission};
use blobdev::vsc::waiting::Waiter;
use blobdev::vsp::channel::{SharedGuestMemory, Terms};
use blobdev::vsp::engine::{Engine, GuestSide, Sizes};
use blobdev::vsp::events::Event;
use blobdev::vsp::files::SystemReader;
use blobdev::vsp::polling::PollingLimits;
use blobdev::vsp::request::HostRequest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vmbus::doorbell::GuestDoorbell;
use vmbus::layout::PAGE_SIZE;
use vmbus::memory::Region;

pub const WAIT: Duration = Duration::from_secs(20);
const RINGS_PAGE: u64 = 16;
const LENT_BYTES: usize = 64 << 20;
const KEY: u64 = 1;

/// What the control plane has seen.
#[derive(Default)]
pub struct Seen {
    pub requests: u64,
    pub cancelled: Vec<u64>,
    pub failed: Vec<String>,
}

/// The two ends.
pub struct Pair {
    pub guest: Arc<GuestChannel>,
    pub lent: Arc<LentMemory>,
    pub seen: Arc<Mutex<Seen>>,
    pub memory: SharedGuestMemory,
    engine: Arc<Engine>,
    stop: Arc<AtomicBool>,
    control: Option<JoinHandle<()>>,
    _page: Arc<Region>,
    _peer: OwnedFd,
}

impl Pair {
    pub fn open(credits: usize, ring_bytes: usize) -> Self {
        let polling = PollingLimits { spinners_max: 0, spin_us: 0 };
        let sizes = Sizes { workers: 2, fillers: 1, offload_entries_max: 0, polling };
        let engine = Arc::new(Engine::start(sizes, Arc::new(SystemReader)).unwrap());
        let memory: SharedGuestMemory = Arc::new(RwLock::default());
        let map = |fd: &OwnedFd, bytes: usize| Arc::new(Region::map_sealed(fd.as_fd(), bytes as u64).unwrap());
        let (rings, fd) = create_rings(ring_bytes).unwrap();
        memory.write().unwrap().add(RINGS_PAGE, map(&fd, 2 * ring_bytes)).unwrap();
        let lent = LentMemory::new(LENT_BYTES);
        let (first, bytes, fd) = lent.prepare(LENT_BYTES).unwrap().unwrap();
        memory.write().unwrap().add(first, map(&fd, bytes)).unwrap();
        lent.activate(first);
        let (page, page_fd) = Region::create_host_page().unwrap();
        let page = Arc::new(page);
        let half = ring_bytes / PAGE_SIZE;
        let pfns: Vec<u64> = (RINGS_PAGE..RINGS_PAGE + 2 * half as u64).collect();
        let side = GuestSide { memory: &memory, host_page: Some(&page) };
        let terms = Terms { credits, scope: None };
        let (bell, socket) = engine.open_channel(KEY, side, &pfns, half, terms).unwrap();
        let (control, peer) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let host_page = Region::map_read_only(page_fd.as_fd(), PAGE_SIZE as u64).unwrap();
        let bell = GuestDoorbell::new(bell, socket).unwrap();
        let guest = Arc::new(GuestChannel::new(Wiring { rings, bell, control, host_page, credits }).unwrap());
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let running = (Arc::clone(&engine), Arc::clone(&seen), Arc::clone(&stop));
        let control = Some(std::thread::spawn(move || control_plane(&running.0, &running.1, &running.2)));
        Self { guest, lent, seen, memory, engine, stop, control, _page: page, _peer: peer }
    }

    pub fn close_at_host(&self) {
        self.engine.close_channel(KEY);
    }

    pub fn slice(&self, length: usize) -> Slice {
        Slice { pages: self.lent.allocate(length).expect("lent memory is spent"), offset: 0, length }
    }

    /// Waits for a condition that others bring about.
    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + WAIT;
        while !condition(self) {
            assert!(Instant::now() < end, "{what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.engine.close_channel(KEY);
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.control.take().unwrap().join();
        self.engine.stop();
    }
}

/// One request and its buffers.
pub struct Exchange {
    pub request: Slice,
    pub response: Slice,
    pub data: Option<Slice>,
    valid: u32,
}

impl Exchange {
    /// A request for `path`, with room for `room` bytes or with `content`.
    pub fn new(pair: &Pair, path: &str, room: usize, content: &[u8]) -> Self {
        let mut message = vec![0; 1024];
        let method: &[u8] = if content.is_empty() { b"GET" } else { b"PUT" };
        let control = [method, b"https", b"host", path.as_bytes()];
        let size = bhttp::encode_request(&mut message, control, std::iter::empty(), b"").unwrap();
        let request = pair.slice(size);
        request.pages.region().write(request.pages.offset(), &message[..size]);
        let length = room.max(content.len());
        let data = (length > 0).then(|| pair.slice(length));
        if let Some(data) = &data {
            data.pages.region().write(data.pages.offset(), content);
        }
        Self { request, response: pair.slice(4096), data, valid: content.len() as u32 }
    }

    pub fn send(&self, pair: &Pair, waiter: &Arc<Waiter>) -> Result<Token, Refused> {
        let submission = Submission {
            request: &self.request,
            response: &self.response,
            data: self.data.as_ref(),
            data_valid: self.valid,
            timeout_ms: 0,
            guid: pair.guest.next_guid(),
        };
        pair.guest.submit(waiter, &submission)
    }

    /// Sends, waiting for credits and room if need be.
    pub fn send_when_possible(&self, pair: &Pair, waiter: &Arc<Waiter>) -> Token {
        loop {
            match self.send(pair, waiter) {
                Ok(token) => return token,
                Err(Refused::Busy) => assert!(pair.guest.wait(waiter, Awaited::Change, WAIT) != Woken::TimedOut),
                Err(_) => panic!("the channel refuses"),
            }
        }
    }

    pub fn perform(&self, pair: &Pair, waiter: &Arc<Waiter>) -> Outcome {
        let token = self.send_when_possible(pair, waiter);
        collect(pair, waiter, token)
    }

    /// The response's content.
    pub fn answer(&self, outcome: &Outcome) -> Vec<u8> {
        let mut message = vec![0; outcome.response_length as usize];
        self.response.pages.region().read(self.response.pages.offset(), &mut message);
        bhttp::decode_response(&message).unwrap().content.to_vec()
    }

    pub fn data_bytes(&self) -> Vec<u8> {
        let data = self.data.as_ref().unwrap();
        let mut bytes = vec![0; data.length];
        data.pages.region().read(data.pages.offset(), &mut bytes);
        bytes
    }
}

pub fn collect(pair: &Pair, waiter: &Arc<Waiter>, token: Token) -> Outcome {
    loop {
        match pair.guest.wait(waiter, Awaited::Completion(token), WAIT) {
            Woken::Ready => return pair.guest.take(token).expect("a completed request has an outcome"),
            Woken::Interrupted | Woken::Control => {}
            Woken::TimedOut => panic!("no completion"),
            Woken::Closed => panic!("the channel ended"),
        }
    }
}

/// Bytes that differ from place to place, from page to page and from seed to seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let unit: Vec<u8> = (0..4099).map(step).collect();
    let mut bytes = unit.repeat(length / unit.len() + 1);
    bytes.truncate(length);
    bytes
}

pub fn checksum(bytes: &[u8]) -> Vec<u8> {
    blobdev::extents::crc64(bytes, 0).to_string().into_bytes()
}

fn control_plane(engine: &Engine, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut waiting = HashMap::new();
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::from_borrowed_fd(engine.events().as_fd(), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
        for event in engine.events().take(64, 4) {
            handle(event, &mut waiting, &mut seen.lock().unwrap());
        }
    }
}

fn handle(event: Event, waiting: &mut HashMap<u64, Arc<HostRequest>>, seen: &mut Seen) {
    match event {
        Event::Request(request) => {
            seen.requests += 1;
            if let Some(request) = answer(request) {
                waiting.insert(request.id, request);
            }
        }
        Event::Cancel(id) => {
            seen.cancelled.push(id);
            if let Some(request) = waiting.remove(&id) {
                request.complete(hresult::CANCELLED, &[], None);
            }
        }
        Event::ChannelFailed(_, reason) => seen.failed.push(reason),
        Event::Filled(_) | Event::Stored(..) | Event::Released(_) => {}
    }
}

/// Answers `/fill/SEED` with bytes in the data buffer and `/sum` with a checksum; `/wait` comes back.
fn answer(request: Arc<HostRequest>) -> Option<Arc<HostRequest>> {
    let path = String::from_utf8(bhttp::decode_request(&request.head).unwrap().path.to_vec()).unwrap();
    let respond = |content: &[u8]| {
        let mut message = vec![0; 256];
        let size = bhttp::encode_response(&mut message, 200, std::iter::empty(), content).unwrap();
        message.truncate(size);
        message
    };
    if let Some(seed) = path.strip_prefix("/fill/") {
        let content = pattern(seed.parse().unwrap(), request.data_length());
        assert!(request.complete_with_bytes(&respond(b""), &content));
    } else if path == "/sum" {
        assert!(request.complete(0, &respond(&checksum(&request.read_data().unwrap())), None));
    } else {
        return Some(request);
    }
    assert!(!request.complete(0, &[], None), "rule 4: exactly one completion");
    None
}
