//! The real binary: what it exits with, how long that takes, and what it leaves behind.

#[cfg(test)]
#[path = "process/child.rs"]
mod child;
#[cfg(test)]
#[path = "process/ending.rs"]
mod ending;
#[cfg(test)]
#[path = "process/starting.rs"]
mod starting;
