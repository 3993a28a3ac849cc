//! The shape of the sources: size and density of files and functions, imports without circles, and
//! tasks with owners.
//! `scripts/measure.sh` prints the counts; CONTRIBUTING.md names the limits.

mod circles;
mod counts;
mod documents;
mod imports;
mod source;
mod spawns;
mod token;
