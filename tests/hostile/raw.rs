//! A client that sends arbitrary bytes, messages or not.

use std::time::Duration;

use prost::bytes::{Buf as _, BufMut as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::Service as _,
    transport::Channel,
};

/// Longer than the server keeps a silent stream.
const PATIENCE: Duration = Duration::from_secs(25);
pub const WORK: &str = "/tasker.v1.WorkerService/Work";

#[derive(Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

#[derive(Clone)]
pub struct Raw(Channel);

impl Raw {
    pub async fn connect(url: &str) -> Self {
        Self(
            Channel::from_shared(url.to_owned())
                .unwrap()
                .connect()
                .await
                .unwrap(),
        )
    }

    async fn client(&self) -> Grpc<Channel> {
        let mut client = Grpc::new(self.0.clone());
        client.ready().await.unwrap();
        client
    }

    /// Sends one message to `/package.Service/Rpc` and returns the answer.
    pub async fn call(&self, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let path = path.parse().unwrap();
        let mut client = self.client().await;
        let answer = client.unary(Request::new(message), path, Bytes);
        in_time(answer).await.map(tonic::Response::into_inner)
    }

    /// A worker's stream that begins with these messages.
    pub async fn open(&self, first: Vec<Vec<u8>>) -> Result<Stream, Status> {
        let (says, queue) = mpsc::channel(64);
        for message in first {
            says.try_send(message).unwrap();
        }
        let mut client = self.client().await;
        let request = Request::new(ReceiverStream::new(queue));
        let hears = in_time(client.streaming(request, WORK.parse().unwrap(), Bytes))
            .await?
            .into_inner();
        Ok(Stream {
            says: Some(says),
            hears,
        })
    }

    /// Sends a body that need not be gRPC at all, and returns the status of the answer.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Status {
        let mut request = http::Request::post(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(tonic::body::Body::new(axum::body::Body::from(body)))
            .unwrap();
        let mut channel = self.0.clone();
        std::future::poll_fn(|context| channel.poll_ready(context))
            .await
            .unwrap();
        let response = in_time(channel.call(request)).await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        let code = response.status();
        let mut stream = Streaming::new_response(Bytes, response.into_body(), code, None, None);
        end_of(&mut stream).await
    }
}

/// A worker's stream.
pub struct Stream {
    says: Option<mpsc::Sender<Vec<u8>>>,
    hears: Streaming<Vec<u8>>,
}

impl Stream {
    pub async fn say(&self, message: Vec<u8>) {
        // Sending on an ended stream fails; only the status of its end counts.
        let _ = self.says.as_ref().unwrap().send(message).await;
    }

    /// Closes this side.
    pub fn close(&mut self) {
        self.says = None;
    }

    pub async fn hear(&mut self) -> Result<Option<Vec<u8>>, Status> {
        in_time(self.hears.message()).await
    }

    /// The status with which the server ends the stream; this side stays open.
    pub async fn end(&mut self) -> Status {
        end_of(&mut self.hears).await
    }
}

async fn end_of(stream: &mut Streaming<Vec<u8>>) -> Status {
    loop {
        match in_time(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::new(Code::Ok, ""),
            Err(status) => return status,
        }
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .expect("the server does not answer")
}

/// A gRPC frame: flag, length, message.
pub fn frame(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat()
}

/// A whole frame.
pub fn framed(message: &[u8]) -> Vec<u8> {
    frame(0, message.len(), message)
}

/// A length-delimited protobuf field.
pub fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(
        number,
        prost::encoding::WireType::LengthDelimited,
        &mut bytes,
    );
    prost::encoding::encode_varint(content.len().try_into().unwrap(), &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}
