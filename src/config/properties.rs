//! Any value for any key: a configuration, or one line that says what is wrong.

use std::path::Path;

use proptest::prelude::*;
use toml::{Table, Value};

use super::{Config, Overrides, effective};

/// `section`, `key` and default of every key that there is, and some that are none.
fn keys() -> Vec<(String, String, Value)> {
    let default = Table::try_from(Config::default()).unwrap();
    let mut keys = Vec::new();
    for (section, value) in default {
        let Value::Table(inner) = value else {
            continue;
        };
        keys.extend(
            inner
                .into_iter()
                .map(|(key, value)| (section.clone(), key, value)),
        );
        keys.push((section, "no-key".to_owned(), Value::Boolean(true)));
    }
    keys.push((
        "environment".to_owned(),
        "SITE".to_owned(),
        Value::String("a".to_owned()),
    ));
    keys.push(("no section".to_owned(), "key".to_owned(), Value::Integer(1)));
    keys
}

fn values() -> impl Strategy<Value = Value> {
    let plausible = prop_oneof![
        "[0-9]{1,20} ?(s|ms|h|d|y|MiB|TiB|B|kB|%)?",
        "(LABEL|UUID|PARTUUID|PARTLABEL)=[ -~]{0,20}",
        "/?[a-z./*\\x00-\\x1f]{0,20}",
        "(auto|forever|keep|kill|rerun|report|private|poweroff|exit|9p|virtiofs|ext4|xfs)",
        "([a-z]{1,5}(=[a-z0-9]{0,5})?,?){0,4}",
        ".{0,40}",
        "[\\x00-\\x20\\x7f]{0,5}",
    ];
    let plain = prop_oneof![
        6 => plausible.prop_map(Value::String),
        1 => any::<i64>().prop_map(Value::Integer),
        1 => any::<bool>().prop_map(Value::Boolean),
        1 => any::<f64>().prop_map(Value::Float),
    ];
    plain.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            proptest::collection::btree_map("[a-z]{1,3}", inner, 0..3)
                .prop_map(|table| Value::Table(table.into_iter().collect())),
        ]
    })
}

/// A file with some keys; half of them have the value that they have anyway.
fn files() -> impl Strategy<Value = String> {
    let key = (
        proptest::sample::select(keys()),
        proptest::option::of(values()),
    );
    proptest::collection::vec(key, 0..5).prop_map(|chosen| {
        let mut file = Table::new();
        for ((section, key, default), value) in chosen {
            let inner = file
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                inner.insert(key, value.unwrap_or(default));
            }
        }
        toml::to_string(&file).unwrap()
    })
}

fn try_out(text: &str, drop_in: Option<String>) -> Result<(), TestCaseError> {
    let overrides = Overrides {
        drop_in,
        ..Overrides::default()
    };
    match effective(text, Path::new("/etc/gvad.toml"), &overrides) {
        Ok(config) => {
            let printed = toml::to_string(&config).unwrap();
            let again = effective(&printed, Path::new("printed"), &Overrides::default());
            prop_assert_eq!(
                again.map_err(|err| format!("{err:#}")),
                Ok(config),
                "{}",
                printed
            );
        }
        Err(err) => {
            let line = format!("{err:#}");
            let named =
                line.starts_with("/etc/gvad.toml:") || line.starts_with("credential gva.config:");
            prop_assert!(named && !line.contains(char::is_control), "{:?}", line);
        }
    }
    Ok(())
}

#[test]
fn each_key_takes_each_kind_of_text_or_complains_in_one_line() {
    for text in [
        "",
        "a\nb\u{1b}[2J",
        "/a\nb",
        "\t",
        "0",
        "1000",
        "1001 kB",
        "1GiB",
        "1h 30m",
        "77ms",
        "forever",
        "LABEL=a\nb",
        "LABEL=a b",
        "auto",
        "\u{7f}",
        "..",
    ] {
        for (section, key, _) in keys() {
            let inner = Table::from_iter([(key, Value::String(text.to_owned()))]);
            let file = Table::from_iter([(section, Value::Table(inner))]);
            try_out(&toml::to_string(&file).unwrap(), None).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn any_value_of_any_key_is_a_configuration_or_one_line(text in files()) {
        try_out(&text, None)?;
    }

    #[test]
    fn a_drop_in_over_a_file_is_a_configuration_or_one_line(text in files(), drop_in in files()) {
        try_out(&text, Some(drop_in))?;
    }

    #[test]
    fn any_text_is_a_configuration_or_one_line(text in "([a-z\\[\\]{}\"'=.#\\n\\t 0-9\\\\,]|\\PC){0,60}") {
        try_out(&text, None)?;
    }
}
