//! Admission of requests by host and origin. There is no authentication, so a web page must not be
//! able to command this server through the browser of a user with access to it: neither by a name
//! of its own that resolves to this machine, nor by a request that a browser sends without a
//! preflight. Native gRPC is exempt, since no page can send it.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, uri::Authority},
    middleware::{Next, from_fn},
    response::IntoResponse as _,
};

use super::{
    cors::Origin,
    host::{self, AllowedHost},
    problem::Problem,
};
use crate::{
    engine::{ListenerCounts, Refusal},
    grpc,
};

/// Headers that browsers set by themselves and no page can change.
const FETCH_SITE: &str = "sec-fetch-site";
const FETCH_MODE: &str = "sec-fetch-mode";
const FETCH_DEST: &str = "sec-fetch-dest";

/// The allowed callers.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Names of this server.
    pub hosts: Vec<AllowedHost>,
    /// Origins of pages from elsewhere.
    pub origins: Vec<Origin>,
}

/// Refuses requests for a foreign name or from a foreign page.
pub fn guarded(router: Router, guard: Guard, counts: Arc<ListenerCounts>) -> Router {
    let guard = Arc::new(guard);
    router.layer(from_fn(move |request: Request, next: Next| {
        let (guard, counts) = (Arc::clone(&guard), Arc::clone(&counts));
        async move {
            match guard.check(&request) {
                Ok(()) => next.run(request).await,
                Err((refusal, problem)) => {
                    counts.refused(refusal);
                    problem.into_response()
                }
            }
        }
    }))
}

impl Guard {
    fn check(&self, request: &Request) -> Result<(), (Refusal, Problem)> {
        let headers = request.headers();
        // A page cannot remove these headers, so a request that has one is checked even if it looks
        // like native gRPC.
        let from_browser = headers.contains_key(header::ORIGIN) || headers.contains_key(FETCH_SITE);
        if grpc::fallback::is_native(request) && !from_browser {
            return Ok(());
        }
        let authority =
            authority(request.uri(), headers).map_err(|problem| (Refusal::Host, problem))?;
        if !host::is_allowed(&authority, &self.hosts) {
            return Err((Refusal::Host, foreign_host(&authority)));
        }
        match self.is_own_page(request, &authority) {
            Ok(()) => Ok(()),
            Err(said) => Err((Refusal::Origin, foreign_page(&said))),
        }
    }

    /// The error describes the page as the browser's headers do.
    fn is_own_page(&self, request: &Request, authority: &Authority) -> Result<(), String> {
        let headers = request.headers();
        let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
        // Every value counts: a proxy that merged requests must not smuggle a foreign origin behind
        // an own one.
        if origins.peek().is_some() {
            let is_own = |origin: &HeaderValue| {
                self.origins.iter().any(|named| named.is(origin)) || is_same(origin, authority)
            };
            return origins
                .find(|origin| !is_own(origin))
                .map_or(Ok(()), |foreign| Err(shown(foreign)));
        }
        let said = |name: &str| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        // Without an origin, either a page sent the request or a user followed a link; a link may
        // only read.
        let is_link = [Method::GET, Method::HEAD].contains(request.method())
            && said(FETCH_MODE) == b"navigate"
            && said(FETCH_DEST) == b"document";
        match said(FETCH_SITE) {
            b"cross-site" if !is_link => {
                Err("another site, according to the browser (sec-fetch-site)".to_owned())
            }
            // A request without the header comes from a program or an old browser; the check of the
            // host has refused names that resolve here for another site.
            _ => Ok(()),
        }
    }
}

/// The single host name of the request.
fn authority(uri: &Uri, headers: &HeaderMap) -> Result<Authority, Problem> {
    let bad = |code: &str, detail: &str| Problem::new(StatusCode::BAD_REQUEST, code, detail);
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad(
            "HOST_AMBIGUOUS",
            "the request has two Host headers: expected one",
        ));
    }
    let host = host
        .map(|host| Authority::try_from(host.as_bytes()))
        .transpose();
    let unreadable = "the Host header cannot be read: expected host or host:port";
    let host = host.map_err(|_| bad("HOST_UNREADABLE", unreadable))?;
    let named = match (uri.authority().cloned(), host) {
        // HTTP/2 has the host in the URI; if a Host header names another, it is unclear for which
        // host a proxy let the request pass.
        (Some(uri), Some(host)) if host::place(&uri, 0) != host::place(&host, 0) => {
            return Err(bad(
                "HOST_AMBIGUOUS",
                "the request is for one host and its Host header names another",
            ));
        }
        (Some(named), _) | (None, Some(named)) => named,
        (None, None) => {
            return Err(bad(
                "HOST_MISSING",
                "the request has no host: expected a Host header",
            ));
        }
    };
    // A user has no place in a Host header, and parsers disagree about the text before an `@`.
    if named.host().is_empty() || named.as_str().contains('@') {
        return Err(bad("HOST_UNREADABLE", unreadable));
    }
    Ok(named)
}

/// Whether a page came from this very server; a proxy in front may add TLS.
fn is_same(origin: &HeaderValue, authority: &Authority) -> bool {
    let Some((scheme, rest)) = origin.to_str().ok().and_then(|text| text.split_once("://")) else {
        return false;
    };
    // An origin leaves out the port that its scheme implies, and the Host header may do so too.
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let page = rest.parse::<Authority>();
    page.is_ok_and(|page| {
        !page.as_str().contains('@')
            && host::place(&page, default_port) == host::place(authority, default_port)
    })
}

fn shown(value: &HeaderValue) -> String {
    format!(
        "the origin `{:.200}`",
        String::from_utf8_lossy(value.as_bytes())
    )
}

fn foreign_host(authority: &Authority) -> Problem {
    let host = authority.host();
    let detail = format!(
        "`{host:.255}` is not a known name of this server: if it is one of its names, start the server with \
         --allowed-host {host:.255} (or TASKER_ALLOWED_HOST); addresses, localhost and names without a dot always work"
    );
    Problem::new(StatusCode::FORBIDDEN, "HOST_NOT_ALLOWED", detail)
}

fn foreign_page(from: &str) -> Problem {
    let detail = format!(
        "the request comes from {from}, and pages from there may not call this server: if they should, start the server \
         with --cors-origin and that origin (or TASKER_CORS_ORIGIN)"
    );
    Problem::new(StatusCode::FORBIDDEN, "ORIGIN_NOT_ALLOWED", detail)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    /// The code of the refusal, if any, of a request with these headers.
    fn refused(target: &str, headers: &[(&str, &str)]) -> Option<String> {
        let guard = Guard {
            hosts: vec!["tasker.example.com".parse().unwrap()],
            origins: vec!["https://ops.example.com".parse().unwrap()],
        };
        let mut request = axum::http::Request::post(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let problem = guard.check(&request.body(Body::empty()).unwrap()).err()?.1;
        Some(
            serde_json::to_value(&problem).unwrap()["code"]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    }

    #[test]
    fn request_from_a_page_of_this_server_is_accepted() {
        for (host, origin) in [
            ("localhost:7233", "http://localhost:7233"),
            ("[::1]:7233", "http://[::1]:7233"),
            ("tasker.example.com", "https://tasker.example.com"),
            ("tasker.example.com:443", "https://tasker.example.com"),
            ("tasker.example.com", "http://tasker.example.com:80"),
            ("localhost:7233", "https://ops.example.com"),
        ] {
            let site = if origin.contains("ops") {
                "cross-site"
            } else {
                "same-origin"
            };
            let headers = [("host", host), ("origin", origin), ("sec-fetch-site", site)];
            assert_eq!(refused("/x", &headers), None, "{headers:?}");
        }
    }

    #[test]
    fn request_from_a_foreign_page_is_refused() {
        for origin in [
            "null",
            "",
            "http://localhost",
            "http://localhost:7234",
            "https://evil.example.com",
            "https://localhost:7233.evil.example.com",
            "https://ops.example.com.evil.example.com",
            "http://evil@localhost:7233",
            "http://ops.example.com",
            "chrome-extension://localhost:7233",
        ] {
            let code = refused("/x", &[("host", "localhost:7233"), ("origin", origin)]);
            assert_eq!(code.as_deref(), Some("ORIGIN_NOT_ALLOWED"), "{origin}");
        }
        let two = [
            ("host", "a"),
            ("origin", "http://a"),
            ("origin", "http://b"),
        ];
        assert_eq!(refused("/x", &two).as_deref(), Some("ORIGIN_NOT_ALLOWED"));
        let site = [
            ("host", "a"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert_eq!(refused("/x", &site).as_deref(), Some("ORIGIN_NOT_ALLOWED"));
        assert_eq!(
            refused("/x", &[("host", "a"), ("sec-fetch-site", "none")]),
            None
        );
    }

    #[test]
    fn request_with_two_hosts_is_refused() {
        assert_eq!(refused("/x", &[]).as_deref(), Some("HOST_MISSING"));
        for host in ["", ":7233", "a b", "user@localhost", "localhost:7233/x"] {
            assert_eq!(
                refused("/x", &[("host", host)]).as_deref(),
                Some("HOST_UNREADABLE"),
                "{host}"
            );
        }
        assert_eq!(
            refused("/x", &[("host", "a"), ("host", "a")]).as_deref(),
            Some("HOST_AMBIGUOUS")
        );
        assert_eq!(
            refused("http://localhost/x", &[("host", "a")]).as_deref(),
            Some("HOST_AMBIGUOUS")
        );
        assert_eq!(
            refused("http://evil.com/x", &[("host", "evil.com")]).as_deref(),
            Some("HOST_NOT_ALLOWED")
        );
        assert_eq!(refused("http://localhost/x", &[]), None);
    }
}
