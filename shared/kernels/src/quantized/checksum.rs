//! Tells damaged panels from whole ones.

/// A 64-bit sum over bytes, fast rather than cryptographic: it finds damage, not forgery.
#[derive(Debug, Clone)]
pub struct Checksum {
    lanes: [u64; 8],
    lines: u64,
}

/// Odd, with bits spread evenly: the golden ratio's.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Default for Checksum {
    fn default() -> Self {
        let lanes = std::array::from_fn(|lane| FACTOR.wrapping_mul(lane as u64 + 1));
        Self { lanes, lines: 0 }
    }
}

impl Checksum {
    /// Adds bytes. What does not fill a line of 64 is filled up with zeros: give all but the last piece in whole lines.
    pub fn add(&mut self, bytes: &[u8]) {
        let (lines, rest) = bytes.as_chunks::<64>();
        lines.iter().for_each(|line| self.add_line(line));
        if !rest.is_empty() {
            let mut line = [0; 64];
            line[..rest.len()].copy_from_slice(rest);
            self.add_line(&line);
        }
    }

    fn add_line(&mut self, line: &[u8; 64]) {
        for (lane, word) in self.lanes.iter_mut().zip(line.as_chunks::<8>().0) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(29);
        }
        self.lines += 1;
    }

    /// Returns the sum.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mix = |sum: u64, lane: &u64| (sum ^ lane).wrapping_mul(FACTOR).rotate_left(31);
        self.lanes.iter().fold(self.lines, mix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u64 {
        let mut checksum = Checksum::default();
        checksum.add(bytes);
        checksum.value()
    }

    #[test]
    fn every_bit_and_the_length_count() {
        let mut bytes = vec![7; 1000];
        let whole = sum(&bytes);
        for at in 0..8000 {
            bytes[at / 8] ^= 1 << (at % 8);
            assert_ne!(sum(&bytes), whole, "bit {at}");
            bytes[at / 8] ^= 1 << (at % 8);
        }
        assert_ne!(sum(&bytes[..936]), whole);
        assert_ne!(sum(&[]), sum(&[0; 64]));
    }

    #[test]
    fn pieces_add_up_to_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(700).collect();
        let mut pieces = Checksum::default();
        bytes.chunks(128).for_each(|piece| pieces.add(piece));
        assert_eq!(pieces.value(), sum(&bytes));
    }
}
