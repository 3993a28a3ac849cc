//! The shape of the sources: size and density of files and functions, and imports without circles.
//! `scripts/measure.sh` prints the counts; CONTRIBUTING.md names the limits.

mod circles;
mod counts;
mod documents;
mod imports;
mod source;
mod token;
