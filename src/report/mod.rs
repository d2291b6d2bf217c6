//! Reporting: what gvad tells the outside as it happens, and what the outside may ask for, over a virtio-serial port. [`event`] has the shapes.

pub mod event;
