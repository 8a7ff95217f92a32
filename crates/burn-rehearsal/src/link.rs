//! The way from a handle to its engine and back: a thread of its own, or a call.
//!
//! Waking a sleeping engine costs the training thread a system call, more than everything else that
//! it does for the buffer. The engine's work is needed one step later, so a background engine wakes
//! up by itself, a little after the next mini-batch is due. It is woken by a mini-batch that is
//! late, by any other request, and by a thread that waits for its answer.

use crate::config::{Execution, RehearsalConfig};
use crate::engine::{
    Answer, Engine, Inbox, MAX_IN_FLIGHT, Reply, Request, Round, Sent, Timings, poll,
};
use crate::error::RehearsalError;
use crate::rules::CustomRules;
use burn_rehearsal_collective::{Answerer, Asker, Collective};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// A handle's end of the channel to its engine. Requests are answered in order, and answers must be
/// received in that order.
pub(crate) enum Link {
    /// The engine has its own thread.
    Background(Background),
    /// The engine works on the thread that sends the request.
    Inline(Box<Engine>),
}

pub(crate) struct Background {
    /// Tells whether this rank can move, so that ranks that wait for each other notice.
    asker: Asker,
    requests: SyncSender<Sent>,
    thread: Thread,
    /// Since it was last asked for.
    waited: Duration,
}

impl Link {
    /// Starts an engine, in its own thread if that is configured. The receiver gets the outcomes
    /// of rounds.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Config`] if the configuration makes no sense, [`RehearsalError::Thread`]
    /// if the thread cannot be started.
    pub(crate) fn new(
        config: &RehearsalConfig,
        rules: CustomRules,
        collective: Box<dyn Collective>,
        timings: Arc<Timings>,
    ) -> Result<(Self, Receiver<Answer<Round>>), RehearsalError> {
        let name = format!("rehearsal-{}", collective.rank());
        let (mut engine, rounds) = Engine::new(config.clone(), rules, collective, timings)?;
        if config.execution == Execution::Inline {
            return Ok((Self::Inline(Box::new(engine)), rounds));
        }
        let (requests, inbox) = sync_channel(config.lag + MAX_IN_FLIGHT);
        let (asker, answerer) = engine.answer_requests();
        let serve = move || serve(&inbox, Rhythm::default(), answerer, engine);
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(serve)
            .map_err(|error| RehearsalError::Thread(error.to_string()))?;
        let background =
            Background { asker, requests, thread: thread.thread().clone(), waited: Duration::ZERO };
        Ok((Self::Background(background), rounds))
    }

    pub(crate) fn send(&mut self, request: Request) -> Result<(), RehearsalError> {
        match self {
            Self::Background(link) => {
                let can_wait = matches!(request, Request::Rows(_));
                let asked = link.asker.ask();
                link.requests
                    .send(Sent { request, asked })
                    .map_err(|_| RehearsalError::EngineGone)?;
                if !can_wait {
                    link.thread.unpark();
                }
            }
            Self::Inline(engine) => engine.handle(request),
        }
        Ok(())
    }

    /// Waits for the answer to a request that was sent.
    pub(crate) fn receive<T>(&mut self, answers: &Receiver<Answer<T>>) -> Answer<T> {
        let poll = || poll(answers);
        match self {
            Self::Background(Background { asker, thread, waited, .. }) => asker.wait(poll, || {
                let started = Instant::now();
                thread.unpark();
                let answer = answers.recv();
                *waited += started.elapsed();
                answer.map_err(|_| RehearsalError::EngineGone)?
            }),
            Self::Inline(_) => poll().unwrap_or(Err(RehearsalError::EngineGone)),
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask<T>(&mut self, request: impl FnOnce(Reply<T>) -> Request) -> Answer<T> {
        let (reply, answer) = Reply::channel();
        self.send(request(reply))?;
        self.receive(&answer)
    }

    /// An asker for what other threads of the engine answer. Of an inline engine, it is not
    /// watched.
    pub(crate) fn another_asker(&self) -> Asker {
        match self {
            Self::Background(link) => link.asker.another(),
            Self::Inline(_) => Asker::default(),
        }
    }

    /// The time spent waiting for answers since this was last called. An answer that is there costs
    /// no look at the clock.
    pub(crate) fn take_waited(&mut self) -> Duration {
        match self {
            Self::Background(link) => std::mem::take(&mut link.waited),
            Self::Inline(_) => Duration::ZERO,
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The other ranks wait for every round that this one has submitted. The last one may report
        // why it leaves.
        self.thread.unpark();
    }
}

/// Answers requests until no handle is left. The answerer is an earlier parameter than the engine,
/// so it is dropped after the engine's collectives.
fn serve(inbox: &Inbox, mut rhythm: Rhythm, _answerer: Answerer, mut engine: Engine) {
    while let Some(Sent { request, asked }) =
        engine.write_until_asked(inbox).or_else(|| next(inbox, &rhythm))
    {
        let sent = if let Request::Rows(batch) = &request { Some(batch.sent) } else { None };
        let started = Instant::now();
        engine.handle(request);
        if let Some(sent) = sent {
            rhythm.beat(sent, started.elapsed());
        }
        drop(asked);
    }
}

/// The next request. Sleeps while a mini-batch is not due, and then until a request arrives.
fn next(inbox: &Inbox, rhythm: &Rhythm) -> Option<Sent> {
    match inbox.try_recv() {
        Ok(request) => Some(request),
        Err(TryRecvError::Disconnected) => None,
        Err(TryRecvError::Empty) => {
            if let Some(pause) = rhythm.pause(Instant::now()) {
                std::thread::park_timeout(pause);
            }
            inbox.recv().ok()
        }
    }
}

/// When mini-batches arrive.
#[derive(Debug, Default)]
struct Rhythm {
    /// When the last one was sent.
    last: Option<Instant>,
    /// The times between the last three: a single long one is not the rhythm.
    intervals: [Duration; 2],
    /// How long the last one kept the engine busy.
    work: Duration,
}

impl Rhythm {
    /// Shorter sleeps are too inexact.
    const SHORTEST: Duration = Duration::from_micros(500);

    /// A mini-batch was sent at `at` and kept the engine busy for `work`.
    fn beat(&mut self, at: Instant, work: Duration) {
        if let Some(last) = self.last.replace(at) {
            self.intervals = [self.intervals[1], at.saturating_duration_since(last)];
        }
        self.work = work;
    }

    /// How long to sleep: until a quarter of an interval after the next one is due, so that it is
    /// there in spite of a step that is a little longer than others. `None` if there is no rhythm,
    /// or if the rest of the interval could be too short for the work.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let interval = self.intervals[0].min(self.intervals[1]);
        if interval < Self::SHORTEST || self.work > interval / 4 {
            return None;
        }
        (self.last? + interval + interval / 4).checked_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::capacity::Capacity;
    use burn_rehearsal_collective::{Asked, Solo};

    const MS: Duration = Duration::from_millis(1);

    /// The rhythm after mini-batches at these milliseconds.
    fn after(start: Instant, milliseconds: &[u32], work: Duration) -> Rhythm {
        let mut rhythm = Rhythm::default();
        milliseconds.iter().for_each(|&at| rhythm.beat(start + at * MS, work));
        rhythm
    }

    #[test]
    fn an_engine_sleeps_until_a_little_after_the_next_mini_batch_is_due() {
        let start = Instant::now();
        let rhythm = after(start, &[0, 20, 40], MS);
        assert_eq!(rhythm.pause(start + 41 * MS), Some(24 * MS));
        assert_eq!(rhythm.pause(start + 70 * MS), None);
    }

    #[test]
    fn one_long_step_does_not_change_the_rhythm() {
        let start = Instant::now();
        assert_eq!(after(start, &[0, 20, 40, 1040], MS).pause(start + 1041 * MS), Some(24 * MS));
        assert_eq!(
            after(start, &[0, 20, 40, 1040, 2040], MS).pause(start + 2041 * MS),
            Some(1249 * MS)
        );
    }

    #[test]
    fn an_engine_does_not_sleep_if_steps_are_short_or_its_work_is_long_or_it_knows_no_rhythm() {
        let start = Instant::now();
        assert_eq!(after(start, &[0, 20, 40], 6 * MS).pause(start + 46 * MS), None);
        assert_eq!(after(start, &[0, 20], MS).pause(start + 21 * MS), None);
        let mut rhythm = Rhythm::default();
        (0..3).for_each(|step| rhythm.beat(start + step * MS / 4, MS / 100));
        assert_eq!(rhythm.pause(start + MS / 2), None);
    }

    #[test]
    fn a_request_that_cannot_wait_wakes_a_sleeping_engine_and_so_does_who_waits_for_its_answer() {
        let hour = Duration::from_secs(3600);
        for wait in [false, true] {
            let config = RehearsalConfig::new(Capacity::Samples(1));
            let (engine, _rounds) =
                Engine::new(config, CustomRules::default(), Box::new(Solo::new()), Arc::default())
                    .unwrap();
            let (requests, inbox) = sync_channel(2);
            let rhythm = Rhythm { last: Some(Instant::now()), intervals: [hour; 2], work: MS };
            let thread =
                std::thread::spawn(move || serve(&inbox, rhythm, Answerer::default(), engine));
            let background = Background {
                asker: Asker::default(),
                requests: requests.clone(),
                thread: thread.thread().clone(),
                waited: Duration::ZERO,
            };
            let mut link = Link::Background(background);
            let (done, answered) = sync_channel(1);
            std::thread::spawn(move || {
                // Whether the engine sleeps already or not, it must not sleep on.
                let (reply, answer) = Reply::channel();
                let answer = if wait {
                    requests
                        .send(Sent { request: Request::Inspect(reply), asked: Asked::default() })
                        .unwrap();
                    link.receive(&answer)
                } else {
                    link.send(Request::Inspect(reply)).unwrap();
                    answer.recv().unwrap()
                };
                drop((link, requests));
                done.send(answer).unwrap();
            });
            assert!(
                matches!(answered.recv_timeout(Duration::from_secs(60)), Ok(Ok(_))),
                "waiting: {wait}"
            );
            thread.join().unwrap();
        }
    }
}
