//! The maps of the engine. Every step is looked up some twenty times, and the standard library's hash was a twentieth of a
//! server's time; this one is seeded anew in each map, so a client cannot choose keys that collide.

use foldhash::fast::RandomState;

pub type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
pub type HashSet<T> = std::collections::HashSet<T, RandomState>;
