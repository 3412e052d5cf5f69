//! What the next attempt gets. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use super::fault::Fault;
use super::rule::{Effect, Injection, Rule};
use crate::error::ConfigError;
use crate::rng::Draws;

/// What was ordered.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pub(super) seed: u64,
    pub(super) script: VecDeque<Turns>,
    pub(super) rules: Vec<Rule>,
}

/// The same effect for so many attempts.
pub(super) type Turns = (u32, Effect);

impl Orders {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.rules.iter().try_for_each(Rule::check)?;
        let effects = self.script.iter().map(|(_, effect)| effect);
        effects.into_iter().try_for_each(Effect::check)
    }
}

/// What is left of the script, and what was injected.
#[derive(Debug)]
pub(super) struct Plan {
    script: VecDeque<Turns>,
    counts: Snapshot,
}

impl Plan {
    pub(super) fn new(orders: &Orders) -> Self {
        Self {
            script: orders.script.clone(),
            counts: Snapshot::default(),
        }
    }

    /// The script decides alone while there is any; then every rule strikes by itself: the delays of
    /// those that do add up, and the first fault among them counts.
    pub(super) fn decide(
        &mut self,
        orders: &Orders,
        attempt: u32,
        elapsed: Duration,
        draws: &mut Draws,
    ) -> Injection {
        let injection = match self.next_turn() {
            Some(effect) => effect.draw(draws.next_u64()),
            None => by_rules(&orders.rules, attempt, elapsed, draws),
        };
        self.counts.add(injection);
        injection
    }

    pub(super) fn push(&mut self, turns: Turns) {
        self.script.push_back(turns);
    }

    /// Whether a new one would do the same.
    pub(super) fn is_as_new(&self, orders: &Orders) -> bool {
        self.script == orders.script
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let left = self.script.iter().map(|(turns, _)| u64::from(*turns));
        Snapshot {
            scripted: left.fold(0, u64::saturating_add),
            ..self.counts
        }
    }

    fn next_turn(&mut self) -> Option<Effect> {
        // Nobody is struck for no attempts at all.
        while let Some((0, _)) = self.script.front() {
            self.script.pop_front();
        }
        let (turns, effect) = self.script.front_mut()?;
        let effect = *effect;
        *turns -= 1;
        if *turns == 0 {
            self.script.pop_front();
        }
        Some(effect)
    }
}

fn by_rules(rules: &[Rule], attempt: u32, elapsed: Duration, draws: &mut Draws) -> Injection {
    let mut sum = Injection::default();
    for rule in rules {
        let struck = rule.strike(attempt, elapsed, draws);
        sum.delay = sum.delay.saturating_add(struck.delay);
        sum.fault = sum.fault.or(struck.fault);
    }
    sum
}

/// What was injected, and what is left to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Attempts that came by while it was on.
    pub attempts: u64,
    /// Those of them into which anything was injected.
    pub injected: u64,
    /// Delays, with a fault after them or without.
    pub delays: u64,
    /// [`Fault::Connect`].
    pub connects: u64,
    /// [`Fault::Error`].
    pub errors: u64,
    /// [`Fault::Hang`].
    pub hangs: u64,
    /// [`Fault::Lost`].
    pub lost: u64,
    /// [`Fault::Reset`].
    pub resets: u64,
    /// [`Fault::Status`].
    pub statuses: u64,
    /// Attempts for which the script still says what they get.
    pub scripted: u64,
}

impl Snapshot {
    fn add(&mut self, injection: Injection) {
        let count = |of: &mut u64, is: bool| *of = of.saturating_add(u64::from(is));
        count(&mut self.attempts, true);
        count(&mut self.injected, !injection.is_none());
        count(&mut self.delays, !injection.delay.is_zero());
        match injection.fault {
            Some(Fault::Connect) => count(&mut self.connects, true),
            Some(Fault::Error { .. }) => count(&mut self.errors, true),
            Some(Fault::Hang) => count(&mut self.hangs, true),
            Some(Fault::Lost) => count(&mut self.lost, true),
            Some(Fault::Reset) => count(&mut self.resets, true),
            Some(Fault::Status { .. }) => count(&mut self.statuses, true),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Ratio;
    use crate::rng::Rng;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn decide(plan: &mut Plan, orders: &Orders) -> Injection {
        plan.decide(orders, 1, Duration::ZERO, &mut Rng::seeded(1).draws())
    }

    #[test]
    fn delays_add_up_and_the_first_fault_counts() {
        let orders = Orders {
            rules: vec![
                Rule::new(Effect::delay(ms(10))),
                Rule::new(Fault::Hang).share(Ratio::percent(0)),
                Rule::new(Effect::delay(ms(5)).then(Fault::Reset)),
                Rule::new(Effect::delay(ms(1)).then(Fault::Connect)),
            ],
            ..Orders::default()
        };
        let got = decide(&mut Plan::new(&orders), &orders);
        assert_eq!((got.delay, got.fault), (ms(16), Some(Fault::Reset)));
    }

    #[test]
    fn while_there_is_a_script_it_decides_alone() {
        let orders = Orders {
            script: [(1, Effect::none()), (0, Fault::Hang.into())].into(),
            rules: vec![Rule::new(Fault::Reset)],
            ..Orders::default()
        };
        let mut plan = Plan::new(&orders);
        assert!(plan.is_as_new(&orders));
        assert!(decide(&mut plan, &orders).is_none(), "left alone");
        assert!(!plan.is_as_new(&orders));
        assert_eq!(decide(&mut plan, &orders).fault, Some(Fault::Reset));
        assert_eq!((plan.counts.attempts, plan.counts.injected), (2, 1));
    }

    #[test]
    fn one_rules_settings_do_not_shift_anothers_chance() {
        let chance = Rule::new(Fault::Reset).share(Ratio::percent(50));
        let fates = |first: Rule| -> Vec<bool> {
            let orders = Orders {
                rules: vec![first, chance.clone()],
                ..Orders::default()
            };
            let (mut plan, rng) = (Plan::new(&orders), Rng::seeded(3));
            let fate = |_| {
                let got = plan.decide(&orders, 1, Duration::ZERO, &mut rng.draws());
                got.fault.is_some()
            };
            (0..100).map(fate).collect()
        };
        let never = fates(Rule::new(Effect::none()).share(Ratio::percent(0)));
        let slow = fates(Rule::new(Effect::delay_between(ms(1), ms(9))));
        assert_eq!(never, slow);
        assert!(never.contains(&true) && never.contains(&false));
    }

    proptest! {
        /// Step by step what a list of effects does from which one is taken at a time.
        #[test]
        fn a_script_is_played_in_order_and_exactly_once(
            turns in prop::collection::vec((0_u32..4, 0_usize..5), 0..8),
            pushed in prop::collection::vec((0_u32..4, 0_usize..5), 0..4),
        ) {
            let of = |index: usize| -> Effect {
                match index {
                    0 => Effect::none(),
                    1 => Effect::delay(ms(3)),
                    2 => Fault::Reset.into(),
                    3 => Fault::Connect.into(),
                    _ => Effect::delay(ms(1)).then(Fault::Hang),
                }
            };
            let script = turns.iter().map(|(n, index)| (*n, of(*index)));
            let orders = Orders { script: script.collect(), ..Orders::default() };
            let mut plan = Plan::new(&orders);
            let mut model: VecDeque<Effect> = VecDeque::new();
            for (n, index) in turns.iter().chain(&pushed) {
                model.extend((0..*n).map(|_| of(*index)));
            }
            for (n, index) in &pushed {
                plan.push((*n, of(*index)));
            }
            let mut injected = 0;
            for step in 1_u64..40 {
                let expected = model.pop_front().unwrap_or(Effect::none()).draw(0);
                let got = decide(&mut plan, &orders);
                prop_assert_eq!(got, expected);
                injected += u64::from(!expected.is_none());
                let snapshot = plan.snapshot();
                prop_assert_eq!((snapshot.attempts, snapshot.injected), (step, injected));
                prop_assert_eq!(snapshot.scripted, model.len() as u64);
            }
        }
    }
}
