//! Stacks and context switches: the only room that knows corosensei.
