//! Doorbells: how each side wakes the other. A signal carries no data and may merge with others; the level is in the
//! ring.
//!
//! The host makes both (design rule 1), because a flag of an open file that the guest also holds proves nothing:
//! - guest → host: an eventfd. The guest writes; the host awaits it with edge-triggered epoll and never reads or writes
//!   it, so nothing a guest does to it blocks the host.
//! - host → guest: a socket pair. The host sends one byte with MSG_DONTWAIT, which holds for that call whatever the
//!   guest does; a full socket means that the guest is signalled already. The guest drains what it finds.
//!
//! Must not know rings. Source: design rule 1; spec/vmbus.md §1.7.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair, sockopt,
};

/// Asks for the smallest send buffer there is: a guest that never drains pins a few bytes, not the default's hundreds
/// of KiB.
const SEND_BUFFER_SIZE: usize = 1;

/// Bytes drained at once: more than the socket's buffer holds one-byte sends.
const DRAIN_SIZE: usize = 1024;

/// The host's ends of a channel's doorbells. `as_fd` is what to await, edge-triggered.
#[derive(Debug)]
pub struct HostDoorbell {
    from_guest: OwnedFd,
    to_guest: OwnedFd,
}

/// The guest's ends of a channel's doorbells. `as_fd` is what to await: readable = signalled, or the host is gone.
#[derive(Debug)]
pub struct GuestDoorbell {
    to_host: OwnedFd,
    from_host: OwnedFd,
}

/// Makes a channel's doorbells: the host's ends, and the guest's eventfd and socket to send to it.
pub fn pair() -> io::Result<(HostDoorbell, OwnedFd, OwnedFd)> {
    let from_guest = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let guest_eventfd = from_guest.try_clone()?;
    let (to_guest, guest_socket) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_send_buffer_size(&to_guest, SEND_BUFFER_SIZE)?;
    // The guest has nothing to say here: what it sends fails on its side instead of filling our queue.
    shutdown(&to_guest, Shutdown::Read)?;
    Ok((HostDoorbell { from_guest, to_guest }, guest_eventfd, guest_socket))
}

impl HostDoorbell {
    /// Signals the guest. Never blocks, never fails: a full socket is a signal, and a guest that is gone is noticed
    /// elsewhere.
    pub fn signal(&self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while send(&self.to_guest, &[1], flags) == Err(Errno::INTR) {}
    }
}

impl AsFd for HostDoorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from_guest.as_fd()
    }
}

impl GuestDoorbell {
    /// Takes the two descriptors that the host sent.
    pub fn new(to_host: OwnedFd, from_host: OwnedFd) -> io::Result<Self> {
        // Set by the host already; set again, because a write to an eventfd has no flag of its own against blocking.
        fcntl_setfl(&to_host, fcntl_getfl(&to_host)? | OFlags::NONBLOCK)?;
        Ok(Self { to_host, from_host })
    }

    /// Signals the host. Never blocks: a counter that is full was filled by this guest, and says the same.
    pub fn signal(&self) {
        while rustix::io::write(&self.to_host, &1_u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }

    /// Takes all signals that have arrived; false when the host's end is closed, and the descriptor stays readable.
    pub fn clear(&self) -> bool {
        let mut drained = [0_u8; DRAIN_SIZE];
        loop {
            match recv(&self.from_host, &mut drained[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return false,
                Ok((DRAIN_SIZE, _)) | Err(Errno::INTR) => {}
                Ok(_) | Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for GuestDoorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from_host.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    fn readable(fd: impl AsFd) -> bool {
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&NOW)).unwrap() == 1
    }

    fn doorbells() -> (HostDoorbell, GuestDoorbell) {
        let (host, eventfd, socket) = pair().unwrap();
        (host, GuestDoorbell::new(eventfd, socket).unwrap())
    }

    #[test]
    fn rule_1_the_host_never_blocks_on_a_guest_that_does_not_drain_and_clears_o_nonblock() {
        let (host, guest) = doorbells();
        fcntl_setfl(&guest.from_host, OFlags::empty()).unwrap();
        fcntl_setfl(&guest.to_host, OFlags::empty()).unwrap();
        (0..10_000).for_each(|_| host.signal());
        assert!(readable(&guest));
        assert!(guest.clear());
        assert!(!readable(&guest));
        host.signal();
        assert!(readable(&guest), "a drained bell can be signalled again");
    }

    #[test]
    fn a_guest_that_never_drains_pins_little_memory() {
        let (host, guest) = doorbells();
        let sent = (0..10_000).take_while(|_| send(&host.to_guest, &[1], SendFlags::DONTWAIT).is_ok()).count();
        assert!((1..=64).contains(&sent), "{sent} signals queued");
        drop(guest);
    }

    #[test]
    fn each_signal_of_the_guest_is_an_edge_although_the_host_never_reads() {
        let (host, guest) = doorbells();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &host, epoll::EventData::new_u64(7), flags).unwrap();
        let edges = || {
            let mut events = Vec::with_capacity(4);
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&NOW)).unwrap();
            events.len()
        };
        assert_eq!(edges(), 0);
        for _ in 0..3 {
            guest.signal();
            assert_eq!((edges(), edges()), (1, 0));
        }
        guest.signal();
        guest.signal();
        assert_eq!((edges(), edges()), (1, 0), "signals merge");
    }

    #[test]
    fn a_guest_that_fills_its_eventfd_or_leaves_harms_nobody() {
        let (host, guest) = doorbells();
        rustix::io::write(&guest.to_host, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        guest.signal();
        drop(guest);
        host.signal();
    }

    #[test]
    fn a_guest_learns_that_the_host_is_gone() {
        let (host, guest) = doorbells();
        host.signal();
        drop(host);
        assert!(guest.clear(), "the last signal is taken first");
        assert!(readable(&guest));
        assert!(!guest.clear());
        guest.signal();
    }

    #[test]
    fn no_doorbell_survives_an_exec() {
        let (host, guest) = doorbells();
        for fd in [&host.from_guest, &host.to_guest, &guest.to_host, &guest.from_host] {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_guest_cannot_queue_bytes_at_the_host() {
        let (host, guest) = doorbells();
        assert_eq!(send(&guest.from_host, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL), Err(Errno::PIPE));
        drop(host);
    }
}
