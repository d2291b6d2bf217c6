//! Parameters: what one instance is told. They travel as systemd credentials in the SMBIOS tables, in base64, so that a value may be any bytes.

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The table has 64 KiB for everything.
const LARGEST_SUM: usize = 48 << 10;
/// A structure of strings has that many, and gva needs one itself.
const MOST: usize = 250;
/// systemd adds a prefix and makes a file name of it.
const LONGEST_NAME: usize = 200;

/// A name and a value that this instance alone is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    name: String,
    value: Vec<u8>,
}

impl Parameter {
    /// From `NAME=VALUE`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Parameter> {
        let (name, value) = text
            .split_once('=')
            .with_context(|| format!("the parameter {text:?} is not NAME=VALUE"))?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
            bail!(
                "the name of the parameter {text:?} must be 1 to {LONGEST_NAME} letters, digits, _, - or ."
            );
        }
        if value.contains('\0') {
            bail!("the value of the parameter {name} holds a NUL, which no environment can");
        }
        Ok(Parameter {
            name: name.to_owned(),
            value: value.into(),
        })
    }

    /// As a string for the SMBIOS tables. No character in it has a meaning for QEMU's options.
    fn credential(&self) -> String {
        credential(&format!("gva.param.{}", self.name), &self.value)
    }
}

fn credential(name: &str, value: &[u8]) -> String {
    format!(
        "io.systemd.credential.binary:{name}={}",
        STANDARD.encode(value)
    )
}

/// All that the instance is told; `config` is a gvad.toml for it alone.
pub(crate) fn credentials(parameters: &[Parameter], config: &str) -> anyhow::Result<Vec<String>> {
    let mut strings: Vec<String> = parameters.iter().map(Parameter::credential).collect();
    if !config.is_empty() {
        strings.push(credential("gva.config", config.as_bytes()));
    }
    if strings.len() > MOST {
        bail!("{} parameters are more than {MOST}", parameters.len());
    }
    let sum: usize = strings.iter().map(|string| string.len() + 1).sum();
    if sum > LARGEST_SUM {
        bail!(
            "the parameters are too long: {sum} bytes as credentials, {LARGEST_SUM} fit; put them on the data image"
        );
    }
    let mut names: Vec<&str> = parameters.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("the parameter {} is given twice", twice[0]);
    }
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> anyhow::Result<Vec<String>> {
        let parsed = texts.iter().map(|text| Parameter::parse(text));
        credentials(&parsed.collect::<Result<Vec<_>, _>>()?, "")
    }

    #[test]
    fn any_value_becomes_harmless_text() {
        assert_eq!(
            all(&["a=x,y=z\n"]).unwrap(),
            ["io.systemd.credential.binary:gva.param.a=eCx5PXoK"]
        );
        assert_eq!(
            all(&["a="]).unwrap(),
            ["io.systemd.credential.binary:gva.param.a="]
        );
    }

    #[test]
    fn what_cannot_be_passed_is_refused() {
        let long = format!("a={}", "x".repeat(60_000));
        for (texts, said) in [
            (&["a"][..], "NAME=VALUE"),
            (&["=a"], "name of the parameter"),
            (&["a b=c"], "name of the parameter"),
            (&["a=1", "a=2"], "given twice"),
            (&["a=\0"], "NUL"),
            (&[&long], "too long"),
            (&["a=b"; 251], "more than"),
        ] {
            let err = format!("{:#}", all(texts).unwrap_err());
            assert!(err.contains(said), "{err}");
        }
    }
}
