//! Looks at paths that may hang, each in a thread of its own: one that does not answer keeps nobody from the others.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long one that answered before is waited for; until it answers again it is told as it was.
const AGAIN_LIMIT: Duration = Duration::from_secs(1);
/// The same where nothing is known that could be told instead, such as after the start.
const FIRST_LIMIT: Duration = Duration::from_secs(5);
/// They do little, and there may be a thousand.
const STACK_BYTES: usize = 128 << 10;

/// What a look at each path finds, and found.
#[derive(Clone)]
pub(super) struct Looks<T> {
    shared: Arc<Shared<T>>,
    look: Arc<dyn Fn(&Path) -> T + Send + Sync>,
}

struct Shared<T> {
    places: Mutex<HashMap<PathBuf, Place<T>>>,
    ended: Condvar,
}

struct Place<T> {
    /// When the look that is under way began. It stays until it ends: another one would hang as well, in one more thread.
    since: Option<Instant>,
    last: Option<T>,
}

impl<T> fmt::Debug for Looks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

impl<T: Clone + Send + 'static> Looks<T> {
    pub(super) fn with(look: impl Fn(&Path) -> T + Send + Sync + 'static) -> Self {
        let shared = Shared { places: Mutex::default(), ended: Condvar::new() };
        Self { shared: Arc::new(shared), look: Arc::new(look) }
    }

    /// Looks at all of these at once. What does not answer within its limit is told as it was last, or as `None`.
    pub(super) fn at<'p>(&self, paths: impl IntoIterator<Item = &'p Path>) -> Vec<Option<T>> {
        let paths: Vec<&Path> = paths.into_iter().collect();
        for path in &paths {
            self.begin(path);
        }
        paths.into_iter().map(|path| self.wait(path)).collect()
    }

    fn wait(&self, path: &Path) -> Option<T> {
        let mut places = self.shared.lock();
        while let Some(left) = places.get(path).and_then(Place::left) {
            places = self.shared.ended.wait_timeout(places, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let place = places.get(path)?;
        if place.since.is_some() {
            tracing::warn!(path = %path.display(), "a disk does not answer");
        }
        place.last.clone()
    }

    fn begin(&self, path: &Path) {
        {
            let mut places = self.shared.lock();
            let place = places.entry(path.to_owned()).or_insert(Place { since: None, last: None });
            if place.since.is_some() {
                return;
            }
            place.since = Some(Instant::now());
        }
        let (shared, look, path) = (Arc::clone(&self.shared), Arc::clone(&self.look), path.to_owned());
        let end = Ending { shared, path };
        let started = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let seen = look(&end.path);
            if let Some(place) = end.shared.lock().get_mut(&end.path) {
                place.last = Some(seen);
            }
            drop(end);
        });
        if let Err(error) = started {
            // Dropped with what it should have done, which ended the look.
            tracing::warn!(%error, "cannot look at a disk");
        }
    }
}

impl<T> Place<T> {
    /// How long it may still be waited for.
    fn left(&self) -> Option<Duration> {
        let limit = if self.last.is_some() { AGAIN_LIMIT } else { FIRST_LIMIT };
        let left = limit.saturating_sub(self.since?.elapsed());
        (!left.is_zero()).then_some(left)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Place<T>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a look, whatever becomes of its thread.
struct Ending<T> {
    shared: Arc<Shared<T>>,
    path: PathBuf,
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        if let Some(place) = self.shared.lock().get_mut(&self.path) {
            place.since = None;
        }
        self.shared.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_hangs_keeps_nobody_waiting_twice_and_is_told_as_it_was() {
        let (begun, hangs) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
        let held = hangs.lock().unwrap();
        let looks = Looks::with({
            let (begun, hangs) = (Arc::clone(&begun), Arc::clone(&hangs));
            move |path| {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                // The first look at "slow" answers.
                if path == Path::new("dead") || path == Path::new("slow") && number > 2 {
                    drop(hangs.lock());
                }
                number
            }
        });
        let (good, slow, dead) = (Path::new("good"), Path::new("slow"), Path::new("dead"));
        assert_eq!(looks.at([good]), [Some(0)]);
        assert_eq!(looks.at([slow]), [Some(1)]);
        assert_eq!(looks.at([good]), [Some(2)]);
        let began = Instant::now();
        let seen = looks.at([dead, slow, good]);
        assert!((FIRST_LIMIT..FIRST_LIMIT * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!((seen[0], seen[1]), (None, Some(1)));
        assert!(seen[2] > Some(2), "{seen:?}");
        let began = Instant::now();
        for _ in 0..10 {
            assert_eq!(looks.at([dead, slow]), [None, Some(1)]);
        }
        assert!(began.elapsed() < AGAIN_LIMIT, "{:?}", began.elapsed());
        assert_eq!(begun.load(Ordering::SeqCst), 6, "one look at a time at each");
        drop(held);
        // It answers: from now on it is looked at like any other.
        let answered = |path| {
            (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                looks.at([path])[0] > Some(5)
            })
        };
        assert!(answered(dead) && answered(slow));
    }

    #[test]
    fn a_look_that_panics_has_ended() {
        let looks: Looks<()> = Looks::with(|_| panic!("in its thread"));
        let began = Instant::now();
        assert_eq!(looks.at([Path::new("a")]), [None]);
        assert!(began.elapsed() < FIRST_LIMIT);
    }
}
