//! Parses the two forms of a connection string into the same pairs of name and value. Messages
//! repeat names of parameters, and no text that may be a password.

use std::collections::BTreeMap;

type Pairs = BTreeMap<String, String>;

/// The pairs of either form.
pub(super) fn pairs(text: &str) -> Result<Pairs, String> {
    // The protocol of Postgres ends a string at NUL, so the rest of a value would be lost silently.
    if text.contains('\0') {
        return Err("it contains NUL".into());
    }
    match text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
    {
        Some(rest) => url(rest),
        // A `://` after a `=` belongs to a value.
        None if scheme(text).is_some_and(|scheme| !scheme.contains('=')) => {
            Err("the scheme is neither postgres nor postgresql".into())
        }
        None => keys_and_values(text),
    }
}

/// The text before `://`.
fn scheme(text: &str) -> Option<&str> {
    text.split_once("://").map(|(scheme, _)| scheme)
}

/// `[user[:password]@][host[:port][,…]][/database][?name=value[&…]]`
fn url(rest: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    // These URLs have no fragment: a `#` most likely belongs to a password that was not encoded.
    if rest.contains('#') {
        return Err("a `#` is written %23".into());
    }
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before.split_once('/').unwrap_or((before, ""));
    // Otherwise the end of such a password would count as a database or a parameter, and a message
    // could repeat it.
    if database.contains('@') || query.contains('@') {
        return Err(
            "an `@` comes after the first `/` or `?`; in a password these are written %2F and %3F"
                .into(),
        );
    }
    // The last one: a password may contain an `@`.
    let (who, hosts) = match authority.rsplit_once('@') {
        Some((who, hosts)) => (Some(who), hosts),
        None => (None, authority),
    };
    if let Some(who) = who {
        let (user, password) = who
            .split_once(':')
            .map_or((who, None), |(user, password)| (user, Some(password)));
        put(
            &mut pairs,
            "user",
            decoded(user).map_err(|why| format!("the user {why}"))?,
        )?;
        if let Some(password) = password {
            put(
                &mut pairs,
                "password",
                decoded(password).map_err(|why| format!("the password {why}"))?,
            )?;
        }
    }
    self::hosts(&mut pairs, hosts)?;
    put(
        &mut pairs,
        "dbname",
        decoded(database).map_err(|why| format!("the database's name {why}"))?,
    )?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter has no `=`")?;
        let name =
            self::name(&decoded(name).map_err(|why| format!("the name of a parameter {why}"))?)?;
        put(
            &mut pairs,
            &name,
            decoded(value).map_err(|why| format!("the parameter `{name}` {why}"))?,
        )?;
    }
    Ok(pairs)
}

/// `host[:port],[::1]:port,…`
fn hosts(pairs: &mut Pairs, list: &str) -> Result<(), String> {
    if list.is_empty() {
        return Ok(());
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in list.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest
                    .split_once(']')
                    .ok_or("an address in [ ] has no closing bracket")?;
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err("the text in [ ] is not an IPv6 address".into());
                }
                let port = match rest.strip_prefix(':') {
                    Some(port) => port,
                    None if rest.is_empty() => "",
                    None => return Err("after an address in [ ] only a port is expected".into()),
                };
                (address.to_owned(), port)
            }
            None => {
                let (name, port) = host.split_once(':').unwrap_or((host, ""));
                (decoded(name).map_err(|why| format!("a host {why}"))?, port)
            }
        };
        // A decoded `%2C` would split the list that is joined below.
        if name.contains(',') {
            return Err("a host has a comma in its name".into());
        }
        names.push(name);
        ports.push(port);
    }
    put(pairs, "host", names.join(","))?;
    // Each host keeps its place in the list; an empty entry means the default port.
    if ports.iter().any(|port| !port.is_empty()) {
        put(pairs, "port", ports.join(","))?;
    }
    Ok(())
}

/// `name = value name='quoted value'`; in quotes and outside, a backslash escapes the next
/// character.
fn keys_and_values(text: &str) -> Result<Pairs, String> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or("there is neither a scheme nor a `=`")?;
        let key = name(key.trim_end())?;
        let (value, left) = value(after.trim_start())
            .ok_or_else(|| format!("the value of `{key}` has no closing quote"))?;
        put(&mut pairs, &key, value)?;
        rest = left.trim_start();
    }
    Ok(pairs)
}

/// One value, and the text after it.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '\'' if quoted => return Some((value, &text[i + 1..])),
            c if c.is_whitespace() && !quoted => return Some((value, &text[i..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// A name in the form of libpq. Any other text may be part of a password that has not been encoded,
/// and is not repeated.
fn name(text: &str) -> Result<String, String> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain {
        Ok(text.to_owned())
    } else {
        Err("the name of a parameter is not a plain word".into())
    }
}

/// Rejects a repeated name, since either value could be meant.
fn put(pairs: &mut Pairs, name: &str, value: String) -> Result<(), String> {
    // An empty value counts as absent, so it conflicts with none.
    match value.is_empty() || pairs.insert(name.to_owned(), value).is_none() {
        true => Ok(()),
        false => Err(format!("`{name}` is given twice")),
    }
}

/// Decodes `%41` as `A`. The error completes a sentence that names the part.
fn decoded(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "has a `%` that two hexadecimal digits do not follow; a `%` is written %25";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || {
            rest.next()
                .and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        bytes.push(match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => high * 16 + low,
                _ => return Err(WRONG),
            },
            byte => byte,
        });
    }
    if bytes.contains(&0) {
        return Err("contains NUL");
    }
    // Checked at the end, as a character may be encoded byte by byte.
    String::from_utf8(bytes).map_err(|_| "is not UTF-8")
}
