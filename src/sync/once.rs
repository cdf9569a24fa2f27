//! `OnceLock` and `LazyLock`: values that are made on first use.

use std::fmt;
use std::ops::Deref;

use super::{RLock, RLockGuard};

/// A value that is set once, for good.
///
/// It is [`std::sync::OnceLock`], except that the function which makes the value
/// may block: greenlets that come meanwhile wait for it, and the others of their
/// threads go on. (With std's, the second greenlet of a thread would block the
/// first one too, for ever.)
///
/// # Examples
/// ```
/// use greenlet::sync::OnceLock;
///
/// static CONFIG: OnceLock<String> = OnceLock::new();
///
/// let config = CONFIG.get_or_init(|| {
///     greenlet::yield_now(); // ask a server
///     "fast".to_string()
/// });
/// assert_eq!(config, "fast");
/// assert_eq!(CONFIG.set("slow".to_string()), Err("slow".to_string()));
/// ```
#[doc(alias = "OnceCell")]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    /// Held by the one who makes the value; nobody else writes.
    lock: RLock,
}

impl<T> OnceLock<T> {
    /// One without a value.
    #[must_use]
    pub const fn new() -> OnceLock<T> {
        OnceLock {
            value: std::sync::OnceLock::new(),
            lock: RLock::new(),
        }
    }

    /// The value, if it is there. Never blocks.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, which nobody else can have.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.value.get_mut()
    }

    /// Sets the value; waits while somebody else is making it.
    ///
    /// # Errors
    /// The value, if there is one already.
    ///
    /// # Panics
    /// If it is called by the function that makes this value.
    pub fn set(&self, value: T) -> Result<(), T> {
        match self.lock() {
            Some(_lock) => self.value.set(value),
            None => Err(value),
        }
    }

    /// The value. If it is not there, `make` makes it; only one greenlet does
    /// that at a time. If `make` unwinds, by a panic or a kill, there still is no
    /// value, and the next who waits makes it.
    ///
    /// # Panics
    /// If `make` needs the value itself, and if it panics.
    #[inline]
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        match self.get() {
            Some(value) => value,
            None => self.init(make),
        }
    }

    #[cold]
    fn init(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(_lock) = self.lock() {
            let value = make();
            // Nobody else can have set it.
            return self.value.get_or_init(|| value);
        }
        match self.get() {
            Some(value) => value,
            None => unreachable!("the lock is refused when there is a value"),
        }
    }

    /// Takes the lock, to write. None: there is a value.
    fn lock(&self) -> Option<RLockGuard<'_>> {
        assert!(
            !self.lock.is_owned(),
            "the function that makes the value of a OnceLock needs that value"
        );
        let lock = self.lock.lock();
        self.get().is_none().then_some(lock)
    }

    /// The value, if it is there.
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }

    /// Takes the value out, so that another one can be set.
    pub fn take(&mut self) -> Option<T> {
        self.value.take()
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> OnceLock<T> {
        OnceLock::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnceLock")
            .field("value", &self.get())
            .finish()
    }
}

/// A value that is made when it is first used.
///
/// It is [`std::sync::LazyLock`], except that its function may block, as that of
/// a [`OnceLock`]; and that it is called again by the next who needs the value
/// if it has unwound, by a panic or a kill, where std's is poisoned. So it is an
/// `Fn`.
///
/// # Examples
/// ```
/// use greenlet::sync::LazyLock;
///
/// static PRIMES: LazyLock<Vec<u32>> = LazyLock::new(|| {
///     greenlet::yield_now();
///     vec![2, 3, 5, 7]
/// });
/// assert_eq!(PRIMES.len(), 4);
/// ```
pub struct LazyLock<T, F = fn() -> T> {
    value: OnceLock<T>,
    make: F,
}

impl<T, F: Fn() -> T> LazyLock<T, F> {
    /// A value that `make` will make.
    #[must_use]
    pub const fn new(make: F) -> LazyLock<T, F> {
        LazyLock {
            value: OnceLock::new(),
            make,
        }
    }

    /// The value, made now if it is not there.
    ///
    /// # Panics
    /// As [`OnceLock::get_or_init`].
    #[inline]
    pub fn force(this: &LazyLock<T, F>) -> &T {
        this.value.get_or_init(&this.make)
    }
}

impl<T, F: Fn() -> T> Deref for LazyLock<T, F> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        LazyLock::force(self)
    }
}

impl<T: fmt::Debug, F> fmt::Debug for LazyLock<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazyLock")
            .field("value", &self.value.get())
            .finish()
    }
}
