//! gvad in real virtual machines. A file is a subject; a test boots one machine, and groups what can share a boot.

mod layouts;
