//! The way from a handle to its engine and back: a thread of its own, or a call.
//!
//! An engine without work sleeps, and to wake it would cost the training thread more than all else that it does for the buffer: a system call, and an
//! interrupt of another core. Nor is there any hurry, since what the engine prepares is wanted a step later. So an engine in the background
//! wakes up by itself, a little after the next mini-batch is due, and is woken only by a mini-batch that comes late, by any other request, and by
//! whoever waits for its answer.

use crate::engine::{Engine, Inbox, Request, Response, Sent};
use crate::error::RehearsalError;
use burn_rehearsal_collective::{Answerer, Asker};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

type Answer = Result<Response, RehearsalError>;

/// A handle's end. Requests are answered in order.
pub(crate) enum Link {
    /// The engine has a thread of its own.
    Background(Background),
    /// The engine works when it is asked.
    Inline {
        /// The engine.
        engine: Box<Engine>,
        /// Its answers.
        responses: VecDeque<Answer>,
    },
}

pub(crate) struct Background {
    /// Tells whether this rank can move, so that ranks that wait for each other notice.
    asker: Asker,
    requests: SyncSender<Sent>,
    responses: Receiver<Answer>,
    engine: Thread,
    /// Since it was last asked for.
    waited: Duration,
}

impl Link {
    /// An engine in a thread of this name. At most the beginning of a checkpoint, `lag` rounds, one more or the beginning of a task, and the reason to leave are under
    /// way, so neither side ever blocks on a full channel.
    ///
    /// # Errors
    ///
    /// [`RehearsalError::Thread`] if no thread can be had.
    pub(crate) fn background(mut engine: Engine, name: String, lag: usize) -> Result<Self, RehearsalError> {
        let (requests, inbox) = sync_channel(lag + 3);
        let (outbox, responses) = sync_channel(lag + 3);
        let (asker, answerer) = engine.answer_requests();
        let serve = move || serve(&inbox, &outbox, Rhythm::default(), answerer, engine);
        let thread = std::thread::Builder::new().name(name).spawn(serve).map_err(|error| RehearsalError::Thread(error.to_string()))?;
        Ok(Self::Background(Background { asker, requests, responses, engine: thread.thread().clone(), waited: Duration::ZERO }))
    }

    pub(crate) fn inline(engine: Engine) -> Self {
        Self::Inline { engine: Box::new(engine), responses: VecDeque::new() }
    }

    pub(crate) fn send(&mut self, request: Request) -> Result<(), RehearsalError> {
        match self {
            Self::Background(link) => {
                let can_wait = matches!(request, Request::Rows(_));
                let asked = link.asker.ask();
                link.requests.send(Sent { request, asked }).map_err(|_| RehearsalError::EngineGone)?;
                if !can_wait {
                    link.engine.unpark();
                }
            }
            Self::Inline { engine, responses } => responses.push_back(engine.handle(request)),
        }
        Ok(())
    }

    pub(crate) fn receive(&mut self) -> Answer {
        match self {
            Self::Background(Background { asker, responses, engine, waited, .. }) => {
                let poll = || match responses.try_recv() {
                    Ok(answer) => Some(answer),
                    Err(TryRecvError::Disconnected) => Some(Err(RehearsalError::EngineGone)),
                    Err(TryRecvError::Empty) => None,
                };
                asker.wait(poll, || {
                    let started = Instant::now();
                    engine.unpark();
                    let answer = responses.recv();
                    *waited += started.elapsed();
                    answer.map_err(|_| RehearsalError::EngineGone)?
                })
            }
            Self::Inline { responses, .. } => responses.pop_front().ok_or(RehearsalError::EngineGone)?,
        }
    }

    /// An asker for what other threads of the engine answer. Of an inline engine, it is not
    /// watched.
    pub(crate) fn another_asker(&self) -> Asker {
        match self {
            Self::Background(link) => link.asker.another(),
            Self::Inline { .. } => Asker::default(),
        }
    }

    /// How long [`receive`](Self::receive) has waited for answers that were not there since this was last called. An answer that is there costs no look at the clock.
    pub(crate) fn take_waited(&mut self) -> Duration {
        match self {
            Self::Background(link) => std::mem::take(&mut link.waited),
            Self::Inline { .. } => Duration::ZERO,
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // The other ranks count on every round that this one has submitted, and a last one may tell them why it leaves.
        self.engine.unpark();
    }
}

/// What answers requests.
trait Serve {
    fn answer(&mut self, request: Request) -> Answer;

    /// Does what there is to do besides, until a request comes.
    fn work(&mut self, _inbox: &Inbox) -> Option<Sent> {
        None
    }
}

impl Serve for Engine {
    fn answer(&mut self, request: Request) -> Answer {
        self.handle(request)
    }

    fn work(&mut self, inbox: &Inbox) -> Option<Sent> {
        self.write_until_asked(inbox)
    }
}

/// Answers requests until nobody can send any more; without a listener, too. The answerer is an
/// earlier parameter than the server, so it is dropped after the handles.
fn serve(inbox: &Inbox, outbox: &SyncSender<Answer>, mut rhythm: Rhythm, _answerer: Answerer, mut server: impl Serve) {
    while let Some(Sent { request, asked }) = server.work(inbox).or_else(|| next(inbox, &rhythm)) {
        let sent = if let Request::Rows(offer) = &request { Some(offer.sent) } else { None };
        let started = Instant::now();
        let answer = server.answer(request);
        if let Some(sent) = sent {
            rhythm.beat(sent, started.elapsed());
        }
        let _ = outbox.send(answer);
        drop(asked);
    }
}

/// The next request; sleeps as long as there is no hurry, and then until it comes.
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

/// When mini-batches come.
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

    /// A mini-batch was sent at `at` and meant so much work.
    fn beat(&mut self, at: Instant, work: Duration) {
        if let Some(last) = self.last.replace(at) {
            self.intervals = [self.intervals[1], at.saturating_duration_since(last)];
        }
        self.work = work;
    }

    /// How long to sleep: until a quarter of an interval after the next one is due, so that it is there in spite of a step that is a little longer than
    /// others. `None` if there is no rhythm, or if the rest of the interval could be too short for the work.
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
    use burn_rehearsal_collective::Asked;

    const MS: Duration = Duration::from_millis(1);

    struct AlwaysFailed;

    impl Serve for AlwaysFailed {
        fn answer(&mut self, _request: Request) -> Answer {
            Ok(Response::Failed)
        }
    }

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
        assert_eq!(after(start, &[0, 20, 40, 1040, 2040], MS).pause(start + 2041 * MS), Some(1249 * MS));
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
            let (requests, inbox) = sync_channel(2);
            let (outbox, responses) = sync_channel(2);
            let rhythm = Rhythm { last: Some(Instant::now()), intervals: [hour; 2], work: MS };
            let engine = std::thread::spawn(move || serve(&inbox, &outbox, rhythm, Answerer::default(), AlwaysFailed));
            let mut link = Link::Background(Background {
                asker: Asker::default(),
                requests: requests.clone(),
                responses,
                engine: engine.thread().clone(),
                waited: Duration::ZERO,
            });
            let (done, answered) = sync_channel(1);
            std::thread::spawn(move || {
                // Whether the engine sleeps already or not, it must not sleep on.
                let answer = if wait {
                    requests.send(Sent { request: Request::Inspect, asked: Asked::default() }).unwrap();
                    link.receive()
                } else {
                    link.send(Request::Inspect).unwrap();
                    let Link::Background(link) = &link else { unreachable!() };
                    link.responses.recv().unwrap()
                };
                drop((link, requests));
                done.send(answer).unwrap();
            });
            assert!(matches!(answered.recv_timeout(Duration::from_secs(60)), Ok(Ok(Response::Failed))), "waiting: {wait}");
            engine.join().unwrap();
        }
    }
}
