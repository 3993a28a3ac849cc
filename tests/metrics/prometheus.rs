//! A real Prometheus scrapes a real server, and evaluates every query of the dashboard and of the
//! alerts.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    scrape::Scrape,
    support::{
        server::{Bench, eventually},
        tool,
    },
    work::{ONE, work},
};

const DASHBOARD: &str = include_str!("../../deploy/grafana/tasker.json");

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A running Prometheus and its folder; dropping this ends the one and removes the other.
struct Prometheus {
    child: Child,
    dir: PathBuf,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Prometheus {
    fn start(target: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("prometheus-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).unwrap();
        let config = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: tasker, static_configs: [{{targets: ['{}']}}]}}]\n",
            file("deploy/prometheus/alerts.yml").display(),
            target.trim_start_matches("http://"),
        );
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = Command::new(tool("prometheus"))
            .arg(format!(
                "--config.file={}",
                dir.join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            dir,
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let mut url: reqwest::Url = format!("{}{path}", self.url).parse().unwrap();
        url.query_pairs_mut().extend_pairs(query);
        let response = reqwest::get(url).await.ok()?;
        serde_json::from_str(&response.text().await.ok()?).ok()
    }

    /// The result of a query, which Prometheus must accept.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self
            .ask("/api/v1/query", &[("query", expression)])
            .await
            .unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

/// Every expression of the dashboard, as Grafana would send it.
fn expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap());
    let sent = |expr: &str| {
        expr.replace("$__rate_interval", "1m")
            .replace("$namespace", ".*")
    };
    targets
        .map(|target| sent(target["expr"].as_str().unwrap()))
        .collect()
}

/// Runs promtool with this input, and asserts that it finds no error.
fn promtool(args: &[&str], input: &str) {
    let mut child = Command::new(tool("promtool"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "promtool {args:?}: {said}");
}

#[tokio::test]
#[ignore = "needs prometheus: make test"]
async fn prometheus_has_data_for_every_query() {
    let rules = file("deploy/prometheus/alerts.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let mut bench = Bench::with(ONE).await;
    Scrape::of(&bench.server.url).await;
    let prometheus = Prometheus::start(&bench.server.url);
    let scraped = async || {
        let found = prometheus
            .ask("/api/v1/query", &[("query", "tasker_build_info")])
            .await?;
        (!found["data"]["result"].as_array()?.is_empty()).then_some(())
    };
    eventually("the first scrape", scraped).await;
    let _worker = work(&mut bench).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    promtool(
        &["check", "metrics"],
        &Scrape::of(&bench.server.url).await.text,
    );
    for expression in expressions() {
        let found = prometheus.query(&expression).await;
        assert!(!found.is_empty(), "no data for {expression}");
        let is_number = |sample: &Value| {
            sample["value"][1]
                .as_str()
                .unwrap()
                .parse::<f64>()
                .unwrap()
                .is_finite()
        };
        assert!(
            found.iter().any(is_number),
            "no number for {expression}: {found:?}"
        );
    }
    let rates = prometheus
        .query("sum(increase(tasker_tasks_submitted_total[1m]))")
        .await;
    assert!(
        rates[0]["value"][1]
            .as_str()
            .unwrap()
            .parse::<f64>()
            .unwrap()
            > 0.0,
        "{rates:?}"
    );
    // The rules are loaded and can be evaluated. One of three steps failed, so that rule alone is
    // pending.
    let rules = prometheus.ask("/api/v1/rules", &[]).await.unwrap();
    let rules = rules["data"]["groups"][0]["rules"]
        .as_array()
        .unwrap()
        .clone();
    assert!(rules.len() >= 9, "{rules:?}");
    for rule in rules {
        let expected = if rule["name"] == "TaskerStepsFail" {
            "pending"
        } else {
            "inactive"
        };
        assert_eq!(
            (&rule["health"], &rule["state"]),
            (&Value::from("ok"), &Value::from(expected)),
            "{rule}"
        );
    }
}
