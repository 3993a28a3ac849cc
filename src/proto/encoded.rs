//! `SubscribeResponse` with parts that are encoded already, so that this is done once for all
//! subscribers, and the service that answers with it. On the wire nothing differs: there a message
//! within another one is its bytes, and so is a string.

use prost::Name;
use tonic::codegen::Bytes;

include!(concat!(env!("OUT_DIR"), "/tasker.v1.EventService.rs"));

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SubscribeResponse {
    /// A [`tasker_proto::Event`].
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub event: Option<Bytes>,
    /// UTF-8.
    #[prost(bytes = "bytes", tag = "2")]
    pub cursor: Bytes,
}

impl Name for SubscribeResponse {
    const NAME: &'static str = tasker_proto::SubscribeResponse::NAME;
    const PACKAGE: &'static str = tasker_proto::SubscribeResponse::PACKAGE;
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn encoded_event_equals_the_message_on_the_wire() {
        let event = tasker_proto::Event {
            seq: 7,
            task_name: "register".into(),
            charged: true,
            ..tasker_proto::Event::default()
        };
        for event in [None, Some(tasker_proto::Event::default()), Some(event)] {
            let cursor = "place".to_owned();
            let encoded = event.as_ref().map(|event| event.encode_to_vec().into());
            assert_eq!(
                SubscribeResponse {
                    event: encoded,
                    cursor: cursor.clone().into()
                }
                .encode_to_vec(),
                tasker_proto::SubscribeResponse { event, cursor }.encode_to_vec()
            );
        }
        assert_eq!(
            SubscribeResponse::full_name(),
            tasker_proto::SubscribeResponse::full_name()
        );
    }
}
