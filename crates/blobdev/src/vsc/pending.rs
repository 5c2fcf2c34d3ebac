//! The pending table: which transaction id belongs to which request, and what the host still owns.
//!
//! The id on the wire is the table index + 1 (spec vmbus.md §2.5; 0 is never used), so a completion is matched without a
//! search and an id that names no request in flight is refused (H9). A slot keeps the request's pages until its one
//! completion, even when nobody waits for it any more (design rule 2).

use std::sync::Arc;

use super::memory::Pages;
use super::waiting::Waiter;

/// Names one request for its whole life; never used again for another one (the generation tells slots' uses apart).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// The VMBus transaction id on the wire.
    pub fn transaction_id(self) -> u64 {
        u64::from(self.index) + 1
    }

    /// Packs the token in 64 bits, for a caller that keeps numbers.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The inverse of [`to_bits`](Self::to_bits).
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// The host's answer to one request: the 12-byte device response, its length field aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Device status, an HRESULT.
    pub status: u32,
    /// Bytes the host says it put into the response buffer, already clamped to the buffer's capacity (H23).
    pub response_length: u32,
    /// The unclamped value: with 0x8007007A it is the capacity needed.
    pub response_length_reported: u32,
}

/// The pages of a request's data, request and response buffers; often the same ones.
pub type Held = [Option<Arc<Pages>>; 3];

enum State {
    Free { next: Option<u32> },
    InFlight { waiter: Option<Arc<Waiter>>, capacity: u32, room: u64, _pages: Held },
    Done(Outcome),
}

struct Slot {
    generation: u32,
    state: State,
}

/// The table; its size is the number of requests the host lets us have in flight (the offer's credits).
pub struct PendingTable {
    slots: Vec<Slot>,
    free: Option<u32>,
    in_flight: usize,
    abandoned: usize,
}

/// What a completion turned out to be.
pub enum Matched {
    /// It ended a request somebody waits for.
    Waited(Arc<Waiter>, Token),
    /// It ended a request nobody waits for any more; its pages are free again.
    Late,
    /// It names no request in flight.
    Unknown,
}

impl PendingTable {
    /// Makes a table of `size` slots (1 ≤ size ≤ 65,536).
    pub fn new(size: usize) -> Self {
        let size = size.clamp(1, 65_536) as u32;
        let slots = (0..size)
            .map(|index| Slot { generation: 0, state: State::Free { next: (index + 1 < size).then_some(index + 1) } })
            .collect();
        Self { slots, free: Some(0), in_flight: 0, abandoned: 0 }
    }

    /// Takes a slot for a request whose buffers lie in `pages`; `None` when every credit is spent.
    ///
    /// `capacity`: of the response buffer; `room`: of the data buffer, 0 if it holds content for the host.
    pub fn insert(&mut self, waiter: Arc<Waiter>, capacity: u32, room: u64, pages: Held) -> Option<Token> {
        let index = self.free?;
        let slot = &mut self.slots[index as usize];
        let State::Free { next } = slot.state else { unreachable!("the free list holds free slots only") };
        self.free = next;
        slot.state = State::InFlight { waiter: Some(waiter), capacity, room, _pages: pages };
        self.in_flight += 1;
        Some(Token { index, generation: slot.generation })
    }

    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = State::Free { next: self.free };
        self.free = Some(index);
    }

    fn slot(&self, token: Token) -> Option<&Slot> {
        self.slots.get(token.index as usize).filter(|slot| slot.generation == token.generation)
    }

    /// Gives the slot back of a request that was never sent.
    pub fn withdraw(&mut self, token: Token) {
        if matches!(self.slot(token), Some(Slot { state: State::InFlight { .. }, .. })) {
            self.in_flight -= 1;
            self.release(token.index);
        }
    }

    /// Matches a completion to its request (H9): each id counts once, 0 and unknown ids never.
    pub fn complete(&mut self, transaction_id: u64, status: u32, response_length: u32) -> Matched {
        let Some(index) = transaction_id.checked_sub(1).and_then(|index| u32::try_from(index).ok()) else {
            return Matched::Unknown;
        };
        let Some(slot) = self.slots.get_mut(index as usize) else { return Matched::Unknown };
        let State::InFlight { waiter, capacity, .. } = &mut slot.state else { return Matched::Unknown };
        self.in_flight -= 1;
        let outcome = Outcome {
            status,
            response_length: response_length.min(*capacity),
            response_length_reported: response_length,
        };
        match waiter.take() {
            Some(waiter) => {
                let token = Token { index, generation: slot.generation };
                slot.state = State::Done(outcome);
                Matched::Waited(waiter, token)
            }
            None => {
                self.abandoned -= 1;
                self.release(index);
                Matched::Late
            }
        }
    }

    /// Returns and frees the outcome of a completed request; `None` while it is in flight (or the token is stale).
    pub fn take(&mut self, token: Token) -> Option<Outcome> {
        match self.slot(token)?.state {
            State::Done(outcome) => {
                self.release(token.index);
                Some(outcome)
            }
            _ => None,
        }
    }

    /// Tells whether the request has its outcome.
    pub fn is_done(&self, token: Token) -> bool {
        matches!(self.slot(token), Some(Slot { state: State::Done(_), .. }))
    }

    /// Most bytes that the host places for a request in flight; 0 for any other.
    pub fn room(&self, token: Token) -> u64 {
        match self.slot(token) {
            Some(Slot { state: State::InFlight { room, .. }, .. }) => *room,
            _ => 0,
        }
    }

    /// Stops waiting: a late completion is absorbed, and until it comes the pages stay in quarantine.
    ///
    /// Returns true when the request is still the host's, so that a cancel packet makes sense.
    pub fn abandon(&mut self, token: Token) -> bool {
        if self.take(token).is_some() {
            return false;
        }
        let Some(slot) = self.slots.get_mut(token.index as usize) else { return false };
        match &mut slot.state {
            State::InFlight { waiter, .. } if slot.generation == token.generation && waiter.is_some() => {
                *waiter = None;
                self.abandoned += 1;
                true
            }
            _ => false,
        }
    }

    /// Requests the host has not completed, abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests in flight that nobody waits for: their pages are in quarantine.
    pub fn abandoned(&self) -> usize {
        self.abandoned
    }

    /// Everyone who waits for something, each once or more.
    pub fn waiters(&self) -> Vec<Arc<Waiter>> {
        let waiter = |slot: &Slot| match &slot.state {
            State::InFlight { waiter, .. } => waiter.clone(),
            _ => None,
        };
        self.slots.iter().filter_map(waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(size: usize) -> (PendingTable, Arc<Waiter>) {
        (PendingTable::new(size), Waiter::new().unwrap())
    }

    #[test]
    fn ids_begin_at_one_and_every_credit_is_used_once() {
        let (mut table, waiter) = table(2);
        let first = table.insert(waiter.clone(), 10, 0, Held::default()).unwrap();
        let second = table.insert(waiter.clone(), 10, 0, Held::default()).unwrap();
        assert_eq!((first.transaction_id(), second.transaction_id()), (1, 2));
        assert!(table.insert(waiter, 10, 0, Held::default()).is_none(), "credits are a value, spec §2.5");
    }

    #[test]
    fn h9_a_second_completion_and_unknown_ids_are_refused() {
        let (mut table, waiter) = table(2);
        let token = table.insert(waiter, 10, 0, Held::default()).unwrap();
        assert!(matches!(table.complete(1, 0, 4), Matched::Waited(_, done) if done == token));
        for id in [0, 1, 2, 3, u64::MAX] {
            assert!(matches!(table.complete(id, 0, 4), Matched::Unknown), "id {id}");
        }
        assert_eq!(table.take(token).unwrap().response_length, 4);
        assert!(table.take(token).is_none());
    }

    #[test]
    fn h23_a_response_length_is_clamped_to_the_capacity() {
        let (mut table, waiter) = table(1);
        let token = table.insert(waiter, 10, 0, Held::default()).unwrap();
        table.complete(1, 0, 4_000_000_000);
        let outcome = table.take(token).unwrap();
        assert_eq!((outcome.response_length, outcome.response_length_reported), (10, 4_000_000_000));
    }

    #[test]
    fn rule_2_an_abandoned_request_keeps_its_slot_until_its_completion() {
        let (mut table, waiter) = table(1);
        let token = table.insert(waiter.clone(), 10, 0, Held::default()).unwrap();
        assert!(table.abandon(token));
        assert!(!table.abandon(token), "abandoned once");
        assert!(table.insert(waiter.clone(), 10, 0, Held::default()).is_none());
        assert!(matches!(table.complete(1, 0, 0), Matched::Late));
        let next = table.insert(waiter, 10, 0, Held::default()).unwrap();
        assert_ne!(token, next, "the same slot, another request");
        assert!(!table.abandon(token), "a stale token does nothing");
        assert_eq!(Token::from_bits(next.to_bits()), next);
    }
}
