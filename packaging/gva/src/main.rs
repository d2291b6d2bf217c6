//! gva: makes, runs and packs Grid Virtual Appliances.

fn main() {}
