//! The connection between a handle and its engine, which runs in its own thread or inline.
//!
//! Waking a sleeping engine costs the training thread a system call, more than all its other work
//! for the buffer. The engine's result is needed only one step later. A background engine therefore
//! sleeps with a timeout that ends shortly after the next mini-batch is due. A late mini-batch, any
//! other request, and a thread that waits for an answer wake it.

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
    /// Registers this rank's requests, so that ranks that wait for each other are detected.
    asker: Asker,
    requests: SyncSender<Sent>,
    thread: Thread,
    /// The time spent waiting since the last [`Link::take_waited`].
    waited: Duration,
}

impl Link {
    /// Starts an engine, in its own thread if so configured. The receiver gets the outcomes of
    /// rounds.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Config`] if the configuration is invalid, [`RehearsalError::Thread`] if
    /// the thread cannot be started.
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

    /// An asker for requests that other threads of the engine answer. It does nothing for an inline
    /// engine.
    pub(crate) fn another_asker(&self) -> Asker {
        match self {
            Self::Background(link) => link.asker.another(),
            Self::Inline(_) => Asker::default(),
        }
    }

    /// The time spent waiting for answers since the last call. The clock is read only if an answer
    /// is not ready.
    pub(crate) fn take_waited(&mut self) -> Duration {
        match self {
            Self::Background(link) => std::mem::take(&mut link.waited),
            Self::Inline(_) => Duration::ZERO,
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The other ranks wait for every round that this one has submitted. The last round may
        // report why this rank leaves.
        self.thread.unpark();
    }
}

/// Answers requests until the last handle is dropped. Parameters are dropped in reverse order: the
/// answerer outlives the engine and its collectives.
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

/// Waits for the next request: first asleep until a mini-batch is due, then until one arrives.
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

/// Predicts when the next mini-batch arrives.
#[derive(Debug, Default)]
struct Rhythm {
    /// The time at which the last mini-batch was sent.
    last: Option<Instant>,
    /// The two intervals between the last three mini-batches. The shorter one counts, so that a
    /// single long step has no effect.
    intervals: [Duration; 2],
    /// The engine's work for the last mini-batch.
    work: Duration,
}

impl Rhythm {
    /// The shortest interval with sleeps. Shorter sleeps are too inexact.
    const SHORTEST: Duration = Duration::from_micros(500);

    /// Records a mini-batch that was sent at `at` and kept the engine busy for `work`.
    fn beat(&mut self, at: Instant, work: Duration) {
        if let Some(last) = self.last.replace(at) {
            self.intervals = [self.intervals[1], at.saturating_duration_since(last)];
        }
        self.work = work;
    }

    /// The time to sleep: until a quarter of an interval after the next mini-batch is due, which
    /// leaves room for steps that are slightly longer. `None` if there is no rhythm, or if the rest
    /// of the interval could be too short for the work.
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
    fn an_engine_sleeps_until_shortly_after_the_next_mini_batch_is_due() {
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
    fn an_engine_stays_awake_for_short_steps_long_work_or_no_rhythm() {
        let start = Instant::now();
        assert_eq!(after(start, &[0, 20, 40], 6 * MS).pause(start + 46 * MS), None);
        assert_eq!(after(start, &[0, 20], MS).pause(start + 21 * MS), None);
        let mut rhythm = Rhythm::default();
        (0..3).for_each(|step| rhythm.beat(start + step * MS / 4, MS / 100));
        assert_eq!(rhythm.pause(start + MS / 2), None);
    }

    #[test]
    fn urgent_requests_and_waiting_threads_wake_a_sleeping_engine() {
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
                // The engine must not stay asleep, whether it sleeps already or not.
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
