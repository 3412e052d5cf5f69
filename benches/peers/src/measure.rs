//! Rows, who is in them, and their rounds.

use std::time::Instant;

use crate::cases::Run;

/// One case, done by everybody in it.
pub struct Row {
    pub name: &'static str,
    pub unit: Unit,
    pub goal: Goal,
    /// What it is, what it costs and why, and where the contenders differ.
    pub note: &'static str,
    pub contenders: Vec<Contender>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Nanoseconds,
    Microseconds,
    Bytes,
    /// The throughput of two threads by that of one: the only unit where more is better.
    Times,
}

/// What design and contract ask for.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    None,
    /// In the row's unit.
    AtMost(f64),
    AtLeast(f64),
    /// Of the floor's median.
    OfFloor(f64),
    /// Of the floor's in the same round: where the machine's own ups and downs are more than the goal allows.
    OfFloorInPairs(f64),
    /// Of this peer's median.
    Of(&'static str, f64),
    /// Of the best peer's median.
    OfBest(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What the case can't do without.
    Floor,
    Ours,
    Peer,
    /// Shown, and no part of the comparison: it does less, or it is another way to the same thing.
    Aside,
}

pub struct Contender {
    pub role: Role,
    pub name: &'static str,
    sample: Sampler,
    pub samples: Vec<f64>,
    /// By the floor's in the same round, the median of it.
    pub by_floor: Option<f64>,
}

/// One measurement.
pub type Sampler = Box<dyn FnMut() -> f64>;

impl Row {
    pub fn new(name: &'static str, unit: Unit, goal: Goal, note: &'static str) -> Self {
        Self {
            name,
            unit,
            goal,
            note,
            contenders: Vec::new(),
        }
    }

    pub fn floor(self, name: &'static str, run: Run) -> Self {
        self.with(Role::Floor, name, timed(run))
    }

    pub fn ours(self, run: Run) -> Self {
        self.with(Role::Ours, "evenkeel", timed(run))
    }

    pub fn peer(self, name: &'static str, run: Run) -> Self {
        self.with(Role::Peer, name, timed(run))
    }

    pub fn aside(self, name: &'static str, run: Run) -> Self {
        self.with(Role::Aside, name, timed(run))
    }

    pub fn with(mut self, role: Role, name: &'static str, sample: Sampler) -> Self {
        self.contenders.push(Contender {
            role,
            name,
            sample,
            samples: Vec::new(),
            by_floor: None,
        });
        self
    }

    /// Everybody in turn in each round, each time beginning with another one.
    pub fn measure(&mut self, rounds: usize) {
        for contender in &mut self.contenders {
            (contender.sample)(); // warm-up, and the choice of a count
        }
        let rounds = match self.unit {
            Unit::Bytes => 1,
            // Four times as many: other processes and the kernel have a part in them.
            Unit::Microseconds => 4 * rounds,
            Unit::Nanoseconds | Unit::Times => rounds,
        };
        let number = self.contenders.len();
        for round in 0..rounds {
            for turn in 0..number {
                let contender = &mut self.contenders[(round + turn) % number];
                let sample = (contender.sample)();
                contender.samples.push(sample);
            }
        }
        if let Some(floor) = self.one(Role::Floor).map(|it| it.samples.clone()) {
            for contender in &mut self.contenders {
                let pairs = contender.samples.iter().zip(&floor);
                let mut ratios: Vec<f64> = pairs.map(|(it, floor)| it / floor).collect();
                ratios.sort_by(f64::total_cmp);
                contender.by_floor = Some(ratios[ratios.len() / 2]);
            }
        }
        for contender in &mut self.contenders {
            contender.samples.sort_by(f64::total_cmp);
        }
    }

    /// Lets go of all that was set up for it.
    pub fn finish(&mut self) {
        for contender in &mut self.contenders {
            contender.sample = Box::new(|| f64::NAN);
        }
    }

    pub fn one(&self, role: Role) -> Option<&Contender> {
        self.contenders.iter().find(|it| it.role == role)
    }

    pub fn best_peer(&self) -> Option<&Contender> {
        let peers = self.contenders.iter().filter(|it| it.role == Role::Peer);
        let less = |a: &&Contender, b: &&Contender| a.median().total_cmp(&b.median());
        if self.unit == Unit::Times {
            peers.max_by(less)
        } else {
            peers.min_by(less)
        }
    }

    /// Ours by the best peer's.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.one(Role::Ours)?.median() / self.best_peer()?.median())
    }

    /// The bound, and whether it is kept; nothing without a goal.
    pub fn verdict(&self) -> Option<(f64, bool)> {
        let ours = self.one(Role::Ours)?.median();
        let of = |name: &str| self.contenders.iter().find(|it| it.name == name);
        let bound = match self.goal {
            Goal::None => return None,
            Goal::AtLeast(bound) => return Some((bound, ours >= bound)),
            Goal::AtMost(bound) => bound,
            Goal::OfFloor(ratio) => ratio * self.one(Role::Floor)?.median(),
            Goal::OfFloorInPairs(ratio) => {
                let by_floor = self.one(Role::Ours)?.by_floor?;
                return Some((by_floor, by_floor <= ratio));
            }
            Goal::Of(peer, ratio) => ratio * of(peer)?.median(),
            Goal::OfBest(ratio) => ratio * self.best_peer()?.median(),
        };
        Some((bound, ours <= bound))
    }
}

impl Contender {
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.samples.len().saturating_sub(1);
        self.samples[(last as f64 * share).round() as usize]
    }
}

/// Nanoseconds for one of a run, out of a third of a millisecond of it: short enough that in most rounds nobody else gets the
/// processor in between. As many go before, to have the caches as the run leaves them.
fn timed(mut run: Run) -> Sampler {
    const LENGTH: f64 = 3e5;
    let mut count = None;
    Box::new(move || {
        let count = *count.get_or_insert_with(|| {
            let mut count = 64;
            loop {
                let each = time(&mut run, count);
                if each * count as f64 > LENGTH / 4.0 {
                    break ((LENGTH / each) as u64).max(1);
                }
                count *= 2;
            }
        });
        run(count);
        time(&mut run, count)
    })
}

fn time(run: &mut Run, count: u64) -> f64 {
    let begun = Instant::now();
    run(count);
    begun.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// A number that is known: bytes.
pub fn known(value: usize) -> Sampler {
    Box::new(move || value as f64)
}
