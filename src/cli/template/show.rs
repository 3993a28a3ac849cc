//! `tasker template show`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    cli::{
        Session,
        args::reference::TemplateRef,
        error::{CliError, exit},
        render::{
            graph::{self, Node},
            human,
            table::Table,
            term::{Term, clean, clean_json, style},
        },
    },
    json,
    proto::{GetTemplateRequest, StepState, StepTemplate, Template},
};

/// Show one template: its graph, its steps, and the schema of its context
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template show user_management/user_registration
  tasker template show user_management/user_registration@2.6.0 --yaml > registration.yaml")]
pub struct Args {
    /// The template; without a version, the newest one that is not retired
    #[arg(value_name = "NAMESPACE/NAME[@VERSION]")]
    template: TemplateRef,
    /// Print the YAML exactly as it was registered; on a terminal, control characters show as
    /// escapes
    #[arg(long, conflicts_with = "json")]
    yaml: bool,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let what = format!("cannot show {}", args.template);
    let TemplateRef {
        namespace,
        name: task_name,
        version,
    } = args.template;
    let request = GetTemplateRequest {
        namespace,
        task_name,
        version,
    };
    let response = session
        .connect()
        .await?
        .templates
        .get_template(request)
        .await;
    let template = response
        .map_err(|s| CliError::from_status(&what, &s))?
        .into_inner()
        .template
        .unwrap_or_default();
    match (session.json(), args.yaml) {
        (true, _) => session
            .term
            .json(&json!({"template": json::value(&template)}))?,
        (false, true) => session.term.text(&template.yaml)?,
        (false, false) => session.term.data(&text(&template, &session.term))?,
    }
    Ok(exit::OK)
}

fn text(template: &Template, term: &Term) -> String {
    let mut out = heading(template, term) + "\n";
    let nodes: Vec<Node<'_>> = template
        .steps
        .iter()
        .map(|s| Node {
            name: &s.name,
            depends_on: &s.depends_on,
            sign: human::step_sign(StepState::Pending, term.unicode),
            style: style::PLAIN,
            label: label(s, term),
        })
        .collect();
    out += &graph::draw(&nodes, term).join("\n");

    let mut table = Table::new([
        "STEP",
        "ATTEMPTS",
        "TIME-OUT",
        "SERVICE",
        "HANDLER",
        "DESCRIPTION",
    ]);
    for s in &template.steps {
        table.row([
            clean(&s.name),
            s.retry_limit.to_string(),
            Duration::try_from_secs_f64(s.timeout_seconds)
                .map(human::duration)
                .unwrap_or_default(),
            clean(&s.service),
            clean(&s.handler),
            clean(&s.description),
        ]);
    }
    out += &format!("\n\n{}", table.render(term));
    out += &overrides(template, term);
    // Without a schema the text is empty, which is no JSON.
    if let Ok(schema) = serde_json::from_str::<Value>(&template.schema_json) {
        let schema = clean_json(format!("{schema:#}"));
        out += &format!(
            "\n{}\n{schema}\n",
            term.paint(style::DIM, "SCHEMA OF THE CONTEXT")
        );
    }
    out
}

/// The template's name and description, its registration, its time limit, and its retirement.
fn heading(template: &Template, term: &Term) -> String {
    let name = format!(
        "{}/{}@{}",
        template.namespace, template.task_name, template.version
    );
    let mut out = format!("{}\n", term.paint(style::BOLD, &clean(&name)));
    if !template.description.is_empty() {
        out += &format!("{}\n", clean(&template.description));
    }
    out += &format!("registered {}", human::time_or_dash(template.registered_at));
    if !template.environment.is_empty() {
        out += &format!(" in environment {}", clean(&template.environment));
    }
    // 0 stands for no limit.
    if let Some(timeout) = Duration::try_from_secs_f64(template.timeout_seconds)
        .ok()
        .filter(|time| !time.is_zero())
    {
        out += &format!(", a task may take {}", human::duration(timeout));
    }
    out += "\n";
    if template.retired_at.is_some() {
        out += &format!(
            "retired {} by {}: {}\n",
            human::time_or_dash(template.retired_at),
            clean(&template.retired_by),
            clean(&template.retired_reason)
        );
    }
    out
}

/// The changes that its overrides make, parsed from its YAML as the server does.
fn overrides(template: &Template, term: &Term) -> String {
    // A newer server may have stored a template that this build cannot parse: its overrides are
    // left out.
    let Ok(parsed) = tasker_template::Template::parse_stored(&template.yaml, &template.environment)
    else {
        return String::new();
    };
    let all = parsed.overrides.iter().enumerate();
    let lines: String = all.map(|(index, one)| override_line(index, one)).collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\n{}\n{lines}", term.paint(style::DIM, "OVERRIDES"))
    }
}

fn override_line(index: usize, one: &tasker_template::Override) -> String {
    let changes = clean(&one.changes.to_value().to_string());
    let condition = clean(&one.condition.to_string());
    format!("{index}  when {condition}\n   {changes}\n")
}

/// The step's name, its condition, and the steps whose results it gets, where those are not all.
fn label(s: &StepTemplate, term: &Term) -> String {
    let mut label = clean(&s.name);
    let mut add = |text: String| label += &format!("  {}", term.paint(style::DIM, &text));
    if !s.condition.is_empty() {
        add(format!("when {}", clean(&s.condition)));
    }
    match s.inputs.as_ref().map(|inputs| inputs.steps.join(", ")) {
        Some(none) if none.is_empty() => add("gets no results".to_owned()),
        Some(names) => add(format!("gets {}", clean(&names))),
        None => {}
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::StepInputs;

    #[test]
    fn step_shows_its_condition_and_inputs() {
        let step = |inputs: Option<&[&str]>, condition: &str| {
            let inputs = inputs.map(|all| StepInputs {
                steps: all.iter().map(|name| (*name).into()).collect(),
            });
            label(
                &StepTemplate {
                    name: "s".into(),
                    condition: condition.into(),
                    inputs,
                    ..Default::default()
                },
                &Term::plain(),
            )
        };
        assert_eq!(step(None, ""), "s");
        assert_eq!(step(Some(&["a", "b"]), "true"), "s  when true  gets a, b");
        assert_eq!(step(Some(&[]), ""), "s  gets no results");
    }

    #[test]
    fn template_is_shown_with_graph_and_table() {
        let step = |name: &str, depends_on: &[&str]| StepTemplate {
            name: name.into(),
            handler: format!("h.{name}"),
            service: "s".into(),
            depends_on: depends_on.iter().map(|d| (*d).into()).collect(),
            retry_limit: 3,
            timeout_seconds: 90.0,
            ..StepTemplate::default()
        };
        let template = Template {
            namespace: "shop".into(),
            task_name: "checkout".into(),
            version: "1.0.0".into(),
            steps: vec![step("pay", &[]), step("ship", &["pay"])],
            ..Template::default()
        };
        let expected = "\
shop/checkout@1.0.0
registered -

○  pay
│
○  ship

STEP  ATTEMPTS  TIME-OUT  SERVICE  HANDLER  DESCRIPTION
pay   3         1 m 30 s  s        h.pay    -
ship  3         1 m 30 s  s        h.ship   -
";
        assert_eq!(text(&template, &Term::plain()), expected);
    }

    #[test]
    fn template_shows_conditions_planner_and_overrides() {
        let yaml = "name: t\nplanner: p\noverrides: [{when: context.n > 1, priority: 5, steps: {a: {skip: true}}}]\n\
                    step_templates: [{name: a, handler: h, when: context.n > 0}]\n";
        let parsed = tasker_template::Template::parse(yaml, "").unwrap();
        let step = |s: &tasker_template::StepTemplate| StepTemplate {
            name: s.name.clone(),
            description: s.description.clone(),
            condition: s
                .condition
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            ..StepTemplate::default()
        };
        let steps = parsed.steps.iter().map(step).collect();
        let text = text(
            &Template {
                yaml: yaml.to_owned(),
                steps,
                ..Template::default()
            },
            &Term::plain(),
        );
        for part in [
            "a  when context.n > 0\n",
            "plans the other steps",
            "OVERRIDES\n0  when context.n > 1\n   {\"steps\":{\"a\":{\"skip\":true}},\"priority\":5}\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
