//! Configurations: nothing panics, and what was read goes there and back.
#![no_main]

use evenkeel::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(config) = serde_json::from_str::<Config>(text) else {
        return;
    };
    let written = serde_json::to_string(&config).expect("plain data");
    let again: Config = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("plain data"), written);
    match (config.check(), again.check()) {
        (Err(one), Err(other)) => assert_eq!(one.field(), other.field()),
        (one, other) => assert_eq!(one, other),
    }
});
