//! The two executables from outside, together.

mod harness;
mod wire;

mod arrival;
mod malformed;
mod outcomes;
mod paths;
mod record;
mod root_side;
mod tokens;
mod usage;
