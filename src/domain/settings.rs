//! stub
use super::{
    adjustment::Adjustment,
    template::{StepTemplate, Template},
};
use serde_json::Value;
#[derive(Clone, Debug, Default)]
pub struct Settings;
impl Settings {
    pub fn of(_t: &Template, _c: &Value, _task: &Value) -> Result<Self, String> {
        Ok(Self)
    }
    pub fn push(&mut self, _o: &str, _a: Adjustment) {}
    pub fn is_empty(&self) -> bool {
        true
    }
    pub fn to_json(&self) -> String {
        String::new()
    }
    pub fn from_json(_t: &str, _x: &Template) -> Result<Self, String> {
        Ok(Self)
    }
    pub fn step(&self, _t: &Template, _i: usize) -> Option<StepTemplate> {
        None
    }
    pub fn skips(&self, _i: usize) -> bool {
        false
    }
    pub fn origins(&self, _t: &Template, _i: usize) -> Vec<(String, String)> {
        Vec::new()
    }
    pub fn annotations(&self) -> serde_json::Map<String, Value> {
        serde_json::Map::new()
    }
    pub fn priority(&self) -> Option<i16> {
        None
    }
}
