use super::*;

const REGISTRATION: &str = include_str!("../../../tests/fixtures/user_registration.yaml");

#[test]
fn the_registration_template_loads_verbatim() {
    let template = Template::parse(REGISTRATION).expect("valid");
    assert_eq!(template.steps.len(), 5);
}
