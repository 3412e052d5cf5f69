//! Plain values from a configuration.
#![cfg(feature = "serde")]

use evenkeel::backoff::Jitter;
use evenkeel::budget::Ratio;
use evenkeel::verdict::Kind;

#[test]
fn plain_values_are_read_and_written_in_words_and_numbers() {
    let jitter: Jitter = serde_json::from_str("\"decorrelated\"").expect("a jitter");
    assert_eq!(jitter, Jitter::Decorrelated);
    let kind: Kind = serde_json::from_str("\"rate_limited\"").expect("a kind");
    assert_eq!(kind, Kind::RateLimited);
    let ratio: Ratio = serde_json::from_str("0.1").expect("a ratio");
    assert_eq!(ratio, Ratio::percent(10));
    assert_eq!(serde_json::to_string(&ratio).expect("json"), "0.1");
}

#[test]
fn nonsense_is_refused_with_its_name() {
    for nonsense in ["-0.1", "1000.1", "1e400", "\"much\""] {
        assert!(
            serde_json::from_str::<Ratio>(nonsense).is_err(),
            "{nonsense}"
        );
    }
    let error = serde_json::from_str::<Ratio>("-1").unwrap_err().to_string();
    assert!(error.contains("ratio must be from 0 to 1000"), "{error}");
    assert!(serde_json::from_str::<Jitter>("\"some\"").is_err());
}
