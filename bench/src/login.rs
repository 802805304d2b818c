//! The CONNECT packet of a load client.

use ringlane_mqtt::{Connect, ConnectProperties, PublishProperties, QoS, Version, Will, encode};

/// What a client says of itself.
#[derive(Clone, Debug)]
pub struct Login {
    /// Client identifier.
    pub client_id: String,
    /// Clean Start, or Clean Session before MQTT 5.
    pub clean: bool,
    /// How long the session outlives the connection, in seconds; MQTT 5 only.
    pub session_expiry_secs: Option<u32>,
    /// How many QoS 1 and 2 messages the broker may have in flight to it; MQTT 5 only.
    pub receive_maximum: Option<u16>,
    /// Keep alive in seconds; 0 is off.
    pub keep_alive_secs: u16,
    /// Its will.
    pub will: Option<WillPlan>,
}

/// A will message without properties.
#[derive(Clone, Debug)]
pub struct WillPlan {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Quality of service.
    pub qos: QoS,
}

impl Login {
    /// A client whose session ends with its connection. Its keep alive is the longest there is, 18
    /// hours, so that no PINGREQ is in the way; rumqttd refuses a CONNECT that has none.
    #[must_use]
    pub fn clean(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            clean: true,
            session_expiry_secs: None,
            receive_maximum: None,
            keep_alive_secs: u16::MAX,
            will: None,
        }
    }

    /// A client whose session is kept for an hour, or for good before MQTT 5.
    #[must_use]
    pub fn persistent(client_id: impl Into<String>) -> Self {
        Self { clean: false, session_expiry_secs: Some(3600), ..Self::clean(client_id) }
    }

    /// Appends the CONNECT packet.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let properties = if version.is_v5() {
            ConnectProperties {
                session_expiry_secs: self.session_expiry_secs,
                receive_maximum: self.receive_maximum,
                request_problem_information: true,
                ..ConnectProperties::default()
            }
        } else {
            ConnectProperties { request_problem_information: true, ..Default::default() }
        };
        let will = self.will.as_ref().map(|will| Will {
            qos: will.qos,
            retain: false,
            topic: &will.topic,
            payload: &will.payload,
            delay_secs: 0,
            properties: PublishProperties::default(),
        });
        let connect = Connect {
            version,
            clean_start: self.clean,
            keep_alive_secs: self.keep_alive_secs,
            client_id: &self.client_id,
            will,
            user_name: None,
            password: None,
            properties,
        };
        encode::connect(out, &connect);
    }
}
