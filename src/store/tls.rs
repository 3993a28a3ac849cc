//! TLS to the database: the trusted authorities, the client's identity, and the advice for a
//! certificate that fails.

use std::{io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    StoreError,
    url::{DatabaseUrl, Endpoint, Host, RootCert, SslMode},
};

/// The TLS configuration for each mode of a host.
#[derive(Clone)]
pub(super) struct Encryption {
    full: MakeRustlsConnect,
    authority: MakeRustlsConnect,
    unverified: MakeRustlsConnect,
}

impl Encryption {
    /// Reads the files that the URL names. A machine without any authorities can still use a local
    /// database.
    pub(super) fn of(url: &DatabaseUrl) -> Result<Self, StoreError> {
        // Explicit: rustls panics where a build contains two providers and none was chosen.
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots(url)?);
        let any: Arc<dyn ServerCertVerifier> = Arc::new(Unverified(Arc::clone(&provider)));
        let (full, authority) = match roots.is_empty() {
            // Without a trusted authority every verification fails.
            true => (None, None),
            false => {
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                        .build()
                        .map_err(|error| StoreError::Config(format!("sslrootcert: {error}")))?;
                let any_name: Arc<dyn ServerCertVerifier> =
                    Arc::new(AnyName(Arc::clone(&verifier)));
                (
                    Some(verifier as Arc<dyn ServerCertVerifier>),
                    Some(any_name),
                )
            }
        };
        let connector = |verifier| connector(url, &provider, verifier);
        // All three are made now, so that an unreadable file fails the start and not a later
        // connection.
        Ok(Self {
            full: connector(full)?,
            authority: connector(authority)?,
            unverified: connector(Some(any))?,
        })
    }

    /// The configuration for a host with this mode.
    pub(super) fn connector(&self, mode: SslMode) -> MakeRustlsConnect {
        match mode {
            SslMode::Disable | SslMode::Prefer => &self.unverified,
            SslMode::VerifyCa => &self.authority,
            SslMode::Require | SslMode::VerifyFull => &self.full,
        }
        .clone()
    }
}

fn connector(
    url: &DatabaseUrl,
    provider: &Arc<CryptoProvider>,
    verifier: Option<Arc<dyn ServerCertVerifier>>,
) -> Result<MakeRustlsConnect, StoreError> {
    let wrong = |error: rustls::Error| StoreError::Config(format!("TLS to the database: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions();
    let builder = builder.map_err(wrong)?;
    let builder = match verifier {
        // `dangerous` is the only interface that takes a verifier, also the standard one of `full`.
        Some(verifier) => builder
            .dangerous()
            .with_custom_certificate_verifier(verifier),
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let mut config = match &url.tls.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates("sslcert", cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("sslkey", key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                StoreError::Config(format!(
                    "sslcert and sslkey do not belong together: {error}"
                ))
            })?
        }
    };
    if url.tls.direct {
        // Postgres requires its ALPN name where TLS begins without the preceding negotiation.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

fn roots(url: &DatabaseUrl) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    match &url.tls.root_cert {
        Some(RootCert::File(file)) => {
            for certificate in certificates("sslrootcert", file)? {
                roots.add(certificate).map_err(|error| {
                    StoreError::Config(format!("sslrootcert {}: {error}", file.display()))
                })?;
            }
        }
        Some(RootCert::System) | None => {
            // One broken certificate of the machine must not disable the others; if none is left,
            // the error of the handshake names `sslrootcert`.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(parameter: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(list) if list.is_empty() => Err(StoreError::Config(format!(
            "{parameter} {}: there is no certificate in it",
            file.display()
        ))),
        Ok(list) => Ok(list),
        Err(error) => Err(unreadable(parameter, file, &error)),
    }
}

fn unreadable(parameter: &str, file: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Config(format!(
        "{parameter} {}: cannot be read as PEM: {error}",
        file.display()
    ))
}

/// Accepts a trusted authority's certificate for any name.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

/// Accepts any certificate: for `prefer`, which would use plain text without TLS.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The verifier checks the name last, after everything else has passed.
        match self
            .0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // The signature is verified although any certificate passes: the peer must own the key of
        // the certificate that it shows, as in every handshake.
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Advice where a connection failed because of TLS; `None` where it failed for another reason.
pub(super) fn advice(error: &tokio_postgres::Error, endpoint: &Endpoint) -> Option<String> {
    let source = std::error::Error::source(error)?;
    // The driver has only the text for this case.
    if source.to_string() == "server does not support TLS" {
        return Some(format!(
            "{endpoint} does not offer TLS: enable it there (ssl = on), or set sslmode=disable in the URL if the network is trusted"
        ));
    }
    // Connections over a Unix socket have no TLS.
    let Host::Tcp(name) = &endpoint.host else {
        return None;
    };
    let error = rustls_error(source)?;
    let what = match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer => format!(
                "the authority that signed the certificate of {endpoint} is not trusted here: name its certificate with \
                 sslrootcert=/path/to/ca.pem"
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the certificate of {endpoint} does not name `{name}` (as a subject alternative name): connect by a name that is in it, or set sslmode=verify-ca to trust its authority for any name"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!(
                    "the certificate of {endpoint} has expired: renew it, and check the clock of this machine"
                )
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!(
                    "the certificate of {endpoint} is not valid yet: check the clocks of both machines"
                )
            }
            why => format!(
                "the certificate of {endpoint} is refused ({why:?}): a self-signed certificate must be issued for a server (basicConstraints CA:FALSE, subjectAltName) by an authority that sslrootcert names"
            ),
        },
        // TLS 1.3 has an alert for a missing certificate; older versions send a general one.
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::HandshakeFailure,
        ) => format!(
            "{endpoint} refuses the certificate of this client, or asks for one ({error}): set one that it trusts with \
             sslcert=/path/to/client.pem and sslkey=/path/to/client.key"
        ),
        error => format!("TLS with {endpoint} failed: {error}"),
    };
    Some(what)
}

/// The error of rustls, however deep an I/O error has wrapped it.
fn rustls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(error);
    }
    // `source` of an I/O error skips the error that it wraps, so that one is taken by `get_ref`.
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    match inner {
        Some(inner) => rustls_error(inner),
        None => error.source().and_then(rustls_error),
    }
}
