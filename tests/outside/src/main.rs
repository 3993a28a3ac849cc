//! A handler service that reads and writes numbers in every way that serde buffers: flattened
//! fields, untagged enums and internally tagged enums. `serde_json`'s feature `arbitrary_precision`
//! breaks all of these, in the whole program, if one of its crates turns it on.

use serde::{Deserialize, Serialize};
use tasker_worker::{BuildError, StepContext, StepError, Worker};

/// An order; the fields of the article are beside the order's own.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: u64,
    #[serde(flatten)]
    pub article: Article,
    #[serde(flatten)]
    pub payment: Payment,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Article {
    pub price: f64,
    pub serial: u64,
    pub discount: Amount,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    Cents(u64),
    Change(i64),
    Share(f64),
    Words(String),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Payment {
    Card { fee: f64, terminal: u64 },
    Invoice,
}

async fn double(step: StepContext) -> Result<Order, StepError> {
    let mut order: Order = step.context()?;
    order.article.price *= 2.0;
    Ok(order)
}

fn worker(server: String) -> Result<Worker, BuildError> {
    Worker::builder([server])
        .handler("shop.double", double)
        .build()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::args()
        .nth(1)
        .ok_or("usage: outside http://HOST:PORT")?;
    worker(server)?.run().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    /// 2^53 + 1, which a double cannot hold.
    const SERIAL: u64 = 9_007_199_254_740_993;

    fn order(discount: &str) -> serde_json::Result<Order> {
        serde_json::from_str(&format!(
            r#"{{"id": {}, "price": 0.1, "serial": {SERIAL}, "discount": {discount}, "method": "card", "fee": 2.5,
                "terminal": {}}}"#,
            u64::MAX,
            u64::MAX - 1
        ))
    }

    #[test]
    fn numbers_of_flattened_and_tagged_fields_are_read() {
        let order = order("7").unwrap();
        assert_eq!(order.id, u64::MAX);
        assert_eq!(order.article.price, 0.1);
        assert_eq!(order.article.serial, SERIAL);
        let card = Payment::Card {
            fee: 2.5,
            terminal: u64::MAX - 1,
        };
        assert_eq!(order.payment, card);
    }

    #[test]
    fn untagged_enum_picks_the_variant_by_the_number() {
        for (text, amount) in [
            ("7", Amount::Cents(7)),
            ("9007199254740993", Amount::Cents(SERIAL)),
            ("-7", Amount::Change(-7)),
            ("0.25", Amount::Share(0.25)),
            ("1e3", Amount::Share(1000.0)),
            (r#""half""#, Amount::Words("half".into())),
        ] {
            assert_eq!(order(text).unwrap().article.discount, amount, "{text}");
        }
    }

    #[test]
    fn order_survives_text_and_value() {
        for text in ["7", "-7", "0.25"] {
            let order = order(text).unwrap();
            let written = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&written).unwrap(), order);
            let value = serde_json::to_value(&order).unwrap();
            assert_eq!(serde_json::from_value::<Order>(value).unwrap(), order);
        }
    }

    #[test]
    fn document_has_the_numbers_and_the_order_of_keys_of_serde_json_alone() {
        #[derive(Deserialize)]
        struct Rest {
            #[serde(flatten)]
            values: BTreeMap<String, Value>,
        }
        let rest: Rest = serde_json::from_str(r#"{"b": 1.50, "a": 1}"#).unwrap();
        assert!(rest.values["b"].is_f64() && rest.values["a"].is_u64());
        assert_eq!(rest.values["b"].to_string(), "1.5");
        let sorted = serde_json::from_str::<Value>(r#"{"b": 1, "a": 2}"#).unwrap();
        assert_eq!(sorted.to_string(), r#"{"a":2,"b":1}"#);
        assert!(serde_json::from_str::<Value>("1e400").is_err());
        assert_eq!(json!({"f": 1.0}).to_string(), r#"{"f":1.0}"#);
    }

    #[test]
    fn worker_takes_the_handler() {
        assert!(worker("http://127.0.0.1:7233".into()).is_ok());
    }
}
