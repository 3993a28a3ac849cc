//! `NAMESPACE/NAME[@VERSION]`, the way a command line names a template.

use std::{fmt, str::FromStr};

/// Names one version of a template, or the newest one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRef {
    pub namespace: String,
    pub name: String,
    /// Empty for the newest one.
    pub version: String,
}

impl FromStr for TemplateRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "expected NAMESPACE/NAME or NAMESPACE/NAME@VERSION, such as `shop/checkout@1.2.0`";
        let (path, version) = match text.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (text, None),
        };
        let (namespace, name) = path.split_once('/').ok_or(EXPECTED)?;
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(EXPECTED.into());
        }
        if let Some(version) = version {
            semver::Version::parse(version)
                .map_err(|e| format!("`{version}` is not a semantic version: {e}"))?;
        }
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
            version: version.unwrap_or_default().into(),
        })
    }
}

impl fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.version.is_empty() {
            Ok(())
        } else {
            write!(f, "@{}", self.version)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_with_and_without_a_version_is_parsed() {
        for text in [
            "shop/checkout",
            "shop/checkout@1.2.0",
            "a.b/c-d@0.1.0-rc.1+build",
        ] {
            assert_eq!(text.parse::<TemplateRef>().expect(text).to_string(), text);
        }
        assert_eq!(
            "shop/checkout@1.2.0".parse(),
            Ok(TemplateRef {
                namespace: "shop".into(),
                name: "checkout".into(),
                version: "1.2.0".into()
            })
        );
    }

    #[test]
    fn reference_of_another_form_is_refused() {
        for text in [
            "",
            "/",
            "shop",
            "shop/",
            "/checkout",
            "a/b/c",
            "a/b@",
            "a/b@1",
            "a/b@v1.0.0",
            "a/b@1.0.0@2.0.0",
            "@1.0.0",
        ] {
            assert!(text.parse::<TemplateRef>().is_err(), "{text}");
        }
    }
}
