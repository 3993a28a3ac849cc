//! docs/metrics.md and the page agree exactly.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    scrape::Scrape,
    support::server::Bench,
    work::{ONE, work},
};

type Described = BTreeMap<String, (String, BTreeSet<String>)>;

/// Name, type and labels of each line of the table.
fn documented() -> Described {
    let table = include_str!("../../docs/metrics.md")
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let name = cells.get(1)?.strip_prefix("`tasker_")?.strip_suffix('`')?;
            assert!(cells.len() == 7 && cells[5].ends_with('.'), "{line}");
            let labels = cells[3]
                .split(", ")
                .filter(|l| !l.is_empty())
                .map(|l| l.trim_matches('`').to_owned())
                .collect();
            Some((format!("tasker_{name}"), (cells[2].to_owned(), labels)))
        });
    table.collect()
}

#[tokio::test]
async fn documented_metrics_equal_the_served_ones() {
    let mut bench = Bench::with(ONE).await;
    let _worker = work(&mut bench).await;
    let scrape = Scrape::of(&bench.server.url).await;
    let types = scrape.types.iter();
    let served: Described = types
        .map(|(name, kind)| (name.clone(), (kind.clone(), scrape.labels(name))))
        .collect();
    assert_eq!(served, documented());
    // Every sample has a type and a help text, and every name follows the conventions.
    for sample in &scrape.samples {
        let is_of = |name: &String| {
            let rest = sample.name.strip_prefix(name.as_str());
            rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        };
        assert!(scrape.types.keys().any(is_of), "{sample:?}");
    }
    for (name, kind) in &scrape.types {
        assert!(
            scrape.text.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
    }
}
