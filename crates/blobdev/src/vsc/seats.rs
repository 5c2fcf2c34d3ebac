//! Seats: what a thread needs for one request at a time, kept by the channel from one request to the next.
//!
//! Kept here and not by the thread, so that a fork's child, which opens a channel of its own, inherits none of them.

use std::io;
use std::sync::Arc;

use super::channel::{GuestChannel, lock};
use super::waiting::Waiter;

/// More are made when more threads wait at once, and forgotten afterwards.
const KEPT_MAX: usize = 64;

/// A waiter of one request, and private bytes for its messages.
pub struct Seat {
    /// Who is woken.
    pub waiter: Arc<Waiter>,
    /// Grows to the largest message.
    pub scratch: Vec<u8>,
}

impl GuestChannel {
    /// Takes a seat, the one used last if there is one.
    pub fn take_seat(&self) -> io::Result<Seat> {
        let kept = lock(&self.seats).pop();
        kept.map_or_else(|| Ok(Seat { waiter: Waiter::of_one()?, scratch: Vec::new() }), Ok)
    }

    /// Gives it back, its request ended or abandoned.
    pub fn give_seat(&self, seat: Seat) {
        let mut seats = lock(&self.seats);
        if seats.len() < KEPT_MAX {
            seats.push(seat);
        }
    }
}
