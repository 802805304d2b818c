//! The engine on io_uring.

pub(crate) mod frame;
