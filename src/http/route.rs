//! One route of HTTP/JSON: an rpc with a method and a path. The message is built from path, query,
//! body and headers, the function that gRPC calls too answers it, and the answer is written as
//! JSON.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    RequestPartsExt as _,
    extract::{Query, RawPathParams, Request},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use futures_util::{Stream, StreamExt as _};
use prost_reflect::{DynamicMessage, FieldDescriptor, MethodDescriptor, Value};
use tonic::{Status, metadata::MetadataMap};

use super::{
    body::{self, Unread},
    problem::Problem,
    read, sse,
};
use crate::{
    engine::{Engine, Violated},
    grpc::{error, room::Room},
    json::{self, protocol},
};

/// The header for `idempotency_key`, as in other APIs.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

type Eventually<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;
type Call<T> = dyn Fn(Engine, MetadataMap, DynamicMessage) -> Eventually<T> + Send + Sync;
type Messages = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;

/// The form of an rpc's answer.
#[derive(Clone)]
enum Calls {
    Once(Arc<Call<Answered>>),
    /// As server-sent events.
    Stream(Arc<Call<Messages>>),
}

struct Answered {
    json: String,
    /// Whether the message has a field `created` that is true.
    created: bool,
}

/// The type of a body.
enum Media {
    Json,
    /// The body is the text of this field of the request.
    Yaml(&'static str),
}

/// An rpc with a method and a path.
#[derive(Clone)]
pub struct Route {
    pub method: Method,
    /// `{name}` in it is a field of the request.
    pub path: &'static str,
    pub rpc: MethodDescriptor,
    /// The field that a body of `application/yaml` fills.
    pub yaml: Option<&'static str>,
    call: Calls,
}

/// A route whose rpc answers once: `route!(METHOD "path" => Service.function, "Service/Rpc")`.
macro_rules! route {
    ($method:ident $path:literal => $service:ident.$call:ident, $rpc:literal) => {
        $crate::http::route::once(
            axum::http::Method::$method,
            $path,
            $rpc,
            |engine, request| async move { $service(engine).$call(request).await },
        )
    };
}
pub(super) use route;

/// An rpc with one answer: the fields of a read come from the path or the query, those of a write
/// from the path or the body.
pub fn once<Q, A, F>(
    method: Method,
    path: &'static str,
    rpc: &str,
    call: impl Fn(Engine, tonic::Request<Q>) -> F + Copy + Send + Sync + 'static,
) -> Route
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Name + 'static,
    F: Future<Output = Result<tonic::Response<A>, Status>> + Send + 'static,
{
    let rpc = protocol::rpc(rpc);
    let call = move |engine: Engine,
                     metadata: MetadataMap,
                     message: DynamicMessage|
          -> Eventually<Answered> {
        Box::pin(async move {
            let response = call(engine, request(metadata, &message)?)
                .await?
                .into_inner();
            let whole = json::dynamic(&response);
            let created = whole
                .get_field_by_name("created")
                .is_some_and(|v| *v == Value::Bool(true));
            Ok(Answered {
                json: json::text(&whole),
                created,
            })
        })
    };
    Route {
        method,
        path,
        rpc,
        yaml: None,
        call: Calls::Once(Arc::new(call)),
    }
}

/// A stream: its fields come as for a read, and each message of the answer is a server-sent event.
pub fn stream<Q, A, S, F>(
    path: &'static str,
    rpc: &str,
    call: impl Fn(Engine, tonic::Request<Q>) -> F + Copy + Send + Sync + 'static,
) -> Route
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Name + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
    F: Future<Output = Result<tonic::Response<S>, Status>> + Send + 'static,
{
    let rpc = protocol::rpc(rpc);
    let call = move |engine: Engine,
                     metadata: MetadataMap,
                     message: DynamicMessage|
          -> Eventually<Messages> {
        Box::pin(async move {
            let messages = call(engine, request(metadata, &message)?)
                .await?
                .into_inner();
            Ok(
                Box::pin(messages.map(|message| message.map(|message| json::dynamic(&message))))
                    as Messages,
            )
        })
    };
    Route {
        method: Method::GET,
        path,
        rpc,
        yaml: None,
        call: Calls::Stream(Arc::new(call)),
    }
}

/// The request in the form of gRPC.
fn request<Q: prost::Message + Default>(
    metadata: MetadataMap,
    message: &DynamicMessage,
) -> Result<tonic::Request<Q>, Status> {
    // Both types are made from the same descriptors, so a mismatch is a fault of the program.
    let mut request = tonic::Request::new(message.transcode_to().map_err(|_| error::internal())?);
    *request.metadata_mut() = metadata;
    Ok(request)
}

impl Route {
    /// Also accepts a body of `application/yaml`, which fills this field.
    pub fn or_yaml(self, field: &'static str) -> Self {
        Self {
            yaml: Some(field),
            ..self
        }
    }

    /// The fields in the path.
    pub fn path_fields(&self) -> Vec<&'static str> {
        self.path.split(['{', '}']).skip(1).step_by(2).collect()
    }

    /// The fields in the query, or in the body of a write.
    pub fn other_fields(&self) -> impl Iterator<Item = FieldDescriptor> {
        let taken = self.path_fields();
        let fields: Vec<FieldDescriptor> = self.rpc.input().fields().collect();
        fields
            .into_iter()
            .filter(move |field| !taken.contains(&field.name()))
    }

    /// Whether it answers with server-sent events.
    pub fn is_stream(&self) -> bool {
        matches!(self.call, Calls::Stream(_))
    }

    pub fn has_body(&self) -> bool {
        self.method == Method::POST
    }

    /// The axum handler.
    pub fn serve(&self, engine: &Engine, room: &Room) -> MethodRouter {
        let filter = if self.has_body() {
            MethodFilter::POST
        } else {
            MethodFilter::GET
        };
        // The handler runs for every request, so it owns cheap copies of what it needs.
        let (route, engine, room) = (self.clone(), engine.clone(), room.clone());
        on(filter, move |request: Request| async move {
            route
                .answer(engine, &room, request)
                .await
                .unwrap_or_else(Unread::into_response)
        })
    }

    async fn answer(
        self,
        engine: Engine,
        room: &Room,
        request: Request,
    ) -> Result<Response, Unread> {
        let mut message = DynamicMessage::new(self.rpc.input());
        let (mut parts, rest) = request.into_parts();
        let in_path = self.path_fields();
        // The body's memory is accounted for until the answer exists.
        let mut held = None;
        // The path and the query come before the body: a request that is wrong in its URI is
        // refused without its body being read.
        self.fill_from_uri(&mut message, &mut parts, &in_path)
            .await?;
        let mut parameters = in_path.clone();
        let fields: Vec<FieldDescriptor> = self.other_fields().collect();
        if self.has_body() {
            let media = self.media(&parts.headers)?;
            let (text, taken) = body::read(&parts.headers, rest, room).await?;
            // The account moves out of this block, since the answer is made only after the call.
            held = Some(taken);
            self.fill_from_body(&mut message, media, &text, &in_path)?;
            // After the body, with which the header must agree.
            self.fill_from_header(&mut message, &parts.headers)?;
        } else {
            parameters.extend(fields.iter().map(FieldDescriptor::name));
        }
        let refused = |status: Status| Problem::of(&status, &parameters);
        let call = match self.call {
            Calls::Stream(call) => {
                // The cursor of the header overrides the query, so it is set after the query was
                // read.
                sse::resume(&mut message, &parts.headers)?;
                let metadata = MetadataMap::from_headers(parts.headers);
                return Ok(sse::response(
                    call(engine, metadata, message).await.map_err(refused)?,
                ));
            }
            Calls::Once(call) => call,
        };
        // gRPC metadata are headers: the engine reads `traceparent` from them on both surfaces.
        let metadata = MetadataMap::from_headers(parts.headers);
        let answered = call(engine, metadata, message).await.map_err(refused)?;
        // The answer exists now, and the request's body has been freed.
        drop(held);
        let status = if answered.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Ok((
            status,
            [(header::CONTENT_TYPE, "application/json")],
            answered.json,
        )
            .into_response())
    }

    async fn fill_from_uri(
        &self,
        message: &mut DynamicMessage,
        parts: &mut Parts,
        in_path: &[&str],
    ) -> Result<(), Problem> {
        let unreadable = |what: &str| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "URI_UNREADABLE",
                format!("the {what} cannot be read: expected percent-encoded UTF-8"),
            )
        };
        let path = parts
            .extract::<RawPathParams>()
            .await
            .map_err(|_| unreadable("path"))?;
        let path: Vec<(String, String)> = path
            .iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        read::texts(message, &path, &[]).map_err(|all| violated(&all, in_path))?;
        let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| unreadable("query"))?;
        let names: Vec<&str> = query.iter().map(|(name, _)| name.as_str()).collect();
        // A field in the query of a write is probably a mistake; ignoring it would hide that.
        if self.has_body() && !query.is_empty() {
            let all: Vec<Violated> = names
                .iter()
                .take(read::MAX_VIOLATIONS)
                .map(|name| Violated {
                    field: (*name).to_owned(),
                    message: "unknown: everything is in the body".into(),
                })
                .collect();
            return Err(violated(&all, &names));
        }
        read::texts(message, &query, in_path).map_err(|all| violated(&all, &names))
    }

    /// The type that the headers specify for the body; `None` without a type. Any other type is
    /// refused before the body is read: a page may send some types to another site without a
    /// preflight.
    fn media(&self, headers: &HeaderMap) -> Result<Option<Media>, Problem> {
        // Without a type, a body is refused later unless it is empty, so that a write without
        // fields needs no header.
        let Some(said) = headers.get(header::CONTENT_TYPE).filter(|v| !v.is_empty()) else {
            return Ok(None);
        };
        let said = String::from_utf8_lossy(said.as_bytes());
        let media = said
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match (media.as_str(), self.yaml) {
            ("application/json", _) => Ok(Some(Media::Json)),
            ("application/yaml", Some(field)) => Ok(Some(Media::Yaml(field))),
            _ => Err(self.wrong_media(&media)),
        }
    }

    fn wrong_media(&self, media: &str) -> Problem {
        let or = if self.yaml.is_some() {
            " or application/yaml"
        } else {
            ""
        };
        let detail = format!(
            "content-type `{media:.80}` is not supported here: expected application/json{or}"
        );
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "MEDIA_TYPE", detail)
    }

    fn fill_from_body(
        &self,
        message: &mut DynamicMessage,
        media: Option<Media>,
        text: &str,
        in_path: &[&str],
    ) -> Result<(), Problem> {
        match media {
            None if text.is_empty() => Ok(()),
            None => Err(self.wrong_media("")),
            Some(Media::Json) => {
                read::body(message, text, in_path).map_err(|all| violated(&all, &[]))
            }
            Some(Media::Yaml(field)) => {
                // The YAML is stored as it was sent; the engine parses it.
                message.set_field_by_name(field, Value::String(text.to_owned()));
                Ok(())
            }
        }
    }

    /// The key may come as a header, unless the body has a different one.
    fn fill_from_header(
        &self,
        message: &mut DynamicMessage,
        headers: &HeaderMap,
    ) -> Result<(), Problem> {
        let field = self.rpc.input().get_field_by_name("idempotency_key");
        let (Some(field), Some(key)) = (field, headers.get(IDEMPOTENCY_KEY)) else {
            return Ok(());
        };
        let wrong = |message: &str| {
            violated(
                &[Violated {
                    field: "Idempotency-Key".into(),
                    message: message.into(),
                }],
                &["Idempotency-Key"],
            )
        };
        let text = key.to_str().map_err(|_| wrong("expected visible ASCII"))?;
        // The draft standard quotes the key; most clients do not.
        let text = text
            .strip_prefix('"')
            .and_then(|t| t.strip_suffix('"'))
            .unwrap_or(text);
        let said = message
            .get_field(&field)
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if !said.is_empty() && said != text {
            return Err(wrong("the body has another idempotency_key"));
        }
        message.set_field(&field, Value::String(text.to_owned()));
        Ok(())
    }
}

fn violated(all: &[Violated], parameters: &[&str]) -> Problem {
    Problem::of(&error::violations(all), parameters)
}
