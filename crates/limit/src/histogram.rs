//! Latencies as counts in buckets of about 1.5 %: the same buckets as python/pvblob/cli/fleet/latency.py.

const SUB_BUCKET_BITS: u32 = 6;

/// How many buckets there are: up to 2^32 ns.
pub const BUCKETS: usize = 2048;

/// Counts by bucket.
pub struct Histogram(Vec<u32>);

impl Histogram {
    /// Makes an empty one.
    pub fn new() -> Self {
        Self(vec![0; BUCKETS])
    }

    /// Counts a latency.
    pub fn record(&mut self, ns: u64) {
        self.0[bucket(ns)] += 1;
    }

    /// Returns the counts.
    pub fn counts(&self) -> &[u32] {
        &self.0
    }

    /// Adds counts that lie elsewhere.
    pub fn add_words(&mut self, count: impl Fn(usize) -> u32) {
        for (bucket, total) in self.0.iter_mut().enumerate() {
            *total += count(bucket);
        }
    }

    /// Returns `[bucket,count],…` of those that are not empty, as JSON without the outer brackets.
    pub fn as_pairs(&self) -> String {
        let filled = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(bucket, count)| format!("[{bucket},{count}]")).collect::<Vec<_>>().join(",")
    }
}

/// Below 128 one bucket for each nanosecond, above it 64 for each power of two; what is past the last counts there.
fn bucket(ns: u64) -> usize {
    let bits = u64::BITS - ns.leading_zeros();
    let shift = bits.saturating_sub(SUB_BUCKET_BITS + 1);
    let bucket = ((shift as usize) << SUB_BUCKET_BITS) + (ns >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same vector stands in tests/cli/test_bench_statistics.py.
    #[test]
    fn buckets_are_those_of_the_python_side() {
        let vector =
            [(0, 0), (1, 1), (127, 127), (128, 128), (129, 128), (255, 191), (256, 192), (1000, 317), (1_000_000, 954)];
        for (ns, expected) in vector {
            assert_eq!(bucket(ns), expected, "{ns} ns");
        }
    }

    #[test]
    fn no_latency_falls_outside() {
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn counts_come_out_as_pairs() {
        let mut histogram = Histogram::new();
        histogram.record(5);
        histogram.record(5);
        histogram.record(1000);
        assert_eq!(histogram.as_pairs(), "[5,2],[317,1]");
    }
}
