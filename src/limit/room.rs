//! The waiting room: the one place where attempts stand in line.

use std::collections::BTreeMap;
use std::mem;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::deadline::later;
use crate::error::{Reason, Rejected};
use crate::gate::{Answer, Ask};
use crate::rng::Draws;
use crate::sync::{Mutex, lock};

/// A pure machine behind a waiting room.
pub(crate) trait Machine {
    /// What is given to one that may go.
    type Ticket;

    /// Why one is refused whose turn doesn't come in time.
    const LATE: Reason = Reason::QueueTimeout;
    /// Why one is refused that finds no place in line.
    const FULL: Reason = Reason::QueueFull;
    /// Whether an active check stands before all others, and not behind them.
    const CHECKS_FIRST: bool = false;

    /// Lets one go, or says when asking again may be of use: at a moment after `now`, or (`None`)
    /// when something was given back.
    fn go(&mut self, now: Instant, draws: &mut Draws) -> Result<Self::Ticket, Option<Instant>>;

    /// When the next may go, without letting it. Time alone may turn `At` into `Now`, and nothing
    /// else: the room asks with the latest moment it knows, which may be a while ago.
    fn next(&self, now: Instant) -> Next;

    /// When the one with so many before it will have its turn, if the machine knows exactly.
    fn turn(&self, ahead: usize, now: Instant) -> Option<Instant> {
        let _ = (ahead, now);
        None
    }

    /// A guess of the same, for those that are refused.
    fn guess(&self, ahead: usize, now: Instant) -> Option<Instant> {
        self.turn(ahead, now)
    }

    /// Somebody may be in line from now on, or nobody is but a check in front of it. Told before the machine is asked on
    /// behalf of the first in line, so that a machine that can be passed by outside the room can
    /// close that way first: whatever is given back after that has to come through
    /// [`Room::with`].
    fn queued(&mut self, any: bool) {
        let _ = any;
    }
}

/// When the next may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Now,
    At(Instant),
    /// When something is given back.
    Later,
}

/// Who goes next when several wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Order {
    /// First come, first served. A newcomer that finds the line full is refused. The default.
    #[default]
    FirstIn,
    /// The newest goes first, and when the line is full the oldest is refused. Under a lasting
    /// overload the newest is the one that can still be answered in time.
    NewestFirst,
}

/// How a line behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// How many may wait. Zero: whoever can't go at once is refused.
    pub(crate) capacity: usize,
    pub(crate) order: Order,
    /// How long one waits at most, whatever its deadline allows.
    pub(crate) max_wait: Option<Duration>,
}

/// A machine and the line in front of it.
///
/// Only the first in line is ever woken, and only if it may go or has to set its timer. Whoever
/// leaves the line, for whatever reason, hands that on.
///
/// A future that nobody polls can't ask when it is woken. One that is the first in line and has not
/// asked for more than [`SLOW`] is looked past: the next one is the first then, until the overdue
/// one asks and is first again. That is found out whenever somebody comes or goes, for a room has no
/// timer of its own; where turns are known, those behind the first also ask when theirs is over. Each is put aside once for each time it was told to ask, so it costs no more
/// than its own ask would have.
#[derive(Debug)]
pub(crate) struct Room<M> {
    inside: Mutex<Inside<M>>,
}

#[derive(Debug)]
struct Inside<M> {
    machine: M,
    line: Line,
    /// By the number in which they came.
    waiters: BTreeMap<u64, Waiter>,
    /// Those of them that were to ask and didn't.
    overdue: BTreeMap<u64, Waiter>,
    /// Of those that were just found to be overdue by a timer that may never fire.
    roused: Vec<Waker>,
    came: u64,
    /// Counts those that stand before all others.
    fronts: u64,
    /// Whether the machine was told that somebody is in line.
    announced: bool,
    /// The latest moment anybody told.
    now: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    /// Taken out when it is woken.
    waker: Option<Waker>,
    told: Told,
    /// The end of its deadline's patience, and the line's.
    latest: Option<Instant>,
    until: Option<Instant>,
}

/// What a waiter will do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing: it has to be woken.
    Nothing,
    /// Ask at this moment.
    At(Instant),
    /// Ask, since it was woken (then, as far as that was known) and didn't ask yet.
    Woken(Option<Instant>),
}

impl<M: Machine> Room<M> {
    pub(crate) fn new(machine: M, line: Line) -> Self {
        Self {
            inside: Mutex::new(Inside {
                machine,
                line,
                waiters: BTreeMap::new(),
                overdue: BTreeMap::new(),
                roused: Vec::new(),
                came: FRONTS,
                fronts: 0,
                announced: false,
                now: None,
            }),
        }
    }

    /// Lets one go, gives it a place in line, or refuses it; see [`Gate::ask`](crate::gate::Gate).
    ///
    /// The first in line is told the moment of its turn where there is one. A `max_wait` that ends
    /// before `ask.latest` is everybody's moment; asking again at `ask.latest` is up to the caller.
    pub(crate) fn ask(&self, place: &mut Option<u64>, ask: &mut Ask<'_>) -> Answer<M::Ticket> {
        let now = ask.now();
        let front = M::CHECKS_FIRST && ask.purpose.goes_first();
        let mut draws = ask.rng.draws();
        let mut wakers = Wakers {
            // Most newcomers go at once and need none.
            own: place.map(|_| ask.waker.clone()),
            ..Wakers::default()
        };
        loop {
            let mut inside = lock(&self.inside);
            let now = inside.see(now);
            let answer = match *place {
                Some(number) => {
                    Some(inside.again(number, ask.latest, now, &mut draws, &mut wakers))
                }
                None => inside.first_time(place, front, ask.latest, now, &mut draws, &mut wakers),
            };
            let roused = mem::take(&mut inside.roused);
            let next = inside.next_to_wake(Some(now));
            drop(inside);
            wake(wakers.pushed_out.take());
            wake(next);
            roused.into_iter().for_each(Waker::wake);
            match answer {
                Some(Answer::Wait(at)) => return Answer::Wait(at),
                Some(answer) => {
                    *place = None;
                    return answer;
                }
                None => wakers.own = Some(ask.waker.clone()),
            }
        }
    }

    /// Lets one go at once, past nobody, or refuses it.
    pub(crate) fn try_go(&self, now: Instant, draws: &mut Draws) -> Result<M::Ticket, Rejected> {
        let mut inside = lock(&self.inside);
        let now = inside.see(now);
        let ahead = inside.ahead();
        let ticket = match ahead {
            0 => inside.machine.go(now, draws).ok(),
            _ => None,
        };
        let answer = ticket.ok_or_else(|| inside.refusal(M::FULL, ahead, now));
        let roused = mem::take(&mut inside.roused);
        let next = inside.next_to_wake(Some(now));
        drop(inside);
        wake(next);
        roused.into_iter().for_each(Waker::wake);
        answer
    }

    /// Gives up a place in line.
    pub(crate) fn leave(&self, place: u64) {
        let mut inside = lock(&self.inside);
        let left = inside.remove(place);
        let next = inside.next_to_wake(None);
        drop(inside);
        drop(left);
        wake(next);
    }

    /// Changes the machine, then wakes the first in line if it may go now. Without a moment, the
    /// latest one that anybody told is taken.
    pub(crate) fn with<R>(&self, now: Option<Instant>, change: impl FnOnce(&mut M) -> R) -> R {
        let mut inside = lock(&self.inside);
        let now = now.map(|now| inside.see(now));
        let result = change(&mut inside.machine);
        let roused = mem::take(&mut inside.roused);
        let next = inside.next_to_wake(now);
        drop(inside);
        wake(next);
        roused.into_iter().for_each(Waker::wake);
        result
    }

    /// Looks at the machine. Moments of the future do no harm here.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&lock(&self.inside).machine)
    }

    /// The same as [`with`](Self::with) for a change that may postpone the turns of those that wait:
    /// whoever is now known to be too late loses its place, and is woken to be told so. That costs a
    /// look at everybody in line, if the next turn really is postponed.
    pub(crate) fn replan<R>(&self, now: Instant, change: impl FnOnce(&mut M) -> R) -> R {
        self.replan_if(now, change, |_| true)
    }

    /// The same for a change that may be too small to be worth that look.
    pub(crate) fn replan_if<R>(
        &self,
        now: Instant,
        change: impl FnOnce(&mut M) -> R,
        is_worth: impl FnOnce(&R) -> bool,
    ) -> R {
        let mut inside = lock(&self.inside);
        let now = inside.see(now);
        let before = inside.machine.turn(0, now);
        let result = change(&mut inside.machine);
        let mut late = Vec::new();
        if is_worth(&result) && inside.machine.turn(0, now) > before {
            late = inside.take_late(now);
        }
        let roused = mem::take(&mut inside.roused);
        let next = inside.next_to_wake(Some(now));
        drop(inside);
        for waiter in late {
            wake(waiter.waker);
        }
        wake(next);
        roused.into_iter().for_each(Waker::wake);
        result
    }

    /// The line behaves otherwise from now on. Those that wait keep their places and their patience;
    /// a line that is longer than it may be takes nobody new until it is shorter.
    pub(crate) fn set_line(&self, line: Line, now: Instant) {
        let mut inside = lock(&self.inside);
        let now = inside.see(now);
        inside.line = line;
        let roused = mem::take(&mut inside.roused);
        let next = inside.next_to_wake(Some(now));
        drop(inside);
        wake(next);
        roused.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn waiting(&self) -> usize {
        lock(&self.inside).len()
    }
}

impl<M: Machine> Inside<M> {
    /// A moment earlier than the last one counts as that one.
    fn see(&mut self, now: Instant) -> Instant {
        let now = self.now.map_or(now, |last| last.max(now));
        self.now = Some(now);
        self.put_overdue_aside(now);
        now
    }

    fn put_overdue_aside(&mut self, now: Instant) {
        while let Some(number) = self.head() {
            let head = self.waiters.get_mut(&number).expect("it is in line");
            if let Told::Woken(since) = &mut head.told {
                since.get_or_insert(now);
            }
            if !head.is_overdue(now) {
                return;
            }
            self.roused.extend(head.waker.take());
            let head = self.waiters.remove(&number);
            self.overdue.extend(head.map(|head| (number, head)));
        }
    }

    fn len(&self) -> usize {
        self.waiters.len() + self.overdue.len()
    }

    fn remove(&mut self, number: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&number);
        waiter.or_else(|| self.overdue.remove(&number))
    }

    fn pop_oldest(&mut self) -> Option<Waiter> {
        let oldest = |of: &BTreeMap<u64, Waiter>| of.first_key_value().map(|(number, _)| *number);
        let both = [oldest(&self.waiters), oldest(&self.overdue)];
        self.remove(both.into_iter().flatten().min()?)
    }

    /// A newcomer's ask. `None`: it has to wait, and there is no waker to keep.
    fn first_time(
        &mut self,
        place: &mut Option<u64>,
        front: bool,
        latest: Option<Instant>,
        now: Instant,
        draws: &mut Draws,
        wakers: &mut Wakers,
    ) -> Option<Answer<M::Ticket>> {
        let line = self.line;
        let front = front.then(|| self.front()).flatten();
        let ahead = front.map_or_else(|| self.ahead(), |_| 0);
        let mut told = Told::Nothing;
        if front.is_none() {
            self.announce();
        }
        if ahead == 0 {
            match self.machine.go(now, draws) {
                Ok(ticket) => return Some(Answer::Go(ticket)),
                Err(at) => told = at.map_or(Told::Nothing, Told::At),
            }
        }
        if ahead > 0 {
            // Its turn should have been handed on to it by then.
            let turn = self.machine.turn(ahead, now);
            told = turn.map_or(Told::Nothing, |turn| Told::At(later(turn, 2 * SLOW)));
        }
        let until = line.max_wait.map(|wait| later(now, wait));
        if self.is_late(ahead, latest, until, now) {
            return Some(self.refuse(M::LATE, ahead, now));
        }
        let is_full = self.len() >= line.capacity;
        if is_full && (line.order == Order::FirstIn || line.capacity == 0) {
            return Some(self.refuse(M::FULL, self.len(), now));
        }
        let waker = Some(wakers.own.take()?);
        if is_full {
            wakers.pushed_out = self.pop_oldest().and_then(|waiter| waiter.waker);
        }
        self.came += 1;
        let number = front.unwrap_or(self.came);
        let waiter = Waiter {
            waker,
            told,
            latest,
            until,
        };
        let answer = Answer::Wait(waiter.moment());
        self.waiters.insert(number, waiter);
        *place = Some(number);
        Some(answer)
    }

    /// The ask of one in line.
    fn again(
        &mut self,
        number: u64,
        latest: Option<Instant>,
        now: Instant,
        draws: &mut Draws,
        wakers: &mut Wakers,
    ) -> Answer<M::Ticket> {
        // One that was overdue has its old place again.
        if let Some(waiter) = self.overdue.remove(&number) {
            self.waiters.insert(number, waiter);
            if !self.is_idle() {
                self.announce();
            }
        }
        let Some(waiter) = self.waiters.get(&number) else {
            // Pushed out by a newer one, or by a plan that left it no time.
            let reason = match self.line.order {
                Order::FirstIn => M::LATE,
                Order::NewestFirst => M::FULL,
            };
            return self.refuse(reason, self.len(), now);
        };
        let until = waiter.until;
        let is_next = self.head() == Some(number);
        let mut told = Told::Nothing;
        let mut is_late = latest.is_some_and(|latest| latest < now);
        if is_next && !is_late {
            match self.machine.go(now, draws) {
                Ok(ticket) => {
                    wakers.left = self.waiters.remove(&number);
                    return Answer::Go(ticket);
                }
                Err(at) => told = at.map_or(Told::Nothing, Told::At),
            }
        }
        if !is_next {
            let next = self.machine.turn(0, now);
            told = next.map_or(Told::Nothing, |next| Told::At(later(next, LOOK_AGAIN)));
        }
        // How many stand before the others is not known without counting, and neither is their turn.
        is_late |= if is_next {
            self.is_late(0, latest, until, now)
        } else {
            ends(latest, until).is_some_and(|end| end <= now)
        };
        if is_late {
            wakers.left = self.waiters.remove(&number);
            return self.refuse(M::LATE, self.len(), now);
        }
        let waiter = self.waiters.get_mut(&number).expect("it is in line");
        mem::swap(&mut waiter.waker, &mut wakers.own);
        waiter.told = told;
        waiter.latest = latest;
        Answer::Wait(waiter.moment())
    }

    /// Whether one with so many before it, that can't go now, won't go in time.
    fn is_late(
        &self,
        ahead: usize,
        latest: Option<Instant>,
        until: Option<Instant>,
        now: Instant,
    ) -> bool {
        let Some(end) = ends(latest, until) else {
            return false;
        };
        end <= now || self.machine.turn(ahead, now).is_some_and(|turn| turn > end)
    }

    /// Takes those out of the line whose turn is known to come too late.
    fn take_late(&mut self, now: Instant) -> Vec<Waiter> {
        if self.line.order == Order::NewestFirst {
            // Anybody's turn depends on who is still to come.
            return Vec::new();
        }
        let mut late = Vec::new();
        let mut ahead = 0;
        for (&number, waiter) in &self.waiters {
            if self.is_late(ahead, waiter.latest, waiter.until, now) {
                late.push(number);
            } else {
                ahead += 1;
            }
        }
        // Those before all others: they only have to ask.
        for (&number, waiter) in &self.overdue {
            if self.is_late(0, waiter.latest, waiter.until, now) {
                late.push(number);
            }
        }
        let taken = late.iter().map(|number| self.remove(*number));
        taken.flatten().collect()
    }

    fn refuse(&self, reason: Reason, ahead: usize, now: Instant) -> Answer<M::Ticket> {
        Answer::Refuse(self.refusal(reason, ahead, now))
    }

    fn refusal(&self, reason: Reason, ahead: usize, now: Instant) -> Rejected {
        let retry_at = self.machine.guess(ahead, now);
        Rejected { reason, retry_at }
    }

    /// How many stand before a newcomer.
    fn ahead(&self) -> usize {
        match self.line.order {
            Order::FirstIn => self.waiters.len(),
            // Nobody but a check.
            Order::NewestFirst => usize::from(has_front(&self.waiters)),
        }
    }

    /// A number before all others, if nobody stands there. Not one that there was before: whoever lost
    /// its place may not know it yet.
    fn front(&mut self) -> Option<u64> {
        if has_front(&self.waiters) || has_front(&self.overdue) {
            return None;
        }
        self.fronts = (self.fronts + 1) % FRONTS;
        Some(match self.line.order {
            Order::FirstIn => FRONTS - 1 - self.fronts,
            Order::NewestFirst => u64::MAX - self.fronts,
        })
    }

    fn head(&self) -> Option<u64> {
        let head = match self.line.order {
            Order::FirstIn => self.waiters.first_key_value(),
            Order::NewestFirst => self.waiters.last_key_value(),
        };
        head.map(|(number, _)| *number)
    }

    /// Whether nobody is in line. A check in front of it is nobody.
    fn is_idle(&self) -> bool {
        match self.waiters.len() {
            0 => true,
            1 => has_front(&self.waiters),
            _ => false,
        }
    }

    fn announce(&mut self) {
        if !self.announced {
            self.announced = true;
            self.machine.queued(true);
        }
    }

    /// The waker of the first in line, if that has to be woken. `now`: if that is known.
    fn next_to_wake(&mut self, now: Option<Instant>) -> Option<Waker> {
        if self.announced && self.is_idle() {
            self.announced = false;
            self.machine.queued(false);
        }
        let number = self.head()?;
        let next = self.machine.next(self.now?);
        let head = self.waiters.get_mut(&number)?;
        let has_to_ask = match (next, head.told) {
            (_, Told::Woken(_)) | (Next::Later, _) => false,
            (Next::Now, _) | (Next::At(_), Told::Nothing) => true,
            (Next::At(at), Told::At(told)) => at < told,
        };
        if !has_to_ask {
            return None;
        }
        let since = match head.told {
            // It should have asked by itself.
            Told::At(at) if now.is_some_and(|now| at < now) => Some(at),
            _ => now,
        };
        head.told = Told::Woken(since);
        head.waker.take()
    }
}

impl Waiter {
    /// Whether it was to ask long ago.
    fn is_overdue(&self, now: Instant) -> bool {
        let since = match self.told {
            Told::Nothing | Told::Woken(None) => return false,
            Told::At(since) | Told::Woken(Some(since)) => since,
        };
        now.saturating_duration_since(since) > SLOW
    }

    /// When it has to ask unwoken.
    fn moment(&self) -> Option<Instant> {
        let turn = match self.told {
            Told::At(at) => Some(at),
            Told::Nothing | Told::Woken(_) => None,
        };
        let until = self
            .until
            .filter(|until| self.latest.is_none_or(|latest| *until < latest));
        ends(turn, until)
    }
}

/// Wakers on their way in and out. They are foreign code, so they are cloned, called and dropped
/// without the lock.
#[derive(Default)]
struct Wakers {
    /// The asker's, and then the one it gave before.
    own: Option<Waker>,
    /// Of one that was pushed out of the line and is to be told so.
    pushed_out: Option<Waker>,
    /// The asker, after it left the line.
    left: Option<Waiter>,
}

/// A task that takes longer to ask is held up by something else, or isn't polled at all. Busy
/// runtimes take a few milliseconds.
const SLOW: Duration = Duration::from_millis(50);

/// How long after the next turn those ask again that thought theirs was over. Where each turn is taken
/// a little late that is everybody far behind.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// So many numbers at either end are for checks, which stand before all others.
const FRONTS: u64 = 1 << 32;

/// Whether a check stands before all others.
fn has_front(waiters: &BTreeMap<u64, Waiter>) -> bool {
    let ends = [waiters.first_key_value(), waiters.last_key_value()];
    let mut numbers = ends.into_iter().flatten().map(|(number, _)| *number);
    numbers.any(|it| !(FRONTS..=u64::MAX - FRONTS).contains(&it))
}

/// The earlier of two moments that may not be there.
fn ends(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;
    use crate::gate::Purpose;
    use crate::rng::Rng;
    use crate::throttle::Priority;

    /// So many places, and one at a time, `step` apart.
    #[derive(Clone, Debug)]
    struct Turnstile {
        free: u32,
        open_at: Instant,
        step: Duration,
        /// Whether it has places without end, so that it knows everybody's turn.
        is_clock: bool,
    }

    impl Machine for Turnstile {
        type Ticket = ();

        const CHECKS_FIRST: bool = true;

        fn go(&mut self, now: Instant, _: &mut Draws) -> Result<(), Option<Instant>> {
            match self.next(now) {
                Next::At(at) => Err(Some(at)),
                Next::Later => Err(None),
                Next::Now => {
                    self.free -= u32::from(!self.is_clock);
                    self.open_at = now + self.step;
                    Ok(())
                }
            }
        }

        fn next(&self, now: Instant) -> Next {
            if self.free == 0 && !self.is_clock {
                return Next::Later;
            }
            if now < self.open_at {
                return Next::At(self.open_at);
            }
            Next::Now
        }

        fn turn(&self, ahead: usize, now: Instant) -> Option<Instant> {
            let ahead = u32::try_from(ahead).unwrap();
            self.is_clock
                .then(|| self.open_at.max(now) + self.step * ahead)
        }
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            assert!(!self.0.swap(true, Ordering::Relaxed), "woken twice");
        }
    }

    /// One that asks when it is woken, when its moment has come, and after its deadline.
    struct Task {
        id: usize,
        purpose: Purpose,
        place: Option<u64>,
        latest: Option<Instant>,
        flag: Arc<Flag>,
        timer: Option<Instant>,
    }

    impl Task {
        fn new(id: usize, latest: Option<Instant>) -> Self {
            Self {
                id,
                purpose: Purpose::Call,
                place: None,
                latest,
                flag: Arc::default(),
                timer: None,
            }
        }

        fn check(id: usize, latest: Option<Instant>) -> Self {
            let purpose = Purpose::Check { first: true };
            Self {
                purpose,
                ..Self::new(id, latest)
            }
        }

        fn ask(&mut self, room: &Room<Turnstile>, now: Instant) -> Answer<()> {
            // A new waker each time, as a task that moves about has.
            self.flag = Arc::default();
            let waker = Waker::from(Arc::clone(&self.flag));
            let answer = room.ask(
                &mut self.place,
                &mut Ask {
                    clock: &Clock::default(),
                    moment: Some(now),
                    rng: &Rng::default(),
                    waker: &waker,
                    latest: self.latest,
                    attempt: 1,
                    timeout: None,
                    priority: Priority::default(),
                    purpose: self.purpose,
                    news: None,
                },
            );
            self.timer = match answer {
                Answer::Wait(at) => at,
                Answer::Go(()) | Answer::Refuse(_) => None,
            };
            answer
        }

        fn is_woken(&self) -> bool {
            self.flag.0.load(Ordering::Relaxed)
        }

        fn is_due(&self, now: Instant) -> bool {
            self.timer.is_some_and(|at| at <= now) || self.latest.is_some_and(|at| at < now)
        }
    }

    fn room(free: u32, capacity: usize) -> (Room<Turnstile>, Instant) {
        let now = Instant::now();
        let machine = Turnstile {
            free,
            open_at: now,
            step: Duration::ZERO,
            is_clock: false,
        };
        (Room::new(machine, line(capacity)), now)
    }

    fn clock_room(step: Duration, capacity: usize) -> (Room<Turnstile>, Instant) {
        let now = Instant::now();
        let machine = Turnstile {
            free: 0,
            open_at: now,
            step,
            is_clock: true,
        };
        (Room::new(machine, line(capacity)), now)
    }

    fn line(capacity: usize) -> Line {
        Line {
            capacity,
            order: Order::FirstIn,
            max_wait: None,
        }
    }

    const MS: Duration = Duration::from_millis(1);

    fn refused(reason: Reason, retry_at: Option<Instant>) -> Answer<()> {
        Answer::Refuse(Rejected { reason, retry_at })
    }

    #[test]
    fn a_woken_waiter_that_is_dropped_hands_its_turn_on() {
        let (room, now) = room(0, 2);
        let (mut first, mut second) = (Task::new(1, None), Task::new(2, None));
        assert_eq!(first.ask(&room, now), Answer::Wait(None));
        assert_eq!(second.ask(&room, now), Answer::Wait(None));
        room.with(None, |it| it.free += 1);
        assert!(first.is_woken() && !second.is_woken());
        room.leave(first.place.unwrap());
        assert!(second.is_woken());
        assert_eq!(second.ask(&room, now), Answer::Go(()));
        assert_eq!((second.place, room.waiting()), (None, 0));
    }

    #[test]
    fn nobody_passes_a_waiter_even_one_that_is_slow_to_ask() {
        let (room, now) = room(0, 2);
        let (mut first, mut second) = (Task::new(1, None), Task::new(2, None));
        let _ = first.ask(&room, now);
        room.with(Some(now), |it| it.free += 1);
        assert_eq!(second.ask(&room, now), Answer::Wait(None));
        assert_eq!(first.ask(&room, now), Answer::Go(()));
        assert!(!second.is_woken());
    }

    #[test]
    fn one_that_does_not_ask_is_looked_past_and_first_again_once_it_asks() {
        let (room, now) = room(0, 9);
        let mut tasks: Vec<_> = (0..4).map(|id| Task::new(id, None)).collect();
        for task in &mut tasks {
            assert_eq!(task.ask(&room, now), Answer::Wait(None));
        }
        room.with(Some(now), |it| it.free = 1);
        assert!(tasks[0].is_woken());
        room.with(Some(now + SLOW), |_| ());
        assert!(!tasks[1].is_woken(), "slow, but not overdue");
        let late = now + SLOW + MS;
        assert_eq!(tasks[2].ask(&room, late), Answer::Wait(None));
        assert!(tasks[1].is_woken() && !tasks[2].is_woken());
        assert_eq!(room.waiting(), 4);
        assert_eq!(tasks[1].ask(&room, late), Answer::Go(()));
        assert_eq!(tasks[0].ask(&room, late), Answer::Wait(None));
        room.with(Some(late), |it| it.free = 1);
        assert!(tasks[0].is_woken() && !tasks[2].is_woken());
        assert_eq!(tasks[2].ask(&room, late), Answer::Wait(None));
        assert_eq!(tasks[0].ask(&room, late), Answer::Go(()));
        assert_eq!(room.waiting(), 2);
    }

    #[test]
    fn nobody_is_overdue_by_the_time_that_passed_before_it_was_woken() {
        let (room, now) = room(0, 9);
        let mut tasks: Vec<_> = (0..2).map(|id| Task::new(id, None)).collect();
        for task in &mut tasks {
            assert_eq!(task.ask(&room, now), Answer::Wait(None));
        }
        // Long after the last moment that was told, and without one.
        room.with(None, |it| it.free = 1);
        let later = now + 1000 * MS;
        assert_eq!(tasks[1].ask(&room, later), Answer::Wait(None));
        assert!(tasks[0].is_woken() && !tasks[1].is_woken());
        assert_eq!(tasks[0].ask(&room, later), Answer::Go(()));
    }

    #[test]
    fn any_number_of_overdue_ones_hold_nobody_up() {
        for order in [Order::FirstIn, Order::NewestFirst] {
            let (room, now) = room(0, 9);
            lock(&room.inside).line.order = order;
            let mut tasks: Vec<_> = (0..9).map(|id| Task::new(id, None)).collect();
            for task in &mut tasks {
                let _ = task.ask(&room, now);
            }
            let at = |step: u32| now + step * (SLOW + MS);
            for step in 0..9 {
                room.with(Some(at(step)), |it| it.free = 9);
                let woken = tasks.iter().filter(|task| task.is_woken()).count();
                assert_eq!(woken, step as usize + 1);
            }
            room.with(Some(at(9)), |_| ());
            assert_eq!(room.waiting(), 9);
            let mut draws = Rng::default().draws();
            assert!(room.try_go(at(9), &mut draws).is_ok());
            for task in &mut tasks {
                let expected = if task.id < 8 {
                    Answer::Go(())
                } else {
                    Answer::Wait(None)
                };
                assert_eq!(task.ask(&room, at(9)), expected);
            }
        }
    }

    #[test]
    fn one_that_slept_past_its_moment_is_looked_past() {
        let (room, now) = clock_room(10 * MS, 3);
        let mut tasks: Vec<_> = (0..3).map(|id| Task::new(id, None)).collect();
        assert_eq!(tasks[0].ask(&room, now), Answer::Go(()));
        assert_eq!(tasks[1].ask(&room, now), Answer::Wait(Some(now + 10 * MS)));
        assert!(matches!(
            tasks[2].ask(&room, now + 60 * MS),
            Answer::Wait(_)
        ));
        assert_eq!(tasks[2].ask(&room, now + 61 * MS), Answer::Go(()));
        let wait = Answer::Wait(Some(now + 71 * MS));
        assert_eq!(tasks[1].ask(&room, now + 61 * MS), wait);
    }

    #[test]
    fn those_behind_ask_by_themselves_when_their_turn_is_over() {
        let (room, now) = clock_room(10 * MS, 9);
        let mut tasks: Vec<_> = (0..5).map(|id| Task::new(id, None)).collect();
        for task in &mut tasks {
            let _ = task.ask(&room, now);
        }
        // Nobody polls those between, and nobody comes.
        let at = now + 40 * MS + 2 * SLOW;
        assert_eq!(tasks[4].timer, Some(at));
        let again = at + LOOK_AGAIN;
        assert_eq!(tasks[4].ask(&room, at), Answer::Wait(Some(again)));
        assert_eq!(tasks[4].ask(&room, again), Answer::Go(()));
    }

    #[test]
    fn only_the_first_in_line_has_its_turn_as_its_timer_and_hands_it_on() {
        let (room, now) = clock_room(10 * MS, 3);
        let mut tasks: Vec<_> = (0..4).map(|id| Task::new(id, None)).collect();
        assert_eq!(tasks[0].ask(&room, now), Answer::Go(()));
        assert_eq!(tasks[1].ask(&room, now), Answer::Wait(Some(now + 10 * MS)));
        let over = |turn| Answer::Wait(Some(now + turn * MS + 2 * SLOW));
        assert_eq!(tasks[2].ask(&room, now), over(20));
        assert_eq!(tasks[3].ask(&room, now), over(30));
        assert_eq!(tasks[1].ask(&room, now + 10 * MS), Answer::Go(()));
        assert!(tasks[2].is_woken() && !tasks[3].is_woken());
        let at = now + 20 * MS;
        assert_eq!(tasks[2].ask(&room, now + 10 * MS), Answer::Wait(Some(at)));
        room.leave(tasks[2].place.unwrap());
        assert!(tasks[3].is_woken());
        assert_eq!(tasks[3].ask(&room, now + 11 * MS), Answer::Wait(Some(at)));
    }

    #[test]
    fn a_turn_that_is_known_to_come_too_late_is_refused_at_once() {
        let (room, now) = clock_room(10 * MS, 9);
        let turn = now + 20 * MS;
        let mut tasks: Vec<_> = (0..4).map(|id| Task::new(id, Some(turn))).collect();
        assert_eq!(tasks[0].ask(&room, now), Answer::Go(()));
        assert!(matches!(tasks[1].ask(&room, now), Answer::Wait(_)));
        // Exactly at the last moment is in time.
        assert!(matches!(tasks[2].ask(&room, now), Answer::Wait(_)));
        let expected = refused(Reason::QueueTimeout, Some(now + 30 * MS));
        assert_eq!(tasks[3].ask(&room, now), expected);
        assert_eq!(room.waiting(), 2);
    }

    #[test]
    fn one_that_still_waits_after_its_last_moment_is_refused_and_hands_on() {
        let (room, now) = room(0, 2);
        let mut first = Task::new(1, Some(now + MS));
        let mut second = Task::new(2, None);
        let _ = (first.ask(&room, now), second.ask(&room, now));
        room.with(None, |it| it.free += 1);
        let late = now + MS + Duration::from_nanos(1);
        assert_eq!(first.ask(&room, late), refused(Reason::QueueTimeout, None));
        assert!(second.is_woken());
        assert_eq!(second.ask(&room, late), Answer::Go(()));
    }

    #[test]
    fn at_its_last_moment_one_goes_or_is_refused_but_never_waits() {
        for (free, expected) in [
            (0, refused(Reason::QueueTimeout, None)),
            (1, Answer::Go(())),
        ] {
            let (room, now) = room(0, 2);
            let mut task = Task::new(1, Some(now + MS));
            assert_eq!(task.ask(&room, now), Answer::Wait(None));
            room.with(None, |it| it.free = free);
            assert_eq!(task.ask(&room, now + MS), expected);
        }
    }

    #[test]
    fn a_longest_wait_is_everybodys_timer_unless_the_deadline_is_nearer() {
        let (room, now) = room(0, 3);
        lock(&room.inside).line.max_wait = Some(5 * MS);
        let mut patient = Task::new(1, Some(now + 9 * MS));
        let mut hurried = Task::new(2, Some(now + 4 * MS));
        assert_eq!(patient.ask(&room, now), Answer::Wait(Some(now + 5 * MS)));
        assert_eq!(hurried.ask(&room, now), Answer::Wait(None));
        let expected = refused(Reason::QueueTimeout, None);
        assert_eq!(hurried.ask(&room, now + 4 * MS), expected);
        // It counts from the first ask, not from the last one.
        let wait = Answer::Wait(Some(now + 5 * MS));
        assert_eq!(patient.ask(&room, now + 4 * MS), wait);
        assert_eq!(patient.ask(&room, now + 5 * MS), expected);
    }

    #[test]
    fn a_plan_that_leaves_some_too_little_time_tells_them_and_only_them() {
        let (room, now) = clock_room(10 * MS, 9);
        let latest = [None, None, Some(30), None, Some(90)];
        let mut tasks: Vec<_> = (0..)
            .zip(latest)
            .map(|(id, at)| Task::new(id, at.map(|at| now + at * MS)))
            .collect();
        for task in &mut tasks {
            let _ = task.ask(&room, now);
        }
        room.replan(now, |it| it.open_at += 30 * MS);
        assert_eq!(room.waiting(), 3);
        let woken: Vec<_> = tasks.iter().map(Task::is_woken).collect();
        assert_eq!(woken, [false, false, true, false, false]);
        assert!(matches!(tasks[2].ask(&room, now), Answer::Refuse(_)));
    }

    #[test]
    fn the_newest_goes_first_and_pushes_out_the_oldest() {
        let (room, now) = room(0, 2);
        lock(&room.inside).line.order = Order::NewestFirst;
        let mut tasks: Vec<_> = (0..3).map(|id| Task::new(id, None)).collect();
        for task in &mut tasks {
            assert_eq!(task.ask(&room, now), Answer::Wait(None));
        }
        assert!(tasks[0].is_woken());
        assert_eq!(tasks[0].ask(&room, now), refused(Reason::QueueFull, None));
        room.with(None, |it| it.free += 1);
        assert!(tasks[2].is_woken() && !tasks[1].is_woken());
    }

    #[test]
    fn a_check_goes_before_all_others_and_those_keep_their_order() {
        for (order, expected) in [
            (Order::FirstIn, [2, 0, 1, 3]),
            (Order::NewestFirst, [2, 3, 1, 0]),
        ] {
            let (room, now) = room(0, 9);
            lock(&room.inside).line.order = order;
            let mut tasks: Vec<_> = (0..4)
                .map(|id| match id {
                    2 => Task::check(id, None),
                    id => Task::new(id, None),
                })
                .collect();
            for task in &mut tasks {
                assert_eq!(task.ask(&room, now), Answer::Wait(None));
            }
            // Not even one that comes when it is free passes it.
            for id in expected {
                room.with(Some(now), |it| it.free = 1);
                let mut late = Task::new(9, None);
                let goes_past = order == Order::NewestFirst && id != 2;
                if !goes_past {
                    assert_eq!(late.ask(&room, now), Answer::Wait(None));
                    room.leave(late.place.unwrap());
                }
                assert!(tasks[id].is_woken(), "{order:?}: {id}");
                assert_eq!(tasks[id].ask(&room, now), Answer::Go(()));
            }
        }
    }

    #[test]
    fn a_second_check_stands_where_it_came() {
        let (room, now) = room(0, 9);
        let mut tasks = [
            Task::new(0, None),
            Task::check(1, None),
            Task::check(2, None),
        ];
        for task in &mut tasks {
            assert_eq!(task.ask(&room, now), Answer::Wait(None));
        }
        for id in [1, 0, 2] {
            room.with(Some(now), |it| it.free = 1);
            assert_eq!(tasks[id].ask(&room, now), Answer::Go(()));
        }
    }

    #[test]
    fn no_capacity_is_failing_at_once() {
        for order in [Order::FirstIn, Order::NewestFirst] {
            let (room, now) = room(1, 0);
            lock(&room.inside).line.order = order;
            assert_eq!(Task::new(1, None).ask(&room, now), Answer::Go(()));
            let expected = refused(Reason::QueueFull, None);
            assert_eq!(Task::new(2, None).ask(&room, now), expected);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Join {
            patience: Option<u32>,
            is_check: bool,
        },
        Leave(prop::sample::Index),
        GiveBack,
        Run {
            from_the_back: bool,
        },
        Tick(u32),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (prop::option::of(0..40_u32), prop::bool::weighted(0.2))
                .prop_map(|(patience, is_check)| Op::Join { patience, is_check }),
            1 => any::<prop::sample::Index>().prop_map(Op::Leave),
            2 => Just(Op::GiveBack),
            3 => any::<bool>().prop_map(|from_the_back| Op::Run { from_the_back }),
            2 => (0..15_u32).prop_map(Op::Tick),
        ]
    }

    /// The slow reading: a list in order of arrival, and the one who is before all others.
    struct Naive {
        machine: Turnstile,
        waiters: Vec<(usize, Option<Instant>)>,
        front: Option<usize>,
        order: Order,
        capacity: usize,
        gone: Vec<usize>,
    }

    impl Naive {
        /// Where in the list the one before all others is.
        fn front(&self) -> Option<usize> {
            self.waiters
                .iter()
                .position(|(id, _)| Some(*id) == self.front)
        }

        fn join(&mut self, id: usize, is_check: bool, latest: Option<Instant>, now: Instant) {
            let is_front = is_check && self.front().is_none();
            let ahead = match self.order {
                _ if is_front => 0,
                Order::FirstIn => self.waiters.len(),
                Order::NewestFirst => usize::from(self.front().is_some()),
            };
            if ahead == 0 && self.machine.next(now) == Next::Now {
                return self.go(id, now);
            }
            let turn = self.machine.turn(ahead, now);
            if latest.is_some_and(|latest| turn.is_some_and(|turn| turn > latest)) {
                return;
            }
            if self.waiters.len() >= self.capacity {
                if self.order == Order::FirstIn || self.capacity == 0 {
                    return;
                }
                let oldest = (0..self.waiters.len()).find(|it| Some(*it) != self.front());
                self.waiters.remove(oldest.unwrap_or(0));
            }
            if is_front {
                self.front = Some(id);
            }
            self.waiters.push((id, latest));
        }

        fn run(&mut self, now: Instant) {
            self.waiters
                .retain(|(_, latest)| latest.is_none_or(|at| at >= now));
            while !self.waiters.is_empty() {
                let next = self.front().unwrap_or(match self.order {
                    Order::FirstIn => 0,
                    Order::NewestFirst => self.waiters.len() - 1,
                });
                let (id, latest) = self.waiters[next];
                let turn = self.machine.turn(0, now);
                if self.machine.next(now) == Next::Now {
                    self.go(id, now);
                } else if latest.is_none_or(|at| turn.is_none_or(|turn| turn <= at)) {
                    break;
                }
                self.waiters.remove(next);
            }
        }

        fn go(&mut self, id: usize, now: Instant) {
            let went = self.machine.go(now, &mut Rng::default().draws());
            went.expect("it was asked before");
            self.gone.push(id);
        }
    }

    proptest! {
        /// Order, bounds and refusals are those of a plain list; nobody who could go is left
        /// asleep; and (first come, first served, and no check) nobody is woken in vain.
        #[test]
        fn the_line_is_a_plain_list_whatever_comes_goes_and_is_dropped(
            free in 0..4_u32,
            step in 0..8_u32,
            is_clock: bool,
            newest_first: bool,
            capacity in 0..6_usize,
            ops in prop::collection::vec(any_op(), 1..120),
        ) {
            let mut now = Instant::now();
            let mut ran = now;
            let order = if newest_first { Order::NewestFirst } else { Order::FirstIn };
            let machine = Turnstile { free, open_at: now, step: step * MS, is_clock };
            let room = Room::new(machine.clone(), Line { capacity, order, max_wait: None });
            let mut naive = Naive { machine, waiters: Vec::new(), front: None, order, capacity, gone: Vec::new() };
            let mut checked = false;
            let (mut tasks, mut gone): (Vec<Task>, Vec<usize>) = (Vec::new(), Vec::new());
            for (id, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Join { patience, is_check } => {
                        // Never a moment that a tick can hit: who is looked at first then decides.
                        let latest = patience.map(|it| now + it * MS + MS / 2);
                        let mut task = if is_check { Task::check(id, latest) } else { Task::new(id, latest) };
                        checked |= is_check;
                        match task.ask(&room, now) {
                            Answer::Go(()) => gone.push(id),
                            Answer::Wait(_) => tasks.push(task),
                            Answer::Refuse(_) => {}
                        }
                        naive.join(id, is_check, latest, now);
                    }
                    Op::Leave(index) => if !tasks.is_empty() {
                        let task = tasks.remove(index.index(tasks.len()));
                        room.leave(task.place.unwrap());
                        naive.waiters.retain(|(id, _)| *id != task.id);
                    },
                    Op::GiveBack => {
                        room.with(None, |it| it.free += 1);
                        naive.machine.free += 1;
                    }
                    // Those that were told to ask do, before they are overdue.
                    Op::Tick(ms) => if now + ms * MS <= ran + SLOW {
                        now += ms * MS;
                    },
                    Op::Run { from_the_back } => {
                        loop {
                            let ready = |task: &Task| task.is_woken() || task.is_due(now);
                            let next = if from_the_back {
                                tasks.iter().rposition(ready)
                            } else {
                                tasks.iter().position(ready)
                            };
                            let Some(next) = next else { break };
                            let (is_woken, is_due) = (tasks[next].is_woken(), tasks[next].is_due(now));
                            match tasks[next].ask(&room, now) {
                                Answer::Go(()) => gone.push(tasks.remove(next).id),
                                Answer::Wait(at) => {
                                    prop_assert!(at.is_none_or(|at| at > now), "spins");
                                    prop_assert!(at.is_some() || is_due || newest_first || checked, "woken in vain");
                                }
                                Answer::Refuse(_) => drop(tasks.remove(next)),
                            }
                            prop_assert!(is_woken || is_due);
                        }
                        ran = now;
                        naive.run(now);
                        let waiting: Vec<_> = tasks.iter().map(|task| task.id).collect();
                        let expected: Vec<_> = naive.waiters.iter().map(|it| it.0).collect();
                        prop_assert_eq!(waiting, expected);
                        prop_assert_eq!(room.waiting(), naive.waiters.len());
                    }
                }
                prop_assert_eq!(&gone, &naive.gone);
            }
        }
    }
}
