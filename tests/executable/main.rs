//! The two executables from outside, together.

mod harness;
mod wire;

mod arrival;
mod outcomes;
mod record;
mod refused;
mod root_side;
mod tokens;
mod usage;
