//! One task owns one branch's life; everyone else sends it messages.
//!
//! ```text
//!            open                    last session gone, idle_timeout over
//!  Asleep ──────────► Awake ──────────────────────────────────► Asleep
//!    ▲                │   ▲ open, or idle_timeout over (recovers, to be uploaded)
//!    │     server died▼   │
//!    └───────────── Down ─┘      Down: state on this disk, opened, no compute
//!                     ▲ tried again every RETRY
//!                 Stranded       state on this disk that cannot be opened or unmounted now
//! ```
//!
//! The task handles one message at a time, so a branch is provisioned once however many ask: the others wait in the
//! queue and find it awake. A client that went away does not stop what was begun for it; one that comes breaks off the suspend of an idle branch.

use super::awake::blocking;
use super::boot;
use super::error::{BranchError, LifecycleError, answer_within};
use super::hold::{HoldError, Settled};
use super::place::Place;
use super::provision::{self, Down, Up};
use super::save::{Saved, Saving};
use super::sessions::Sessions;
use super::shared::Shared;
use super::suspend;
use super::{Session, Status};
use crate::model::BranchRef;
use crate::model::fault::{self, FaultPoint};
use crate::store::Held;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Clients that may wait for one branch at once; the next one waits before it is queued.
const QUEUE: usize = 256;
/// How often in a row a compute that died is started again without anyone asking, each time after a second more.
const RESTARTS: u32 = 3;
/// How long until what could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// How long the store may take to answer before an idle branch stays awake instead of being suspended.
pub(super) const STORE_ANSWERS: Duration = Duration::from_secs(3);

pub(super) enum Message {
    Open(oneshot::Sender<Result<Session, BranchError>>),
    /// Suspend now, whatever the sessions; the node is stopping or a user asked.
    Suspend(oneshot::Sender<Result<(), BranchError>>),
}

/// The other end of a branch's task.
#[derive(Clone)]
pub(super) struct TaskHandle {
    pub messages: mpsc::Sender<Message>,
    pub status: watch::Receiver<Status>,
    pub sessions: Arc<Sessions>,
}

pub(super) enum State {
    Asleep,
    Awake(Box<Up>),
    Down(Box<Down>),
    Stranded(Box<Held>),
}

pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) branch: BranchRef,
    idle_timeout: Duration,
    pub(super) sessions: Arc<Sessions>,
    status: watch::Sender<Status>,
    idle_since: Instant,
    restarts: u32,
    /// Suspends in a row that were broken off.
    pub(super) broken_off: u32,
    /// How often the branch is uploaded while it is awake; `None`: never.
    upload_interval: Option<Duration>,
    pub(super) uploads: Uploads,
    /// When the lease is renewed next.
    renewal: Instant,
}

/// Uploads of the branch while it is awake.
pub(super) struct Uploads {
    pub(super) next: Instant,
    running: Option<Saving>,
    /// Where the WAL stood after the last one.
    wal_position: Option<u64>,
}

/// Starts the task of a branch. With `held`, the branch was left on this node's disk by a daemon that was killed.
pub(super) fn spawn(shared: Arc<Shared>, branch: BranchRef, held: Option<Held>) -> TaskHandle {
    let project = shared.projects.get(&branch.project);
    let idle_timeout = project.map_or(Duration::ZERO, |project| project.idle_timeout);
    let upload_interval = project.and_then(|project| project.upload_interval);
    let (messages, receiver) = mpsc::channel(QUEUE);
    let (status, watched) = watch::channel(if held.is_some() { Status::Recovering } else { Status::Asleep });
    let sessions = Arc::new(Sessions::default());
    let task = Task {
        shared,
        branch,
        idle_timeout,
        sessions: sessions.clone(),
        status,
        idle_since: Instant::now(),
        restarts: 0,
        broken_off: 0,
        upload_interval,
        uploads: Uploads { next: Instant::now(), running: None, wal_position: None },
        renewal: Instant::now(),
    };
    tokio::spawn(task.run(receiver, held));
    TaskHandle { messages, status: watched, sessions }
}

impl Task {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>, held: Option<Held>) {
        let mut state = match held {
            Some(held) => self.adopt(held).await,
            None => State::Asleep,
        };
        loop {
            let idle_left = self.idle_timeout.saturating_sub(self.idle_since.elapsed());
            let has_sessions = self.sessions.count() > 0;
            let may_sleep = !has_sessions && !matches!(state, State::Asleep | State::Stranded(_));
            let sessions = self.sessions.clone();
            let may_upload = self.upload_interval.is_some() && matches!(state, State::Awake(_));
            let holds = matches!(state, State::Awake(_) | State::Down(_));
            let (next_upload, renewal) = (self.uploads.next, self.renewal);
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Open(reply)) => state = self.open(state, reply).await,
                    Some(Message::Suspend(reply)) => {
                        let (next, outcome) = self.suspend(state, std::future::pending()).await;
                        state = next;
                        // A caller that went away does not care.
                        let _ = reply.send(outcome);
                    }
                    None => return,
                },
                exit = ended(&mut state) => {
                    tracing::error!(branch = %self.branch, exit, "a compute died");
                    state = self.recover(state).await;
                }
                () = tokio::time::sleep(RETRY), if matches!(state, State::Stranded(_)) => {
                    if let State::Stranded(held) = state {
                        state = self.adopt(*held).await;
                    }
                }
                () = tokio::time::sleep_until(renewal.into()), if holds => state = self.renew(state).await,
                () = tokio::time::sleep_until(next_upload.into()), if may_upload && self.uploads.running.is_none() => {
                    self.begin_upload(&state);
                }
                outcome = upload_ended(&mut self.uploads.running) => state = self.publish(state, outcome).await,
                () = sessions.ended() => self.idle_since = Instant::now(),
                () = tokio::time::sleep(idle_left), if may_sleep => {
                    // A session that ended meanwhile has reset the clock: its event may still be in the queue.
                    state = self.fall_asleep(state).await;
                    self.idle_since = Instant::now();
                }
            }
        }
    }

    /// Brings up what a killed daemon left: only the branch itself knows its roles, and only a clean stop lets it be uploaded.
    async fn adopt(&mut self, mut held: Held) -> State {
        let shared = self.shared.clone();
        let _turn = shared.adoptions.acquire().await;
        let recovered = match shared.hold.confirm(&mut held).await {
            Ok(()) => provision::recover_down(&self.shared, &self.branch, held.clone()).await,
            Err(HoldError::Lost) => return self.set_aside(Place::of(&shared.data_dir, &held.head.id)).await,
            Err(error) => Err(error.into()),
        };
        let state = match recovered {
            Ok(down) => self.start_again(Box::new(down)).await.0,
            Err(error) => {
                tracing::error!(branch = %self.branch, %error, "what is on this node's disk of a branch cannot be opened; trying again");
                State::Stranded(Box::new(held))
            }
        };
        self.announce_state(&state);
        (self.idle_since, self.renewal) = (Instant::now(), Instant::now());
        state
    }

    /// Keeps the lease; a branch that turns out to be another node's is let go.
    pub(super) async fn renew(&mut self, mut state: State) -> State {
        self.renewal = Instant::now() + self.shared.hold.renewal();
        let held = match &mut state {
            State::Awake(up) => &mut up.held,
            // Nothing may touch a head whose last put is in doubt.
            State::Down(down) if !down.in_doubt => &mut down.held,
            _ => return state,
        };
        match answer_within(STORE_ANSWERS, self.shared.hold.update(held, |_| ())).await {
            Ok(()) => state,
            Err(HoldError::Lost) => self.let_go(state).await,
            Err(error) => {
                tracing::warn!(branch = %self.branch, %error, "a lease cannot be renewed; the branch goes on");
                state
            }
        }
    }

    /// Another node has the branch: nobody here may read or write it any more. What was not uploaded is kept aside.
    async fn let_go(&mut self, state: State) -> State {
        let place = match state {
            State::Awake(up) => {
                let place = up.place.clone();
                // Kills the compute and cuts off its mount, before anything is waited for: an upload under way may be at its checkpoint.
                if let Err(error) = blocking(move || {
                    drop(up);
                    Ok(())
                })
                .await
                {
                    tracing::warn!(branch = %self.branch, %error, "while stopping what another node has taken over");
                }
                place
            }
            State::Down(down) => down.place.clone(),
            state => return state,
        };
        self.end_upload().await;
        self.set_aside(place).await
    }

    async fn set_aside(&mut self, place: Place) -> State {
        let shared = self.shared.clone();
        let aside = blocking(move || place.set_aside(&shared.data_dir)).await;
        let kept = aside.map_or_else(|error| error.to_string(), |aside| aside.display().to_string());
        tracing::error!(branch = %self.branch, kept, "another node has taken a branch over; it is stopped here, and what it had not uploaded is kept aside");
        self.announce(Status::Asleep);
        State::Asleep
    }

    fn begin_upload(&mut self, state: &State) {
        let (State::Awake(up), Some(interval)) = (state, self.upload_interval) else { return };
        self.uploads.next = Instant::now() + interval;
        self.uploads.running = Some(Saving::begin(self.shared.clone(), up, self.uploads.wal_position));
    }

    pub(super) async fn end_upload(&mut self) {
        if let Some(saving) = self.uploads.running.take() {
            saving.cancel().await;
        }
    }

    /// Names in the head what was uploaded of an awake branch.
    async fn publish(&mut self, mut state: State, outcome: Result<Option<Saved>, LifecycleError>) -> State {
        let State::Awake(up) = &mut state else { return state };
        let saved = match outcome {
            Ok(Some(saved)) => saved,
            Ok(None) => return state,
            Err(error) => {
                tracing::warn!(branch = %self.branch, %error, "an awake branch cannot be uploaded; trying again");
                return state;
            }
        };
        let uploaded = (saved.reference.clone(), saved.own_bytes, saved.at_ms);
        // What a put that seemed to fail has published is carried again.
        match answer_within(STORE_ANSWERS, self.shared.hold.publish_upload(&mut up.held, uploaded)).await {
            Ok(()) => {
                fault::pass(FaultPoint::UploadPublished);
                self.uploads.wal_position = Some(saved.wal_position);
                tracing::info!(branch = %self.branch, own_bytes = saved.own_bytes, "uploaded an awake branch");
                saved.published();
                state
            }
            Err(HoldError::Lost) => self.let_go(state).await,
            Err(error) => {
                tracing::warn!(branch = %self.branch, %error, "an upload cannot be published; trying again");
                state
            }
        }
    }

    async fn open(&mut self, state: State, reply: oneshot::Sender<Result<Session, BranchError>>) -> State {
        let (state, outcome) = match state {
            State::Awake(up) => (State::Awake(up), Ok(())),
            State::Asleep => {
                self.announce(Status::Waking);
                match provision::bring_up(&self.shared, &self.branch).await {
                    Ok(up) => (State::Awake(Box::new(up)), Ok(())),
                    Err(e) => (State::Asleep, Err(e)),
                }
            }
            State::Down(down) => self.start_again(down).await,
            State::Stranded(held) => match self.adopt(*held).await {
                State::Awake(up) => (State::Awake(up), Ok(())),
                state => (state, Err(self.cannot_start("its data on this node cannot be opened"))),
            },
        };
        if outcome.is_ok() {
            self.restarts = 0;
        }
        self.announce_state(&state);
        self.idle_since = Instant::now();
        let session = match (&state, outcome) {
            (State::Awake(up), Ok(())) => Ok(self.session(up)),
            (_, Err(e)) => Err(e),
            (_, Ok(())) => Err(self.cannot_start("it went down again")),
        };
        // A client that went away: its session ends as it is dropped.
        let _ = reply.send(session);
        state
    }

    fn cannot_start(&self, reason: &str) -> BranchError {
        BranchError::Start { branch: self.branch.to_string(), reason: reason.to_owned() }
    }

    fn session(&self, up: &Up) -> Session {
        let volume = up.awake.volume();
        if volume.is_recording() && self.sessions.count() == 0 {
            let volume = Arc::downgrade(volume);
            tokio::spawn(async move {
                tokio::time::sleep(boot::START).await;
                if let Some(volume) = volume.upgrade() {
                    boot::recorded(&volume).await;
                }
            });
        }
        self.sessions.begin();
        Session::new(up.awake.compute.socket().to_owned(), self.sessions.clone())
    }

    pub(super) async fn start_again(&mut self, mut down: Box<Down>) -> (State, Result<(), BranchError>) {
        let started = Instant::now();
        self.announce(Status::Recovering);
        match suspend::settle(&self.shared, &self.branch, &mut down).await {
            Ok(Settled::Held) => {}
            Ok(Settled::Asleep) => {
                return match provision::bring_up(&self.shared, &self.branch).await {
                    Ok(up) => (State::Awake(Box::new(up)), Ok(())),
                    Err(e) => (State::Asleep, Err(e)),
                };
            }
            Err(error) => {
                tracing::error!(branch = %self.branch, %error, "whether a branch was published is not known; it stays down");
                return (State::Down(down), Err(error.of_branch(&self.branch)));
            }
        }
        match provision::start_again(&self.shared, *down).await {
            Ok(up) => {
                tracing::info!(branch = %self.branch, how = "recovered", millis = started.elapsed().as_millis(), "branch awake");
                (State::Awake(Box::new(up)), Ok(()))
            }
            Err((down, error)) => {
                tracing::error!(branch = %self.branch, %error, "a branch cannot be started again; its data stays on this node");
                (State::Down(down), Err(error.of_branch(&self.branch)))
            }
        }
    }

    /// The server died under its sessions. They end by themselves; the branch is brought back.
    async fn recover(&mut self, state: State) -> State {
        let State::Awake(up) = state else { return state };
        self.announce(Status::Recovering);
        self.end_upload().await;
        let held = up.held.clone();
        let down = match suspend::take_down(*up).await {
            Ok((down, _)) => Box::new(down),
            Err(error) => {
                tracing::error!(branch = %self.branch, %error, "cannot take down what is left of a compute; trying again");
                return State::Stranded(Box::new(held));
            }
        };
        tokio::time::sleep(Duration::from_secs(self.restarts.into())).await;
        self.restarts += 1;
        if self.restarts > RESTARTS {
            self.announce(Status::Down { own_pages: down.volume.own_pages() });
            return State::Down(down);
        }
        let (state, _) = self.start_again(down).await;
        self.announce_state(&state);
        state
    }

    pub(super) fn announce_state(&mut self, state: &State) {
        if matches!(state, State::Awake(_)) && !matches!(*self.status.borrow(), Status::Awake(_)) {
            let now = Instant::now();
            let next = now + self.upload_interval.unwrap_or(Duration::ZERO);
            self.uploads = Uploads { next, running: None, wal_position: None };
            self.renewal = now + self.shared.hold.renewal();
        }
        self.announce(match state {
            State::Asleep => Status::Asleep,
            // Nobody knows its roles but itself: logins wait.
            State::Stranded(_) => Status::Recovering,
            State::Down(down) => Status::Down { own_pages: down.volume.own_pages() },
            State::Awake(up) => Status::Awake(super::AwakeStatus {
                socket: up.awake.compute.socket().to_owned(),
                superuser: up.base.manifest.cluster.superuser.clone(),
                volume: Arc::downgrade(up.awake.volume()),
                stored_bytes: up.held.head.own_bytes,
            }),
        });
    }

    pub(super) fn announce(&self, status: Status) {
        self.status.send_replace(status);
    }
}

/// The outcome of the upload under way, once; never while there is none.
async fn upload_ended(running: &mut Option<Saving>) -> Result<Option<Saved>, LifecycleError> {
    let outcome = match running {
        Some(saving) => saving.ended().await,
        None => std::future::pending().await,
    };
    *running = None;
    outcome
}

/// Resolves with a description when the compute ends by itself; never while there is none.
async fn ended(state: &mut State) -> String {
    match state {
        State::Awake(up) => up.awake.compute.ended().await.description,
        _ => std::future::pending().await,
    }
}
