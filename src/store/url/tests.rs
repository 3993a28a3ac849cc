use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn read(text: &str) -> DatabaseUrl {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    let error = text
        .parse::<DatabaseUrl>()
        .err()
        .unwrap_or_else(|| panic!("{text} is accepted"));
    error.to_string()
}

fn tcp(name: &str, port: u16) -> Endpoint {
    Endpoint {
        host: Host::Tcp(name.into()),
        address: None,
        port,
    }
}

/// The mode of its first host.
fn mode(text: &str) -> SslMode {
    let url = read(text);
    url.mode(&url.hosts[0])
}

#[test]
fn url_and_keyword_forms_are_equivalent() {
    let url = read(
        "postgresql://ann:se%20cret@db.example.com:6000/orders?sslmode=verify-ca&connect_timeout=7",
    );
    assert_eq!(url.hosts, [tcp("db.example.com", 6000)]);
    assert_eq!(
        (url.user.as_deref(), url.database.as_deref()),
        (Some("ann"), Some("orders"))
    );
    assert_eq!(url.password.as_ref().map(Secret::reveal), Some("se cret"));
    assert_eq!(url.tls.mode, Some(SslMode::VerifyCa));
    assert_eq!(url.connect_timeout, Some(Duration::from_secs(7)));
    let same = "host = db.example.com port=6000 user=ann password='se cret' dbname=orders sslmode=verify-ca connect_timeout=7";
    assert_eq!(read(same), url);
    assert_eq!(
        read(r"host=h password='it\'s \\ here' user=a\ b")
            .password
            .unwrap()
            .reveal(),
        r"it's \ here"
    );
    assert_eq!(read("host=h password='' user=u").password, None);
    // A value may have the form of a URL.
    assert_eq!(
        read("host=h password=x://y").password.unwrap().reveal(),
        "x://y"
    );
}

#[test]
fn hosts_are_names_addresses_or_sockets() {
    let several = read(
        "postgres://u@a:1,b,[::1]:3/d?target_session_attrs=read-write&load_balance_hosts=random",
    );
    assert_eq!(
        several.hosts,
        [tcp("a", 1), tcp("b", DEFAULT_PORT), tcp("::1", 3)]
    );
    assert!(several.shuffled);
    assert_eq!(several.hosts[2].to_string(), "[::1]:3");
    assert_eq!(read("host=a,b port=9").hosts, [tcp("a", 9), tcp("b", 9)]);
    let socket = Endpoint {
        host: Host::Unix("/run/postgresql".into()),
        address: None,
        port: DEFAULT_PORT,
    };
    let forms = [
        "host=/run/postgresql",
        "postgres://%2Frun%2Fpostgresql/d",
        "postgres:///d?host=/run/postgresql",
    ];
    for form in forms {
        assert_eq!(read(form).hosts, std::slice::from_ref(&socket), "{form}");
    }
    let named = read("host=db hostaddr=10.0.0.1").hosts;
    assert_eq!(
        named[0].address,
        Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)))
    );
    assert_eq!(
        read("hostaddr=10.0.0.1").hosts[0].host,
        Host::Tcp("10.0.0.1".into())
    );
    assert_eq!(
        read(&format!("host={}", vec!["h"; MAX_HOSTS].join(",")))
            .hosts
            .len(),
        MAX_HOSTS
    );
    assert!(refused(&format!("host={}", vec!["h"; MAX_HOSTS + 1].join(","))).contains("17 hosts"));
}

#[test]
fn special_characters_of_a_password_are_kept() {
    for password in [
        "sslmode",
        "x?sslmode=disable",
        "a@b",
        "p/w:x#y%z",
        "sslmode=disable&host=evil",
        "&=?",
    ] {
        let encoded: String = password.bytes().map(|b| format!("%{b:02X}")).collect();
        let url = read(&format!("postgres://u:{encoded}@db.example.com/d"));
        assert_eq!(url.password.as_ref().map(Secret::reveal), Some(password));
        assert_eq!(url.mode(&url.hosts[0]), SslMode::VerifyFull, "{password}");
        let quoted = read(&format!("host=db.example.com user=u password='{password}'"));
        assert_eq!(
            quoted.mode(&quoted.hosts[0]),
            SslMode::VerifyFull,
            "{password}"
        );
        for shown in [format!("{url:?}"), url.to_string(), format!("{quoted:?}")] {
            assert!(
                !shown.contains(password) && !shown.contains(&encoded),
                "{shown}"
            );
        }
    }
    let raw = read("postgres://u:p@ss:w=rd@db.example.com/d");
    assert_eq!(raw.password.unwrap().reveal(), "p@ss:w=rd");
}

#[test]
fn unencoded_password_is_not_repeated_in_the_error() {
    let texts = [
        "postgres://u:hun/ter2@h/d",
        "postgres://u:hun?ter2@h/d",
        "postgres://u:12/ter2@h/d",
        "postgres://u:hun#ter2@h/d",
        "postgres://u:hun%ter2@h/d",
        "postgres://u:hun?ter2",
        "postgres://u:hun/ter2?x",
        "postgres://u:ter2",
    ];
    for text in texts {
        let said = refused(text);
        assert!(!said.contains("ter2") && !said.contains("hun"), "{said}");
        assert!(said.contains("expected postgres://"), "{said}");
    }
}

#[test]
fn sslmode_defaults_to_disable_only_for_this_machine() {
    for local in ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"] {
        assert_eq!(
            mode(&format!("postgres://u@{local}/d")),
            SslMode::Disable,
            "{local}"
        );
    }
    assert_eq!(mode("postgres://u@db.example.com/d"), SslMode::VerifyFull);
    assert_eq!(
        mode("host=localhost hostaddr=10.0.0.1"),
        SslMode::VerifyFull
    );
    assert_eq!(
        mode("postgres://u@localhost/d?sslrootcert=/ca.pem"),
        SslMode::VerifyFull
    );
    assert_eq!(
        mode("postgres://u@db.example.com/d?sslmode=disable"),
        SslMode::Disable
    );
    assert_eq!(
        mode("postgres://u@db.example.com/d?sslmode=prefer"),
        SslMode::Prefer
    );
    assert_eq!(
        mode("host=/run/postgresql sslmode=require"),
        SslMode::Disable
    );
    let mixed = read("postgres://u@localhost,db.example.com/d");
    assert_eq!(
        mixed
            .hosts
            .iter()
            .map(|h| mixed.mode(h))
            .collect::<Vec<_>>(),
        [SslMode::Disable, SslMode::VerifyFull]
    );
}

#[test]
fn parameters_of_tls_and_time_outs_are_parsed() {
    let url = read(
        "postgres://u@h/d?sslrootcert=system&sslcert=%2Fc.pem&sslkey=/k.pem&sslnegotiation=direct&channel_binding=require\
         &options=-c%20work_mem%3D1MB&application_name=mine&keepalives_idle=3&keepalives_count=2&tcp_user_timeout=1500",
    );
    assert_eq!(url.tls.root_cert, Some(RootCert::System));
    assert_eq!(url.tls.identity, Some(("/c.pem".into(), "/k.pem".into())));
    assert!(url.tls.direct);
    assert_eq!(url.channel_binding, ChannelBinding::Require);
    assert_eq!(url.options.as_deref(), Some("-c work_mem=1MB"));
    assert_eq!(url.application_name.as_deref(), Some("mine"));
    let keepalives = Keepalives {
        off: false,
        idle: Some(Duration::from_secs(3)),
        interval: None,
        retries: Some(2),
    };
    assert_eq!(url.keepalives, keepalives);
    assert_eq!(url.tcp_user_timeout, Some(Duration::from_millis(1_500)));
    assert_eq!(
        read("host=h connect_timeout=3600").connect_timeout,
        Some(Duration::from_secs(MAX_SECONDS))
    );
}

#[test]
fn invalid_urls_are_refused_with_the_reason() {
    for (text, words) in [
        ("", "there is no host"),
        ("mysql://x", "scheme"),
        ("postgres://u@/d", "there is no host"),
        ("postgres://u@h:0/d", "a port is not a number"),
        ("postgres://u@h:notaport/d", "a port is not a number"),
        ("postgres://u@h:65536/d", "a port is not a number"),
        ("postgres://u@[::1/d", "has no closing bracket"),
        ("postgres://u@[nine]/d", "not an IPv6 address"),
        ("postgres://u@[::1]x/d", "only a port"),
        (
            "postgres://u@h/d?pgbouncer=true",
            "the parameter `pgbouncer` is unknown",
        ),
        ("host=h sslcrl=x", "the parameter `sslcrl` is unknown"),
        (
            "postgres://u@h/d?sslmode=allow",
            "sslmode `allow` is unknown, one of disable, prefer, require, verify-ca, verify-full",
        ),
        (
            "postgres://u@h/d?sslmode=require&sslmode=disable",
            "`sslmode` is given twice",
        ),
        ("postgres://u@h/d?host=other", "`host` is given twice"),
        ("postgres://u@h/d?sslcert=/c", "without sslkey"),
        ("postgres://u@h/d?sslkey=/c", "without sslcert"),
        (
            "postgres://u@h/d?sslmode=prefer&sslnegotiation=direct",
            "sslnegotiation=direct needs",
        ),
        (
            "postgres://u@h/d?target_session_attrs=standby",
            "tasker has to write",
        ),
        (
            "postgres://u@h/d?connect_timeout=3601",
            "connect_timeout `3601`",
        ),
        (
            "host=h keepalives_count=2 keepalives_retries=3",
            "keepalives_count and keepalives_retries are two names of one setting",
        ),
        ("postgres://u@h/d?x", "a parameter has no `=`"),
        ("postgres://%zz@h/d", "the user has a `%`"),
        ("postgres://u@h/%00", "the database's name contains NUL"),
        ("postgres://u:%ff@h/d", "the password is not UTF-8"),
        (
            "host=h password='open",
            "the value of `password` has no closing quote",
        ),
        ("host=a,b port=1,2,3", "2 hosts and 3 ports"),
        ("host=h hostaddr=nine", "hostaddr `nine`"),
        ("justaword", "neither a scheme nor a `=`"),
    ] {
        let said = refused(text);
        assert!(
            said.contains(words) && said.starts_with("database URL: "),
            "{text}: {said}"
        );
    }
}
