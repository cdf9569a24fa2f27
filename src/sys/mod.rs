//! Raw system calls, errno, clocks and the fork count: what every other room may stand on.
