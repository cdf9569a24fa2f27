//! The public error types, one enum per concern.
