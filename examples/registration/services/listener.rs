//! Serves a router over HTTP/1, and can close a connection instead of answering.

use std::{convert::Infallible, error::Error, fmt};

use axum::{Router, body::Body, extract::Request, http::Response, response::IntoResponse};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An answer that is never sent: the connection closes in its place.
#[derive(Clone, Copy, Debug)]
pub struct HangUp;

impl IntoResponse for HangUp {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the service hung up")
    }
}

impl Error for HangUp {}

/// Accepts connections until `stop` is cancelled, which also ends the open ones.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    running: TaskTracker,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, router.clone());
                let stop = stop.clone();
                running.spawn(async move { stop.run_until_cancelled(connection).await });
            }
            // No file descriptor is left, or the peer is gone already: neither ends the service.
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let router = TowerToHyperService::new(router);
    let answer_or_hang_up = service_fn(move |request: Request<Incoming>| {
        let answer = router.call(request);
        async move {
            let response = answer
                .await
                .unwrap_or_else(|never: Infallible| match never {});
            // An error here makes hyper close the connection without an answer.
            if response.extensions().get::<HangUp>().is_some() {
                Err(HangUp)
            } else {
                Ok(response)
            }
        }
    });
    // The caller notices a broken connection itself.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer_or_hang_up)
        .await;
}
