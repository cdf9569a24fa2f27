//! The scheduler of one OS thread.
