//! Several damages at once, at random: the same check as the fuzz target `log_open`.

#[path = "support/log_damage.rs"]
mod log_damage;
#[path = "support/log_image.rs"]
mod log_image;

use proptest::prelude::*;

proptest! {
    #[test]
    fn a_damaged_log_opens_to_a_prefix_or_is_refused(
        edits in proptest::collection::vec((0u8..16, 0u16..6144, any::<u8>()), 1..4),
        bytes in proptest::collection::vec(any::<u8>(), 255),
    ) {
        let mut input = Vec::new();
        for (kind, at, length) in edits {
            input.push(kind);
            input.extend_from_slice(&at.to_le_bytes());
            input.push(length);
            if kind % 8 < 2 {
                input.extend_from_slice(&bytes[..length.into()]);
            }
        }
        log_damage::check(&input);
    }
}

#[test]
fn no_edit_at_all() {
    log_damage::check(&[]);
}
