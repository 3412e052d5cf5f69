//! The beginning of a body, ready to be searched for many words. *Pure.*

/// Text in lower case, and which three bytes in a row it may hold. White space is one space, however
/// a page is broken into lines.
///
/// More than a hundred words are looked for, and hardly any is there. Asking the set first makes
/// that a few reads for each instead of a walk through the text.
#[derive(Debug)]
pub(super) struct Text {
    bytes: Vec<u8>,
    triples: Box<[u64; WORDS]>,
}

impl Text {
    pub(super) fn new(text: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(text.len());
        for byte in text {
            if !byte.is_ascii_whitespace() {
                bytes.push(byte.to_ascii_lowercase());
            } else if bytes.last().is_some_and(|last| *last != b' ') {
                bytes.push(b' ');
            }
        }
        let mut triples = Box::new([0; WORDS]);
        for triple in bytes.windows(3) {
            let (word, bit) = place(triple);
            triples[word] |= bit;
        }
        Self { bytes, triples }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it begins with this, which is in lower case.
    pub(super) fn begins(&self, word: &str) -> bool {
        self.bytes.starts_with(word.as_bytes())
    }

    /// Whether this stands in it, which is in lower case.
    pub(super) fn has(&self, word: &str) -> bool {
        let word = word.as_bytes();
        let may = word.windows(3).all(|triple| {
            let (at, bit) = place(triple);
            self.triples[at] & bit != 0
        });
        may && find(&self.bytes, word)
    }
}

fn place(triple: &[u8]) -> (usize, u64) {
    let number = triple
        .iter()
        .fold(0, |sum, &byte| (sum << 8) | u32::from(byte));
    // The upper bits of a product depend on all of the lower ones.
    let hash = number.wrapping_mul(0x9e37_79b1) >> (32 - BITS);
    (hash as usize / 64, 1 << (hash % 64))
}

fn find(text: &[u8], word: &[u8]) -> bool {
    let Some((&first, rest)) = word.split_first() else {
        return true;
    };
    let mut text = text;
    while let Some(at) = text.iter().position(|&byte| byte == first) {
        text = &text[at + 1..];
        if text.starts_with(rest) {
            return true;
        }
    }
    false
}

/// Of the set: eight times what a text of 4 KiB fills at most.
const BITS: u32 = 15;

const WORDS: usize = (1 << BITS) / 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_found_at_both_ends_and_in_whatever_case() {
        let text = Text::new(b"No Healthy Upstream");
        for word in ["no healthy", "upstream", "m", "", "no healthy upstream"] {
            assert!(text.has(word), "{word}");
        }
        for word in ["upstreams", "healthyup", "x"] {
            assert!(!text.has(word), "{word}");
        }
        assert!(text.begins("no h") && !text.begins("healthy"));
        assert!(Text::new(b"").is_empty() && !Text::new(b"").has("a"));
    }

    #[test]
    fn line_breaks_and_indents_are_single_spaces() {
        let text = Text::new(b"\r\n\t Unable to\n   service your\r\nrequest\n");
        assert!(text.begins("unable") && text.has("unable to service your request"));
        assert!(!text.has("  ") && !text.has("\n"));
        assert!(Text::new(b" \r\n\t").is_empty());
    }

    proptest! {
        #[test]
        fn a_search_agrees_with_a_walk_through_the_text(
            text in "[abc]{0,60}",
            word in "[abc]{0,5}",
        ) {
            prop_assert_eq!(Text::new(text.as_bytes()).has(&word), text.contains(&word));
        }
    }
}
