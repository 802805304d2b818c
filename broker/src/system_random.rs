//! Random bytes of the system.

use rustix::rand::{GetRandomFlags, getrandom};
use std::io;

/// So many bytes that nobody can foresee.
///
/// # Errors
/// What getrandom(2) says.
pub(crate) fn random_bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    // Up to 256 bytes come whole (getrandom(2)).
    const { assert!(COUNT <= 256) };
    let mut bytes = [0; COUNT];
    if getrandom(&mut bytes, GetRandomFlags::empty())? < COUNT {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
