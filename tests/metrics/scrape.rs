//! A scrape, parsed as Prometheus parses it.

use std::collections::{BTreeMap, BTreeSet};

/// One line: a name, labels and a value.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

#[derive(Debug)]
pub struct Scrape {
    pub text: String,
    pub samples: Vec<Sample>,
    /// The type of each metric.
    pub types: BTreeMap<String, String>,
}

impl Scrape {
    pub async fn of(url: &str) -> Self {
        let response = reqwest::get(format!("{url}/metrics")).await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["content-type"]
            ),
            (
                200,
                &"text/plain; version=0.0.4; charset=utf-8".parse().unwrap()
            )
        );
        let text = response.text().await.unwrap();
        let types = text
            .lines()
            .filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' '));
        let types = types
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect();
        let samples = text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
            .map(sample)
            .collect();
        Self {
            text,
            samples,
            types,
        }
    }

    /// The sum of the samples with this name and these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |s: &&Sample| {
            s.name == name
                && labels
                    .iter()
                    .all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v))
        };
        let found: Vec<f64> = self.samples.iter().filter(fits).map(|s| s.value).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The names of the labels of a metric, except the bucket's.
    pub fn labels(&self, metric: &str) -> BTreeSet<String> {
        let is_histogram = self.types[metric] == "histogram";
        let of = |name: &str| {
            name == metric
                || is_histogram
                    && name
                        .strip_prefix(metric)
                        .is_some_and(|s| ["_bucket", "_sum", "_count"].contains(&s))
        };
        let found = self
            .samples
            .iter()
            .filter(|s| of(&s.name))
            .flat_map(|s| s.labels.keys().cloned());
        found.filter(|label| label != "le").collect()
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let pair = |pair: &str| {
        let (key, value) = pair.split_once("=\"").unwrap();
        (key.to_owned(), value.to_owned())
    };
    let labels = labels
        .split_terminator('"')
        .collect::<Vec<_>>()
        .chunks(2)
        .map(|c| pair(&c.join("\"").replace(',', "")))
        .collect();
    Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().unwrap(),
    }
}
