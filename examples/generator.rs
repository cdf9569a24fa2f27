//! Generators, made of greenlets that switch back with one value after another.
//!
//! ```text
//! $ cargo run --example generator
//! squares:      0 1 4 9 16
//! two at once:  (0, 10) (1, 11) (2, 12)
//! tree:         1 2 3 4 5 6 7
//! permutations: abc acb bac bca cab cba
//! given up:     0 1 2, and its destructors have run
//! ```
//!
//! A generator is an ordinary function that calls `yields.give(value)` wherever
//! it likes: in a loop, in a function that it calls, or deep in a recursion. It
//! goes on from there when the next value is asked for.

use std::marker::PhantomData;

use greenlet::Greenlet;

/// An iterator over what a function gives.
struct Generator<T: 'static> {
    body: Greenlet<Option<T>>,
}

/// What the function gives with.
struct Yields<T>(PhantomData<T>);

impl<T: 'static> Yields<T> {
    /// Hands a value to whoever has asked for it: the parent of the greenlet
    /// that the function runs in.
    fn give(&self, value: T) {
        // No handle of the greenlet itself stays on its stack: it would keep
        // it alive when nobody else wants it any more.
        let asker = Greenlet::<Option<T>>::current().parent();
        let asker = asker.expect("who asks has become the parent");
        asker.switch(Some(value));
    }
}

impl<T> Generator<T> {
    fn new(function: impl FnOnce(&Yields<T>) + 'static) -> Generator<T> {
        let body = Greenlet::new(move |_| {
            function(&Yields(PhantomData));
            // What is returned goes to the parent, too: it ends the iteration.
            None
        });
        Generator { body }
    }
}

impl<T> Iterator for Generator<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.body.is_dead() {
            return None;
        }
        // The one who asks may be another one each time.
        let me = Greenlet::<Option<T>>::current();
        if self.body.parent().as_ref() != Some(&me) {
            self.body.set_parent(&me).expect("no generator asks itself");
        }
        self.body.switch(None)
    }
}

fn squares(below: u32) -> Generator<u32> {
    Generator::new(move |yields| {
        for n in 0..below {
            yields.give(n * n);
        }
    })
}

fn count_from(start: u32) -> Generator<u32> {
    Generator::new(move |yields| {
        for n in start.. {
            yields.give(n);
        }
    })
}

struct Tree {
    left: Option<Box<Tree>>,
    value: u32,
    right: Option<Box<Tree>>,
}

impl Tree {
    /// A balanced tree of the numbers in `range`.
    fn of(range: std::ops::RangeInclusive<u32>) -> Option<Box<Tree>> {
        let (low, high) = (*range.start(), *range.end());
        if low > high {
            return None;
        }
        let value = low.midpoint(high);
        Some(Box::new(Tree {
            left: Tree::of(low..=value - 1),
            value,
            right: Tree::of(value + 1..=high),
        }))
    }

    /// Gives from whatever depth it has come to.
    fn walk(&self, yields: &Yields<u32>) {
        if let Some(left) = &self.left {
            left.walk(yields);
        }
        yields.give(self.value);
        if let Some(right) = &self.right {
            right.walk(yields);
        }
    }
}

/// A generator that asks others of its kind.
fn permutations(letters: String) -> Generator<String> {
    Generator::new(move |yields| {
        if letters.is_empty() {
            return yields.give(String::new());
        }
        for (at, first) in letters.char_indices() {
            let rest = [&letters[..at], &letters[at + first.len_utf8()..]].concat();
            for permutation in permutations(rest) {
                yields.give(format!("{first}{permutation}"));
            }
        }
    })
}

fn joined<T: std::fmt::Display>(values: impl Iterator<Item = T>) -> String {
    let words: Vec<String> = values.map(|value| value.to_string()).collect();
    words.join(" ")
}

/// Says so when it is dropped.
struct Farewell;

impl Drop for Farewell {
    fn drop(&mut self) {
        println!(", and its destructors have run");
    }
}

fn main() {
    println!("squares:      {}", joined(squares(5)));

    let pairs = count_from(0).zip(count_from(10)).take(3);
    println!(
        "two at once:  {}",
        joined(pairs.map(|pair| format!("{pair:?}")))
    );

    let tree = Generator::new(|yields| Tree::of(1..=7).iter().for_each(|tree| tree.walk(yields)));
    println!("tree:         {}", joined(tree));

    println!("permutations: {}", joined(permutations("abc".into())));

    let mut endless = Generator::new(|yields| {
        let _farewell = Farewell;
        for n in 0.. {
            yields.give(n);
        }
    });
    print!("given up:     {}", joined(endless.by_ref().take(3)));
    // Nobody can ask it for more: it is unwound.
    drop(endless);
}
