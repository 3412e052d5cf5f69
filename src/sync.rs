//! Locks and atomics: std's, or loom's under `cfg(evenkeel_loom)`.

#[cfg(not(evenkeel_loom))]
pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

#[cfg(evenkeel_loom)]
pub(crate) use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};

/// Locks, and recovers a poisoned lock: the states behind our locks are whole at every step, so
/// a panic elsewhere is no reason to spread it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
