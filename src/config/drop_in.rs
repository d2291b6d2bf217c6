//! Laying one configuration over another: every key that the drop-in has takes the place of the file's.

use anyhow::Context;
use toml::{Table, Value};

use super::Config;

/// What `text` with `drop_in` over it comes to. Both have been parsed before, each by itself.
///
/// # Errors
/// Together they are no configuration, though each is one.
pub(super) fn laid_over(text: &str, drop_in: &str) -> anyhow::Result<Config> {
    let mut whole: Table = text.parse().context("reading the configuration")?;
    let over: Table = drop_in.parse().context("reading the drop-in")?;
    lay(&mut whole, over);
    whole
        .try_into()
        .context("laying the drop-in over the configuration")
}

fn lay(whole: &mut Table, over: Table) {
    for (key, value) in over {
        match (whole.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => lay(below, above),
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
}
