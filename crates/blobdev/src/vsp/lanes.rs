//! Whose event the control plane is given next: a lane for each channel, served in turns.
//!
//! A guest with a thousand requests in flight fills its own lane and no other's. One batch takes a few items of each lane,
//! one by one around, and the next batch goes on where it stopped. Generic, for its rules do not depend on what waits.

use std::collections::{HashMap, VecDeque};

/// Empty lanes kept for their memory, so that a channel which comes and goes allocates nothing.
const SPARE_MAX: usize = 64;

/// Lanes by channel key; one without items does not exist.
pub(super) struct Lanes<T> {
    lanes: HashMap<u64, VecDeque<T>>,
    /// Keys of all lanes, in the order of their turns.
    turns: VecDeque<u64>,
    spare: Vec<VecDeque<T>>,
}

impl<T> Lanes<T> {
    pub(super) fn new() -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), spare: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn len_of(&self, key: u64) -> usize {
        self.lanes.get(&key).map_or(0, VecDeque::len)
    }

    /// All items, lane by lane in the order of their turns.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.turns.iter().filter_map(|key| self.lanes.get(key)).flatten()
    }

    /// Appends items to a channel's lane.
    pub(super) fn put(&mut self, key: u64, items: impl IntoIterator<Item = T>) {
        let mut items = items.into_iter();
        let Some(first) = items.next() else { return };
        let (turns, spare) = (&mut self.turns, &mut self.spare);
        let lane = self.lanes.entry(key).or_insert_with(|| {
            turns.push_back(key);
            spare.pop().unwrap_or_default()
        });
        lane.push_back(first);
        lane.extend(items);
    }

    /// Moves up to `limit` items to `taken`, at most `share` of each lane: one of each, again one of each, and so on.
    pub(super) fn take(&mut self, limit: usize, share: usize, taken: &mut Vec<T>) {
        for _ in 0..share {
            if self.turns.is_empty() {
                return;
            }
            for _ in 0..self.turns.len() {
                if taken.len() >= limit {
                    return;
                }
                let Some(key) = self.turns.pop_front() else { return };
                let Some(lane) = self.lanes.get_mut(&key) else { continue };
                taken.extend(lane.pop_front());
                if lane.is_empty() {
                    self.drop_lane(key);
                } else {
                    self.turns.push_back(key);
                }
            }
        }
    }

    fn drop_lane(&mut self, key: u64) {
        if let Some(lane) = self.lanes.remove(&key)
            && self.spare.len() < SPARE_MAX
        {
            self.spare.push(lane);
        }
    }

    /// Gives up a channel's lane; what waits in it is the caller's to drop.
    pub(super) fn remove(&mut self, key: u64) -> Option<VecDeque<T>> {
        let lane = self.lanes.remove(&key)?;
        self.turns.retain(|one| *one != key);
        Some(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(lanes: &mut Lanes<(u64, usize)>, limit: usize, share: usize) -> Vec<(u64, usize)> {
        let mut taken = Vec::new();
        lanes.take(limit, share, &mut taken);
        taken
    }

    fn items(key: u64, count: usize) -> impl Iterator<Item = (u64, usize)> {
        (0..count).map(move |number| (key, number))
    }

    #[test]
    fn rule_1_a_request_of_another_channel_waits_for_one_item_of_a_full_lane() {
        let mut lanes = Lanes::new();
        lanes.put(1, items(1, 1000));
        assert_eq!(taken(&mut lanes, 100, 4), [(1, 0), (1, 1), (1, 2), (1, 3)], "a batch takes a share of a lane");
        lanes.put(2, items(2, 1));
        assert_eq!(taken(&mut lanes, 100, 4), [(1, 4), (2, 0), (1, 5), (1, 6), (1, 7)]);
    }

    #[test]
    fn a_batch_that_is_full_goes_on_where_it_stopped() {
        let mut lanes = Lanes::new();
        (1..=5).for_each(|key| lanes.put(key, items(key, 2)));
        assert_eq!(taken(&mut lanes, 3, 4), [(1, 0), (2, 0), (3, 0)]);
        assert!(lanes.iter().eq(&[(4, 0), (4, 1), (5, 0), (5, 1), (1, 1), (2, 1), (3, 1)]));
        assert_eq!(taken(&mut lanes, 4, 4), [(4, 0), (5, 0), (1, 1), (2, 1)]);
        lanes.put(1, items(1, 1));
        assert_eq!(taken(&mut lanes, 9, 4), [(3, 1), (4, 1), (5, 1), (1, 0)]);
        assert!(lanes.is_empty() && taken(&mut lanes, 9, 4).is_empty());
    }

    #[test]
    fn a_channel_that_is_forgotten_takes_no_turns_and_one_of_its_key_begins_anew() {
        let mut lanes = Lanes::new();
        lanes.put(1, items(1, 3));
        lanes.put(2, items(2, 2));
        assert_eq!(lanes.remove(1).map(|lane| lane.len()), Some(3));
        assert!(lanes.remove(1).is_none());
        lanes.put(1, items(1, 1));
        assert_eq!(taken(&mut lanes, 9, 9), [(2, 0), (1, 0), (2, 1)]);
    }

    #[test]
    fn whatever_comes_every_channels_items_stay_in_order_none_is_lost_and_no_share_is_passed() {
        let (mut lanes, mut random) = (Lanes::new(), 0x9E37_79B9_7F4A_7C15_u64);
        let (mut put, mut got) = ([0; 7], [0; 7]);
        let mut next = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % bound
        };
        for _ in 0..20_000 {
            let (key, count) = (next(7) as usize, next(5) as usize);
            lanes.put(key as u64, (put[key]..put[key] + count).map(|number| (key as u64, number)));
            put[key] += count;
            let (limit, share, mut counts) = (next(12) as usize, 1 + next(3) as usize, [0; 7]);
            for (key, number) in taken(&mut lanes, limit, share) {
                assert_eq!(number, got[key as usize]);
                got[key as usize] += 1;
                counts[key as usize] += 1;
            }
            assert!(counts.iter().all(|count| *count <= share) && counts.iter().sum::<usize>() <= limit);
            assert!(lanes.spare.len() <= SPARE_MAX && lanes.turns.len() == lanes.lanes.len());
        }
        while !lanes.is_empty() {
            taken(&mut lanes, 50, 2).iter().for_each(|(key, _)| got[*key as usize] += 1);
        }
        assert_eq!(put, got);
    }
}
