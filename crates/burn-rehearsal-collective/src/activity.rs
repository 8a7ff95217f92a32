//! Detects that no rank can proceed.
//!
//! A [`World`] counts what can proceed in this process:
//!
//! * a thread that owns a claim, unless it is known to wait. A *claim* is a handle or an [`Asker`].
//!   It belongs to the thread that used it last.
//! * the first handle of a rank before its first use, because the thread that will use it is not
//!   known yet.
//! * a thread that answers requests, from the first request until it has sent all answers. Its
//!   handles do not count.
//!
//! A thread is known to wait inside an operation that other ranks have not entered, and in
//! [`Asker::wait`]. It counts in all other code: user code, locks, channels, sleep. Therefore a
//! slow rank is never reported, and a wait outside of this crate hides a deadlock. One kind of
//! program is reported by mistake: a thread gives a used handle away and waits, the receiver
//! computes, and another rank uses the same handle on the thread that used it before.
//!
//! The thread that ends a wait counts the waiting thread before that thread wakes up. When the
//! count is 0, no operation in progress can be completed, and this cannot change.

use std::collections::HashMap;
use std::fmt;
use std::sync::PoisonError;

use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, ThreadId, fence, this_thread};

/// The lower half of the count is the number of what can proceed. The upper half counts how often
/// this number was increased.
const BEGAN: u64 = 1 << 32;

type Standstill = dyn Fn(&World) + Send + Sync;

/// Counts what can proceed in the ranks of this process.
pub(crate) struct World {
    count: AtomicU64,
    /// The number of claims that each thread owns.
    owners: Mutex<HashMap<ThreadId, usize>>,
    /// Called by the last thread that could proceed.
    standstill: Box<Standstill>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("movable", &self.movable()).finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(standstill: impl Fn(&Self) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            count: AtomicU64::new(0),
            owners: Mutex::new(HashMap::new()),
            standstill: Box::new(standstill),
        })
    }

    /// The number of threads, handles and requests that can proceed.
    pub(crate) fn movable(&self) -> u64 {
        self.count.load(Ordering::SeqCst) % BEGAN
    }

    /// The number of the standstill, if nothing can proceed. It is never 0, and changes whenever
    /// something has proceeded.
    #[cfg(feature = "mpi")]
    pub(crate) fn standstill_number(&self) -> Option<u64> {
        let count = self.count.load(Ordering::SeqCst);
        count.is_multiple_of(BEGAN).then_some((count / BEGAN).max(1))
    }

    /// Counts `number` more threads, handles or requests.
    pub(crate) fn begin(&self, number: usize) {
        if number > 0 {
            self.count.fetch_add(BEGAN + number as u64, Ordering::SeqCst);
        }
    }

    /// Counts one less. Returns true if it was the last one. The caller must then call
    /// [`check`](Self::check) without holding a lock.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        self.count.fetch_sub(1, Ordering::SeqCst) % BEGAN == 1
    }

    /// Ends all waits if nothing can proceed.
    pub(crate) fn check(&self) {
        (self.standstill)(self);
    }

    /// [`end`](Self::end) and [`check`](Self::check), for a caller that holds no lock.
    fn end_and_check(&self) {
        if self.end() {
            self.check();
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<ThreadId, usize>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// No thread has used the claim, which counts on its own.
    Unused,
    /// The thread that used the claim last.
    Thread(ThreadId),
    /// The claim does not count. The thread that answers requests uses it, and requests count.
    Uncounted,
}

/// A handle or an [`Asker`], with the thread that it belongs to.
#[derive(Debug)]
pub(crate) struct Claim {
    world: Arc<World>,
    owner: Owner,
}

impl Claim {
    pub(crate) fn new(world: Arc<World>) -> Self {
        world.begin(1);
        Self { world, owner: Owner::Unused }
    }

    pub(crate) fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Makes the calling thread the owner.
    pub(crate) fn touch(&mut self) {
        let this = Owner::Thread(this_thread());
        if self.owner != this && self.owner != Owner::Uncounted {
            self.give(this);
        }
    }

    /// Leaves the claim to the thread that answers the requests of the returned asker.
    pub(crate) fn answer_requests(&mut self) -> (Asker, Answerer) {
        // In this order, so that the asker counts before this claim stops counting.
        let pair = Asker::new(self.world.clone());
        self.give(Owner::Uncounted);
        pair
    }

    fn give(&mut self, owner: Owner) {
        // The new owner first, so that the count is not 0 in between.
        match owner {
            Owner::Unused => self.world.begin(1),
            Owner::Thread(thread) => {
                let mut owners = self.world.owners();
                let claims = owners.entry(thread).or_insert(0);
                *claims += 1;
                if *claims == 1 {
                    self.world.begin(1);
                }
            }
            Owner::Uncounted => {}
        }
        let last = match std::mem::replace(&mut self.owner, owner) {
            Owner::Unused => self.world.end(),
            Owner::Thread(thread) => {
                let mut owners = self.world.owners();
                let claims = owners.get_mut(&thread).map_or(0, |claims| {
                    *claims -= 1;
                    *claims
                });
                // A thread that is known to wait still owns the claim that it waits with.
                claims == 0 && owners.remove(&thread).is_some() && self.world.end()
            }
            Owner::Uncounted => false,
        };
        if last {
            self.world.check();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give(Owner::Uncounted);
    }
}

/// The state that an [`Asker`] shares with its [`Answerer`] and its requests.
#[derive(Debug)]
struct Shared {
    world: Arc<World>,
    /// The request whose answer a thread waits for, counted from 1, or 0.
    awaited: AtomicU64,
    /// The number of requests in progress.
    requests: AtomicU64,
    /// The claim of a dropped asker, until the answerer is dropped.
    left: Mutex<Option<Claim>>,
}

impl Shared {
    /// Counts the thread that waits for the answer to this request, if there is one that is not
    /// counted yet.
    fn end_wait(&self, request: u64) {
        if self.awaited.load(Ordering::SeqCst) != request {
            return;
        }
        // Count first. Once the request is not awaited, the thread may already wait again.
        self.world.begin(1);
        if !self.take_awaited(request) {
            self.world.end_and_check();
        }
    }

    /// Marks the request as not awaited. Returns false if it was not awaited.
    fn take_awaited(&self, request: u64) -> bool {
        self.awaited.compare_exchange(request, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The end of a thread that sends requests to a thread with a handle, for the detection of
/// deadlocks.
///
/// [`Collective::answer_requests`](crate::Collective::answer_requests) returns it. The default
/// value does nothing and serves where deadlocks are not detected.
///
/// ```
/// # use burn_rehearsal_collective::{Collective, Solo};
/// # use std::{sync::mpsc::channel, thread};
/// # let mut ranks = Solo::new();
/// let (mut asker, answerer) = ranks.answer_requests();
/// let (requests, inbox) = channel();
/// let (outbox, answers) = channel();
/// thread::spawn(move || {
///     // Each request ends after its answer.
///     inbox.iter().for_each(|_asked| outbox.send(ranks.barrier()).unwrap());
///     drop((ranks, answerer));
/// });
/// requests.send(asker.ask()).unwrap();
/// asker.wait(|| answers.try_recv().ok(), || answers.recv().unwrap())?;
/// # Ok::<(), burn_rehearsal_collective::CollectiveError>(())
/// ```
#[derive(Debug, Default)]
pub struct Asker(Option<Requests>);

#[derive(Debug)]
struct Requests {
    claim: Option<Claim>,
    shared: Arc<Shared>,
    asked: u64,
    answered: u64,
    /// Whether there is an [`Answerer`].
    served: bool,
}

impl Asker {
    fn new(world: Arc<World>) -> (Self, Answerer) {
        let mut claim = Claim::new(world.clone());
        claim.touch();
        let shared = Arc::new(Shared {
            world,
            awaited: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            left: Mutex::new(None),
        });
        let answerer = Answerer(Some(shared.clone()));
        (
            Self(Some(Requests {
                claim: Some(claim),
                shared,
                asked: 0,
                answered: 0,
                served: true,
            })),
            answerer,
        )
    }

    /// Makes an asker for requests that are answered in an order of their own.
    pub fn another(&self) -> Self {
        let Some(requests) = &self.0 else { return Self(None) };
        let (mut asker, _) = Self::new(requests.shared.world.clone());
        if let Some(requests) = &mut asker.0 {
            requests.served = false;
        }
        asker
    }

    /// Announces a request before it is sent. The returned guard travels with the request.
    pub fn ask(&mut self) -> Asked {
        let mut asked = self.announce();
        asked.begin();
        asked
    }

    /// Like [`ask`](Self::ask), for a request whose answering threads already count.
    pub fn announce(&mut self) -> Asked {
        let Some(requests) = &mut self.0 else { return Asked(None) };
        requests.touch();
        requests.asked += 1;
        let awaited = Some((requests.shared.clone(), requests.asked));
        Asked(Some(Running { world: requests.shared.world.clone(), awaited, counted: false }))
    }

    /// Returns the next answer: from `poll` if it has arrived, otherwise from `block`, which waits
    /// for it. Call it once per request, in order.
    pub fn wait<T>(&mut self, mut poll: impl FnMut() -> Option<T>, block: impl FnOnce() -> T) -> T {
        let Some(requests) = &mut self.0 else { return poll().unwrap_or_else(block) };
        requests.answered += 1;
        if let Some(answer) = poll() {
            return answer;
        }
        requests.touch();
        let (shared, request) = (&requests.shared, requests.answered);
        shared.awaited.store(request, Ordering::SeqCst);
        // Either this thread sees the answer, or the request's guard sees that this thread waits.
        fence(Ordering::SeqCst);
        if let Some(answer) = poll() {
            if !shared.take_awaited(request) {
                // The guard has counted this thread, which still counted.
                shared.world.end_and_check();
            }
            return answer;
        }
        shared.world.end_and_check();
        let answer = block();
        shared.end_wait(request);
        answer
    }
}

impl Requests {
    fn touch(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.touch();
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // The thread that answers has yet to drop its handles. Until then it can proceed.
        if let Some(mut claim) = self.claim.take().filter(|_| self.served) {
            claim.give(Owner::Unused);
            *self.shared.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(claim);
        }
    }
}

/// The end of the thread that answers requests, see [`Asker`].
///
/// Drop it after the handles of that thread.
#[derive(Debug, Default)]
pub struct Answerer(Option<Arc<Shared>>);

impl Answerer {
    /// Announces work of this thread that no [`Asker`] waits for.
    pub fn work(&self) -> Asked {
        let Some(shared) = &self.0 else { return Asked(None) };
        let mut asked =
            Asked(Some(Running { world: shared.world.clone(), awaited: None, counted: false }));
        asked.begin();
        asked
    }
}

/// The guard of a request. The answering thread drops it after it has sent the answer.
#[derive(Debug, Default)]
#[must_use = "the request ends when the guard is dropped"]
pub struct Asked(Option<Running>);

#[derive(Debug)]
struct Running {
    world: Arc<World>,
    /// The asker that may wait for the answer, and the number of its request.
    awaited: Option<(Arc<Shared>, u64)>,
    counted: bool,
}

impl Asked {
    /// Counts the request. The calling thread can proceed.
    fn begin(&mut self) {
        let Some(Running { world, awaited, counted }) = &mut self.0 else { return };
        *counted = true;
        world.begin(1);
        // The answering thread counts once for all its requests.
        if awaited
            .as_ref()
            .is_some_and(|(shared, _)| shared.requests.fetch_add(1, Ordering::SeqCst) > 0)
        {
            world.end_and_check();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        fence(Ordering::SeqCst);
        // The asker before the answering thread, so that the count is not 0 in between.
        let last = match &self.awaited {
            Some((shared, number)) => {
                shared.end_wait(*number);
                self.counted && shared.requests.fetch_sub(1, Ordering::SeqCst) == 1
            }
            None => self.counted,
        };
        if last {
            self.world.end_and_check();
        }
    }
}
