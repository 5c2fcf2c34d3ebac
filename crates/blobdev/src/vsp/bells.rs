//! Guests that ring and have nothing: how long their bell is not listened to.
//!
//! A ring of the bell costs the worker a look at the ring, a system call or two and perhaps a sleep it was about to have.
//! One that came with no packet was in vain. A few of them are honest (the worker had taken the packet before it heard the
//! bell); a guest whose vain rings go on is muted, each time for twice as long, up to [`DELAY_MAX`]: then its ring is
//! looked at again. So a flood of signals costs a thousand looks a second, and the guest that sends it nothing but that
//! its next packet may wait so long. Packets halve what is held against it, so that a bell that rings far more often than
//! packets come is a flood as well. Bells are muted in the epoll set, so that a muted guest wakes nobody.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

use super::channel::HostChannel;

/// Vain rings that cost a guest nothing.
const FREE: u32 = 16;
/// The first delay.
const DELAY_MIN: Duration = Duration::from_micros(16);
/// The longest delay; the system may round a sleep up to whole milliseconds.
const DELAY_MAX: Duration = Duration::from_millis(1);
/// As many vain rings as it takes from [`DELAY_MIN`] to [`DELAY_MAX`] count; packets need not make up for more.
const VAIN_MAX: u32 = FREE + 7;

/// Vain rings of one channel, weighed against its packets.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    vain: u32,
}

impl Patience {
    /// Counts a vain ring; returns for how long the bell shall not be heard.
    fn in_vain(&mut self) -> Option<Duration> {
        self.vain = (self.vain + 1).min(VAIN_MAX);
        let beyond = self.vain.checked_sub(FREE + 1)?;
        Some((DELAY_MIN * (1 << beyond)).min(DELAY_MAX))
    }

    fn worked(&mut self) {
        self.vain /= 2;
    }
}

/// What all workers together have counted.
#[derive(Debug, Default)]
pub struct BellCounters {
    in_vain: AtomicU64,
    muted: AtomicU64,
}

impl BellCounters {
    /// Rings that came with no packet, and how often a bell was muted for them.
    pub fn read(&self) -> (u64, u64) {
        (self.in_vain.load(Ordering::Relaxed), self.muted.load(Ordering::Relaxed)) // counts, ordered with nothing
    }
}

/// The bells of one worker's channels.
pub(super) struct Bells {
    /// Of channels that have rung in vain since they last had packets to make up for it.
    patience: HashMap<u64, Patience>,
    /// Those not listened to, and until when.
    muted: Vec<(Instant, Arc<HostChannel>)>,
    counters: Arc<BellCounters>,
}

impl Bells {
    pub(super) fn new(counters: Arc<BellCounters>) -> Self {
        Self { patience: HashMap::new(), muted: Vec::new(), counters }
    }

    /// A channel had packets.
    pub(super) fn worked(&mut self, channel: &HostChannel) {
        if self.patience.is_empty() {
            return; // as it is when all guests are honest
        }
        if let Some(patience) = self.patience.get_mut(&channel.key()) {
            patience.worked();
            if patience.vain == 0 {
                self.patience.remove(&channel.key());
            }
        }
    }

    /// A channel has rung and had nothing; tells for how long it shall be muted.
    pub(super) fn in_vain(&mut self, channel: &HostChannel) -> Option<Duration> {
        self.counters.in_vain.fetch_add(1, Ordering::Relaxed);
        self.patience.entry(channel.key()).or_default().in_vain()
    }

    /// Listens to a channel's bell no longer for a while.
    pub(super) fn mute(&mut self, epoll: BorrowedFd<'_>, channel: Arc<HostChannel>, delay: Duration) {
        self.counters.muted.fetch_add(1, Ordering::Relaxed);
        // Fails where the channel has been closed meanwhile: then it is not listened to for ever.
        let data = epoll::EventData::new_u64(channel.key());
        if epoll::modify(epoll, channel.as_fd(), data, epoll::EventFlags::empty()).is_ok() {
            self.muted.push((Instant::now() + delay, channel));
        }
    }

    /// Listens again to those whose time is over. A bell that has ever rung rings at once: the host never reads it.
    pub(super) fn unmute(&mut self, epoll: BorrowedFd<'_>) {
        if self.muted.is_empty() {
            return;
        }
        let now = Instant::now();
        self.muted.retain(|(until, channel)| {
            if *until > now && !channel.is_closed() {
                return true;
            }
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            let _ = epoll::modify(epoll, channel.as_fd(), epoll::EventData::new_u64(channel.key()), flags);
            false
        });
    }

    /// How long the worker may sleep; `None`: until something happens.
    pub(super) fn sleep(&self) -> Option<Timespec> {
        let until = self.muted.iter().map(|(until, _)| *until).min()?;
        Timespec::try_from(until.saturating_duration_since(Instant::now())).ok()
    }

    /// Forgets channels that are no more.
    pub(super) fn forget(&mut self, is_served: impl Fn(u64) -> bool) {
        self.patience.retain(|key, _| is_served(*key));
    }

    /// How many channels have something held against them.
    pub(super) fn len(&self) -> usize {
        self.patience.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h24_a_guest_that_rings_in_vain_is_looked_at_exponentially_less_often_up_to_a_bound() {
        let mut patience = Patience::default();
        let delays: Vec<u128> =
            (0..FREE + 12).map(|_| patience.in_vain().map_or(0, |delay| delay.as_micros())).collect();
        assert_eq!(delays[..FREE as usize], [0; FREE as usize]);
        assert_eq!(delays[FREE as usize..], [16, 32, 64, 128, 256, 512, 1000, 1000, 1000, 1000, 1000, 1000]);
    }

    #[test]
    fn packets_are_soon_believed_again() {
        let mut patience = Patience::default();
        assert_eq!((0..1000).filter_map(|_| patience.in_vain()).last(), Some(DELAY_MAX));
        patience.worked();
        assert_eq!(patience.in_vain(), None, "one packet, and its bell is heard again");
        (0..6).for_each(|_| patience.worked());
        assert_eq!(patience.vain, 0);
    }

    #[test]
    fn a_ring_in_vain_for_every_packet_costs_nothing_and_thirty_of_them_are_a_flood() {
        let muted = |vain_per_packet: usize| {
            let mut patience = Patience::default();
            (0..100).any(|_| {
                patience.worked();
                (0..vain_per_packet).any(|_| patience.in_vain().is_some())
            })
        };
        assert!(!muted(1) && !muted(FREE as usize / 2));
        assert!(muted(FREE as usize + 2) && muted(30));
    }
}
