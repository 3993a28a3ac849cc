//! The hash maps of the engine. Each step takes some twenty look-ups, and the hash of the standard
//! library took a twentieth of a server's time. This one is seeded anew for each map, so a client
//! cannot choose keys that collide.

use foldhash::fast::RandomState;

pub type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
pub type HashSet<T> = std::collections::HashSet<T, RandomState>;
