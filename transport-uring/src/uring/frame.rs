//! A message header with its slices, at an address that stays while the kernel reads it.

use crate::sending::SLICES_MAX;

/// Room for one `sendmsg` of at most [`SLICES_MAX`] slices. Always boxed.
pub(crate) struct Frame {
    header: libc::msghdr,
    slices: [libc::iovec; SLICES_MAX],
}

impl Frame {
    /// An empty frame.
    pub(crate) fn new() -> Box<Self> {
        let empty = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
        // SAFETY: all-zero is a valid msghdr: no name, no slices, no control data.
        let header = unsafe { core::mem::zeroed() };
        Box::new(Self { header, slices: [empty; SLICES_MAX] })
    }

    /// Names the pieces, as many as there is room for; how many bytes they have.
    ///
    /// The header points into this frame and to the pieces: both must stay where they are while
    /// the kernel reads them.
    pub(crate) fn fill<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> usize {
        let mut count = 0;
        let mut bytes = 0;
        for (slice, piece) in self.slices.iter_mut().zip(pieces) {
            // The kernel only reads what a send names.
            slice.iov_base = piece.as_ptr().cast_mut().cast();
            slice.iov_len = piece.len();
            count += 1;
            bytes += piece.len();
        }
        self.header.msg_iov = self.slices.as_mut_ptr();
        self.header.msg_iovlen = count as _;
        bytes
    }

    /// The header's address.
    pub(crate) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frame").field("slices", &self.header.msg_iovlen).finish_non_exhaustive()
    }
}
