//! Bare corosensei: what this crate stands on, without a hub.

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

/// The size of a greenlet's stack, too.
pub const STACK: usize = 256 << 10;

/// Guarded stacks that are used again, last in first out.
#[derive(Default)]
pub struct Stacks {
    free: Vec<DefaultStack>,
}

impl Stacks {
    /// Makes `count` stacks and touches each of them once.
    pub fn warmed(count: usize) -> Stacks {
        let mut stacks = Stacks::default();
        let live: Vec<_> = (0..count).map(|i| stacks.start(move || i)).collect();
        for mut one in live {
            stacks.finish(&mut one);
            stacks.recycle(one);
        }
        stacks
    }

    /// A coroutine that will run `body` and be over.
    #[inline]
    pub fn start<T: 'static>(
        &mut self,
        body: impl FnOnce() -> T + 'static,
    ) -> Coroutine<(), (), T, DefaultStack> {
        let stack = match self.free.pop() {
            Some(stack) => stack,
            None => DefaultStack::new(STACK).expect("no memory for a stack"),
        };
        Coroutine::with_stack(stack, move |_, ()| body())
    }

    /// Runs it to its end.
    #[inline]
    pub fn finish<T>(&mut self, one: &mut Coroutine<(), (), T, DefaultStack>) -> T {
        match one.resume(()) {
            CoroutineResult::Return(value) => value,
            CoroutineResult::Yield(()) => unreachable!("its body does not suspend"),
        }
    }

    /// Drops a coroutine that is over and keeps its stack.
    #[inline]
    pub fn recycle<T>(&mut self, one: Coroutine<(), (), T, DefaultStack>) {
        self.free.push(one.into_stack());
    }
}

/// A coroutine that suspends for ever.
pub fn endless() -> Coroutine<(), (), (), DefaultStack> {
    let stack = DefaultStack::new(STACK).expect("no memory for a stack");
    Coroutine::with_stack(stack, |yielder, ()| {
        loop {
            yielder.suspend(());
        }
    })
}
