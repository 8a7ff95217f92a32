//! Detects that no rank can proceed.
//!
//! A [`World`] counts what can move in this process:
//!
//! * a thread that owns a claim, unless it is known to wait. A *claim* is a handle or an [`Asker`].
//!   It belongs to the thread that used it last.
//! * the first handle of a rank before its first use: it is on its way to the thread that
//!   will.
//! * a thread that answers requests, from the first request until all answers have been sent. Its
//!   handles do not count.
//!
//! A thread is known to wait inside an operation that other ranks have not entered, and in
//! [`Asker::wait`]. In all other code it counts: user code, locks, channels, sleep. So a slow rank
//! is never reported, and a wait outside of this crate hides a deadlock. One program can be
//! reported by mistake: a thread gives a used handle away and waits, the receiver computes, and
//! another rank uses the same handle on the thread that used it before.
//!
//! The thread that ends a wait counts the waiting thread again, before that thread wakes up. So
//! when the count is 0, no operation in progress can be completed, and nothing can change that.

use std::collections::HashMap;
use std::fmt;
use std::sync::PoisonError;

use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering, ThreadId, fence, this_thread};

/// The lower half of the count is what can move. The upper half counts how often something began to
/// move.
const BEGAN: u64 = 1 << 32;

type Standstill = dyn Fn(&World) + Send + Sync;

/// The ranks of this process, as far as they can move.
pub(crate) struct World {
    count: AtomicU64,
    /// How many claims each thread owns.
    owners: Mutex<HashMap<ThreadId, usize>>,
    /// Called by the thread that was the last to move.
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

    /// What can move.
    pub(crate) fn movable(&self) -> u64 {
        self.count.load(Ordering::SeqCst) % BEGAN
    }

    /// The number of the standstill, if nothing can move. Never 0. It changes when something has
    /// moved.
    #[cfg(feature = "mpi")]
    pub(crate) fn standstill_number(&self) -> Option<u64> {
        let count = self.count.load(Ordering::SeqCst);
        count.is_multiple_of(BEGAN).then_some((count / BEGAN).max(1))
    }

    /// `number` more threads, handles or requests can move.
    pub(crate) fn begin(&self, number: usize) {
        if number > 0 {
            self.count.fetch_add(BEGAN + number as u64, Ordering::SeqCst);
        }
    }

    /// One can move no more. Returns true if it was the last: then call [`check`](Self::check)
    /// without holding a lock.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        self.count.fetch_sub(1, Ordering::SeqCst) % BEGAN == 1
    }

    /// Ends what waits, if nothing can move.
    pub(crate) fn check(&self) {
        (self.standstill)(self);
    }

    /// One can move no more. No lock is held.
    fn end_and_check(&self) {
        if self.end() {
            self.check();
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<ThreadId, usize>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose move a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Not used yet: it counts by itself.
    Unused,
    /// The thread that used it last.
    Thread(ThreadId),
    /// It does not count: the thread that answers requests uses it, and requests count instead.
    Uncounted,
}

/// A means to act in operations.
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

    /// The calling thread uses it now.
    pub(crate) fn touch(&mut self) {
        let this = Owner::Thread(this_thread());
        if self.owner != this && self.owner != Owner::Uncounted {
            self.give(this);
        }
    }

    /// Only the thread that answers the requests of the result uses it from now on.
    pub(crate) fn answer_requests(&mut self) -> (Asker, Answerer) {
        // In this order: the asker counts before this claim does not any more.
        let pair = Asker::new(self.world.clone());
        self.give(Owner::Uncounted);
        pair
    }

    fn give(&mut self, owner: Owner) {
        // The new owner first, so that the count is not 0 in between: the calling thread can move.
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
                // A thread that is known to wait keeps the claim that it waits with.
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

/// What both ends of requests share.
#[derive(Debug)]
struct Shared {
    world: Arc<World>,
    /// The request whose answer a thread waits for, counted from 1; 0 if none does.
    awaited: AtomicU64,
    /// Requests that are not over.
    requests: AtomicU64,
    /// The claim of an asker that is gone, until the thread that answers is gone, too.
    left: Mutex<Option<Claim>>,
}

impl Shared {
    /// Counts the thread that waits for the answer to this request, if one does and it has not been
    /// counted it yet.
    fn go_on(&self, request: u64) {
        if self.awaited.load(Ordering::SeqCst) != request {
            return;
        }
        // First: as soon as this is no longer awaited, the thread may stop again.
        self.world.begin(1);
        if !self.take_awaited(request) {
            self.world.end_and_check();
        }
    }

    /// No thread waits for the answer to this request any more; false if none did.
    fn take_awaited(&self, request: u64) -> bool {
        self.awaited.compare_exchange(request, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// Held by a thread that sends requests to a thread with a handle, for the detection of deadlocks.
///
/// Returned by [`Collective::answer_requests`](crate::Collective::answer_requests). The default
/// does nothing, for ranks that are not watched.
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

    /// An asker for other requests, which are answered in an order of their own.
    pub fn another(&self) -> Self {
        let Some(requests) = &self.0 else { return Self(None) };
        let (mut asker, _) = Self::new(requests.shared.world.clone());
        if let Some(requests) = &mut asker.0 {
            requests.served = false;
        }
        asker
    }

    /// Call it before a request is sent. The guard travels with the request.
    pub fn ask(&mut self) -> Asked {
        let mut asked = self.announce();
        asked.begin();
        asked
    }

    /// Like [`ask`](Self::ask), for a request that is answered by threads that count already.
    pub fn announce(&mut self) -> Asked {
        let Some(requests) = &mut self.0 else { return Asked(None) };
        requests.touch();
        requests.asked += 1;
        let awaited = Some((requests.shared.clone(), requests.asked));
        Asked(Some(Running { world: requests.shared.world.clone(), awaited, counted: false }))
    }

    /// Takes the next answer: with `poll` if it is there, otherwise with `block`, which waits for
    /// it. Call it once per request, in order.
    pub fn wait<T>(&mut self, mut poll: impl FnMut() -> Option<T>, block: impl FnOnce() -> T) -> T {
        let Some(requests) = &mut self.0 else { return poll().unwrap_or_else(block) };
        requests.answered += 1;
        if let Some(answer) = poll() {
            return answer;
        }
        requests.touch();
        let (shared, request) = (&requests.shared, requests.answered);
        shared.awaited.store(request, Ordering::SeqCst);
        // Either this thread sees the answer, or the guard of the request sees this thread wait.
        fence(Ordering::SeqCst);
        if let Some(answer) = poll() {
            if !shared.take_awaited(request) {
                // The guard has counted this thread, which had not stopped.
                shared.world.end_and_check();
            }
            return answer;
        }
        shared.world.end_and_check();
        let answer = block();
        shared.go_on(request);
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
        // The thread that answers is about to leave, on its own account.
        if let Some(mut claim) = self.claim.take().filter(|_| self.served) {
            claim.give(Owner::Unused);
            *self.shared.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(claim);
        }
    }
}

/// Held by the thread that answers requests. Drop it after the handles of that thread.
#[derive(Debug, Default)]
pub struct Answerer(Option<Arc<Shared>>);

impl Answerer {
    /// Work of this thread that no [`Asker`] waits for.
    pub fn work(&self) -> Asked {
        let Some(shared) = &self.0 else { return Asked(None) };
        let mut asked =
            Asked(Some(Running { world: shared.world.clone(), awaited: None, counted: false }));
        asked.begin();
        asked
    }
}

/// The guard of a request. The thread that answers drops it after it has sent the answer.
#[derive(Debug, Default)]
#[must_use = "the request is over when it is dropped"]
pub struct Asked(Option<Running>);

#[derive(Debug)]
struct Running {
    world: Arc<World>,
    /// Who may wait for the answer, and the number of the request there.
    awaited: Option<(Arc<Shared>, u64)>,
    counted: bool,
}

impl Asked {
    /// Somebody works on it from now on. Called by a thread that can move.
    fn begin(&mut self) {
        let Some(Running { world, awaited, counted }) = &mut self.0 else { return };
        *counted = true;
        world.begin(1);
        // The thread that answers counts once, whatever the number of requests.
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
        // The asker before the thread that answers, so that the count is not 0 in between.
        let last = match &self.awaited {
            Some((shared, number)) => {
                shared.go_on(*number);
                self.counted && shared.requests.fetch_sub(1, Ordering::SeqCst) == 1
            }
            None => self.counted,
        };
        if last {
            self.world.end_and_check();
        }
    }
}
