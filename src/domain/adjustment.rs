//! stub
use super::template::Template;
use serde_json::{Map, Value};
#[derive(Clone, Debug, Default)]
pub struct Adjustment {
    pub annotations: Map<String, Value>,
    pub priority: Option<i16>,
}
impl Adjustment {
    pub fn from_json(_t: &str, _x: &Template) -> Result<Self, Vec<String>> {
        Ok(Self::default())
    }
}
