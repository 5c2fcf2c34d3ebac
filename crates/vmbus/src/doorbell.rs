//! Doorbells: how one side wakes the other without ever being blocked by what the other does to the descriptors.
//!
//! A signal carries nothing and merges with others; the level is in the ring. The host makes both. Guest → host is an
//! eventfd that the host only watches, by edge-triggered epoll, and never reads or writes: O_NONBLOCK belongs to the open
//! file that the guest holds too, so the host could not rely on it. Host → guest is one byte on a socket pair, sent with
//! MSG_DONTWAIT, which no setting of the guest's can turn into waiting; a full socket means it is signalled already
//! (design rule 1).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// The host's ends: watched for the guest's signals, used to signal the guest.
#[derive(Debug)]
pub struct HostDoorbell {
    from_guest: OwnedFd,
    to_guest: OwnedFd,
}

/// The guest's ends.
#[derive(Debug)]
pub struct GuestDoorbell {
    to_host: OwnedFd,
    from_host: OwnedFd,
}

/// Makes both doorbells: the host's ends, and the two descriptors for the guest (eventfd, socket).
pub fn pair() -> io::Result<(HostDoorbell, OwnedFd, OwnedFd)> {
    let from_guest = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let (to_guest, guest_end) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let guest_eventfd = rustix::io::fcntl_dupfd_cloexec(&from_guest, 0)?;
    Ok((HostDoorbell { from_guest, to_guest }, guest_eventfd, guest_end))
}

impl HostDoorbell {
    /// Signals the guest. Never waits; errors mean that it is signalled already or gone.
    pub fn signal(&self) {
        let _ = send(&self.to_guest, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl AsFd for HostDoorbell {
    /// The descriptor to watch, edge-triggered.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from_guest.as_fd()
    }
}

impl GuestDoorbell {
    /// Takes what the host sent.
    pub fn new(to_host: OwnedFd, from_host: OwnedFd) -> Self {
        Self { to_host, from_host }
    }

    /// Signals the host. A full counter means that it is signalled already.
    pub fn signal(&self) {
        let _ = rustix::io::write(&self.to_host, &1_u64.to_ne_bytes());
    }

    /// Takes all signals that have arrived, so that the descriptor is readable again only after the next one.
    pub fn clear(&self) {
        let mut bytes = [0; 64];
        while matches!(recv(&self.from_host, &mut bytes[..], RecvFlags::DONTWAIT), Ok((64, _))) {}
    }
}

impl AsFd for GuestDoorbell {
    /// The descriptor that is readable after the host signalled, or when the host is gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.from_host.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(fd: &impl AsFd) -> bool {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn rule_1_a_guest_that_never_listens_cannot_make_the_host_wait() {
        let (host, eventfd, socket) = pair().unwrap();
        for _ in 0..100_000 {
            host.signal();
        }
        let guest = GuestDoorbell::new(eventfd, socket);
        assert!(is_readable(&guest));
        guest.clear();
        assert!(!is_readable(&guest), "all merged signals are one");
        host.signal();
        assert!(is_readable(&guest));
    }

    #[test]
    fn rule_1_signals_after_the_guests_end_is_closed_are_harmless() {
        let (host, eventfd, socket) = pair().unwrap();
        drop((eventfd, socket));
        host.signal();
    }

    #[test]
    fn a_signal_of_the_guest_is_seen_by_the_host() {
        let (host, eventfd, socket) = pair().unwrap();
        assert!(!is_readable(&host));
        GuestDoorbell::new(eventfd, socket).signal();
        assert!(is_readable(&host));
    }
}
