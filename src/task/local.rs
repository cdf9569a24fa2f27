//! `greenlet_local!`: variables of which every greenlet has its own.
//!
//! The values hang on the greenlet's task, in a short list that is searched by
//! the variable's address. Each value is in a box of its own, and whoever uses
//! it holds a count of that box: so the list may grow and shrink meanwhile.

use std::any::{TypeId, type_name};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use crate::error::AccessError;
use crate::hub::{Hub, Local, LocalValue, TaskRef};

/// Declares variables of which every greenlet has its own, in the shape of
/// [`std::thread_local!`].
///
/// Each declaration makes a `static` of type [`GreenletLocal`]. The initialiser
/// runs in a greenlet when that first uses the variable; it may block. A
/// spawned greenlet inherits nothing: it starts with the initialisers.
///
/// The values are dropped on the greenlet's own stack when its body has ended,
/// however it ended: the last initialised first. A destructor may use other
/// variables, even for the first time; one that has been destroyed by then
/// stays so, and [`GreenletLocal::try_with`] tells. The values of a thread's
/// main greenlet are not dropped at all: they are leaked when the thread ends.
///
/// # Examples
/// ```
/// use std::cell::{Cell, RefCell};
/// use greenlet::{greenlet_local, spawn};
///
/// greenlet_local! {
///     /// The request that this greenlet works on.
///     static REQUEST: Cell<u32> = Cell::new(0);
///     static LOG: RefCell<Vec<String>> = RefCell::new(Vec::new());
/// }
///
/// REQUEST.set(1);
/// let other = spawn(|| {
///     assert_eq!(REQUEST.get(), 0);
///     REQUEST.set(2);
///     LOG.with_borrow_mut(|log| log.push("two".to_owned()));
/// });
/// other.join().unwrap();
/// assert_eq!(REQUEST.get(), 1);
/// assert!(LOG.with_borrow(|log| log.is_empty()));
/// ```
/// A reference does not leave the closure:
/// ```compile_fail
/// greenlet::greenlet_local! { static NAME: String = String::from("x"); }
/// let name: &String = NAME.with(|name| name);
/// ```
#[doc(alias = "local")]
#[macro_export]
macro_rules! greenlet_local {
    () => {};
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $init:expr; $($rest:tt)*) => {
        $crate::greenlet_local!($(#[$attribute])* $visibility static $name: $type = $init);
        $crate::greenlet_local!($($rest)*);
    };
    ($(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $init:expr) => {
        $(#[$attribute])*
        $visibility static $name: $crate::GreenletLocal<$type> = {
            fn init() -> $type {
                $init
            }
            $crate::GreenletLocal::new(init)
        };
    };
}

/// A variable of which every greenlet has its own, made by
/// [`greenlet_local!`](crate::greenlet_local). It is the counterpart of
/// [`std::thread::LocalKey`].
///
/// # Examples
/// ```
/// greenlet::greenlet_local!(static NAME: String = greenlet::current().name());
///
/// assert_eq!(NAME.with(|name| name.clone()), "main");
/// ```
#[doc(alias = "local")]
pub struct GreenletLocal<T: 'static> {
    init: fn() -> T,
}

impl<T: 'static> GreenletLocal<T> {
    /// For the macro.
    #[doc(hidden)]
    pub const fn new(init: fn() -> T) -> GreenletLocal<T> {
        GreenletLocal { init }
    }

    /// Gives `f` the current greenlet's value, which is made first if there is
    /// none. `f` may block.
    ///
    /// # Panics
    /// If the value has been destroyed, since the greenlet is ending; if the
    /// initialiser uses this very variable; and if the initialiser panics: the
    /// next use tries again.
    pub fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        match self.try_with(f) {
            Ok(result) => result,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`with`](GreenletLocal::with), where the greenlet may be ending.
    ///
    /// # Errors
    /// [`AccessError`] if the value has been destroyed.
    ///
    /// # Panics
    /// If the initialiser uses this very variable, or panics.
    pub fn try_with<R>(&'static self, f: impl FnOnce(&T) -> R) -> Result<R, AccessError> {
        Ok(f(&*self.value(self.init)?))
    }

    /// The current greenlet's value, made by `init` if there is none.
    fn value(&'static self, init: impl FnOnce() -> T) -> Result<Rc<T>, AccessError> {
        let key = (std::ptr::from_ref(self).addr(), TypeId::of::<T>());
        let task = TaskRef::new(Hub::get().current());
        let found = task.extra.borrow().as_ref().and_then(|extra| {
            let local = extra.locals.iter().find(|local| local.key == key);
            local.map(|local| local.value.clone())
        });
        match found {
            // After the body nobody would drop what is made now.
            None if task.done.get() => Err(AccessError),
            Some(LocalValue::Destroyed) => Err(AccessError),
            Some(LocalValue::Initialising) => panic!(
                "the initialiser of a greenlet-local {} uses the variable itself",
                type_name::<T>()
            ),
            Some(LocalValue::Alive(value)) => match value.downcast() {
                Ok(value) => Ok(value),
                Err(_) => unreachable!("the type is part of the key"),
            },
            None => {
                let mut entry = Entry {
                    task: &task,
                    key,
                    value: LocalValue::Destroyed,
                };
                entry.begin();
                let value = Rc::new(init());
                let stored: Rc<T> = Rc::clone(&value);
                entry.value = LocalValue::Alive(stored);
                Ok(value)
            }
        }
    }
}

/// The place of a value whose initialiser runs. When it is dropped, by an
/// unwinding too, it stores what has come of that.
struct Entry<'a> {
    task: &'a TaskRef,
    key: (usize, TypeId),
    value: LocalValue,
}

impl Entry<'_> {
    fn begin(&self) {
        self.task.with_extra(|extra| {
            extra.locals.push(Local {
                key: self.key,
                value: LocalValue::Initialising,
            });
        });
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let value = std::mem::replace(&mut self.value, LocalValue::Destroyed);
        let key = self.key;
        self.task.with_extra(|extra| match value {
            LocalValue::Alive(_) => {
                // Others may have come and gone meanwhile. It stands where it
                // was completed, for the order of the destructors.
                extra.locals.retain(|local| local.key != key);
                extra.locals.push(Local { key, value });
            }
            // The initialiser has panicked: as if nothing had been.
            LocalValue::Initialising | LocalValue::Destroyed => {
                extra.locals.retain(|local| local.key != key);
            }
        });
    }
}

impl<T: 'static> GreenletLocal<Cell<T>> {
    /// Sets the value, without running the initialiser.
    ///
    /// # Panics
    /// If the value has been destroyed.
    pub fn set(&'static self, value: T) {
        self.put(Cell::new(value), |cell, new| cell.set(new.into_inner()));
    }

    /// A copy of the value.
    ///
    /// # Panics
    /// As [`with`](GreenletLocal::with).
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    /// Takes the value out and leaves `T::default()`.
    ///
    /// # Panics
    /// As [`with`](GreenletLocal::with).
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(Cell::take)
    }

    /// Sets the value and returns the one before.
    ///
    /// # Panics
    /// As [`with`](GreenletLocal::with).
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> GreenletLocal<RefCell<T>> {
    /// Gives `f` the contents.
    ///
    /// # Panics
    /// If they are borrowed mutably, and as [`with`](GreenletLocal::with).
    pub fn with_borrow<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        self.with(|cell| f(&cell.borrow()))
    }

    /// Gives `f` the contents, to change.
    ///
    /// # Panics
    /// If they are borrowed, and as [`with`](GreenletLocal::with).
    pub fn with_borrow_mut<R>(&'static self, f: impl FnOnce(&mut T) -> R) -> R {
        self.with(|cell| f(&mut cell.borrow_mut()))
    }

    /// Sets the contents, without running the initialiser.
    ///
    /// # Panics
    /// If they are borrowed, or have been destroyed.
    pub fn set(&'static self, value: T) {
        self.put(RefCell::new(value), |cell, new| {
            cell.replace(new.into_inner());
        });
    }

    /// Takes the contents out and leaves `T::default()`.
    ///
    /// # Panics
    /// If they are borrowed, and as [`with`](GreenletLocal::with).
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(RefCell::take)
    }

    /// Sets the contents and returns those before.
    ///
    /// # Panics
    /// If they are borrowed, and as [`with`](GreenletLocal::with).
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

impl<T: 'static> GreenletLocal<T> {
    /// Makes `fresh` the value where there is none, and has `store` put it into
    /// the one that is there otherwise.
    fn put(&'static self, fresh: T, store: impl FnOnce(&T, T)) {
        let mut fresh = Some(fresh);
        let value = self.value(|| match fresh.take() {
            Some(fresh) => fresh,
            None => unreachable!("a value is made once"),
        });
        match (value, fresh) {
            (Ok(value), Some(fresh)) => store(&value, fresh),
            (Ok(_), None) => {}
            (Err(error), _) => panic!("{error}"),
        }
    }
}

impl<T: 'static> fmt::Debug for GreenletLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GreenletLocal").finish_non_exhaustive()
    }
}
