//! What the two executables share: the branch, the order that passes between them, how both read
//! from a peer, what they print of others' words, and the journal.
//!
//! `buildbtw-hook` (`src/main.rs`) reads one HTTP request from the network and has no right on the
//! host. `buildbtw-systemctl` (`src/bin/buildbtw-systemctl`) runs as root, reads one order from
//! the hook and carries it out. They are two executables, so that what runs as root contains no
//! line that parses HTTP.

pub mod branch;
pub mod deadline;
pub mod journal;
pub mod order;
pub mod quote;
