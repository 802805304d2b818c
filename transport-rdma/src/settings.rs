//! What links over verbs can be told, with defaults for RoCE v2.

use crate::error::RdmaError;
use crate::ring::{RING_BYTES_MAX, RING_BYTES_MIN};

/// Settings of links over verbs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RdmaSettings {
    /// The device; none: the first with an active port.
    pub device: Option<String>,
    /// The port, from 1; none: the first that is active.
    pub port: Option<u16>,
    /// Position of the address in the port's table; none: see [`crate::choose()`].
    pub gid_index: Option<u16>,
    /// Largest packet in bytes (256 to 4,096, a power of two); none: what both ports carry.
    pub path_mtu: Option<u32>,
    /// Traffic class of the IP header: 104 is DSCP 26, which switches for RoCE are set up for.
    pub traffic_class: u8,
    /// Time until a packet is sent again: 4.096 us times two to this power, 8 to 20.
    pub ack_timeout: u8,
    /// How often a packet is sent again before the link is given up, 1 to 7.
    pub retries: u8,
    /// Bytes of the ring that a peer writes into, per link.
    pub ring_bytes: u32,
    /// Bytes of the memory that heads of messages and unregistered bodies are copied to, per link.
    pub stage_bytes: u32,
    /// Whether rings take huge pages where the host has reserved them.
    pub huge_pages: bool,
}

impl Default for RdmaSettings {
    fn default() -> Self {
        Self {
            device: None,
            port: None,
            gid_index: None,
            path_mtu: None,
            traffic_class: 104,
            // With three retries an end is noticed after 4 times 67 ms.
            ack_timeout: 14,
            retries: 3,
            ring_bytes: 4 << 20,
            stage_bytes: 1 << 20,
            huge_pages: true,
        }
    }
}

impl RdmaSettings {
    /// Checks what no device could follow.
    ///
    /// # Errors
    ///
    /// The setting and its bounds.
    pub fn check(&self) -> Result<(), RdmaError> {
        let refuse = |text: String| Err(RdmaError::Setting(text));
        let sizes = [("ring_bytes", self.ring_bytes), ("stage_bytes", self.stage_bytes)];
        for (name, bytes) in sizes {
            if !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&bytes) {
                return refuse(format!("{name} is {RING_BYTES_MIN} to {RING_BYTES_MAX}"));
            }
        }
        if let Some(mtu) = self.path_mtu
            && !(mtu.is_power_of_two() && (256..=4096).contains(&mtu))
        {
            return refuse("path_mtu is 256, 512, 1024, 2048 or 4096".to_owned());
        }
        if !(8..=20).contains(&self.ack_timeout) || !(1..=7).contains(&self.retries) {
            return refuse("ack_timeout is 8 to 20, retries 1 to 7".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_and_what_no_device_can_follow_does_not() {
        assert!(RdmaSettings::default().check().is_ok());
        let wrong = [
            RdmaSettings { ring_bytes: 100, ..RdmaSettings::default() },
            RdmaSettings { stage_bytes: u32::MAX, ..RdmaSettings::default() },
            RdmaSettings { path_mtu: Some(1500), ..RdmaSettings::default() },
            RdmaSettings { ack_timeout: 31, ..RdmaSettings::default() },
            RdmaSettings { retries: 0, ..RdmaSettings::default() },
        ];
        for settings in wrong {
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
