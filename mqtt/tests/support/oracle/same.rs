//! Whether a packet of ours and one of `mqttbytes` say the same, field by field.

use mqttbytes::{v4 as old, v5 as new};
use ringlane_mqtt::{
    Ack, Connack, ConnackProperties, Connect, ConnectProperties, Disconnect, Packet, Publish,
    PublishProperties, QoS, Suback, Subscribe, SubscribeFilter, Unsubscribe, UserProperties, Will,
};

/// Compares packets of MQTT 3.1.1.
pub(crate) fn v4(ours: Option<&Packet<'_>>, theirs: &old::Packet) -> bool {
    let Some(ours) = ours else { return false };
    match (ours, theirs) {
        (Packet::Connect(ours), old::Packet::Connect(theirs)) => connect_v4(ours, theirs),
        (Packet::Connack(ours), old::Packet::ConnAck(theirs)) => {
            ours.session_present == theirs.session_present && ours.reason.0 == theirs.code as u8
        }
        (Packet::Publish(ours), old::Packet::Publish(theirs)) => {
            let flags = (theirs.dup, theirs.qos as u8, theirs.retain);
            same_message(ours, flags, &theirs.topic, theirs.pkid, &theirs.payload)
        }
        (Packet::Puback(ours), old::Packet::PubAck(theirs)) => ours.packet_id == theirs.pkid,
        (Packet::Pubrec(ours), old::Packet::PubRec(theirs)) => ours.packet_id == theirs.pkid,
        (Packet::Pubrel(ours), old::Packet::PubRel(theirs)) => ours.packet_id == theirs.pkid,
        (Packet::Pubcomp(ours), old::Packet::PubComp(theirs)) => ours.packet_id == theirs.pkid,
        (Packet::Subscribe(ours), old::Packet::Subscribe(theirs)) => {
            let entries = theirs.filters.iter().map(|entry| (&entry.path[..], entry.qos as u8));
            ours.packet_id == theirs.pkid
                && ours.filters.iter().map(|entry| (entry.filter, entry.qos as u8)).eq(entries)
        }
        (Packet::Suback(ours), old::Packet::SubAck(theirs)) => {
            let codes = theirs.return_codes.iter().map(|code| match code {
                old::SubscribeReasonCode::Success(qos) => *qos as u8,
                old::SubscribeReasonCode::Failure => 0x80,
            });
            ours.packet_id == theirs.pkid && ours.reasons.iter().copied().eq(codes)
        }
        (Packet::Unsubscribe(ours), old::Packet::Unsubscribe(theirs)) => {
            same_unsubscribe(ours, theirs)
        }
        (Packet::Unsuback(ours), old::Packet::UnsubAck(theirs)) => ours.packet_id == theirs.pkid,
        (Packet::Pingreq, old::Packet::PingReq)
        | (Packet::Pingresp, old::Packet::PingResp)
        | (Packet::Disconnect(_), old::Packet::Disconnect) => true,
        _ => false,
    }
}

/// Compares packets of MQTT 5, UNSUBSCRIBE and AUTH excepted.
pub(crate) fn v5(ours: Option<&Packet<'_>>, theirs: &new::Packet) -> bool {
    let Some(ours) = ours else { return false };
    match (ours, theirs) {
        (Packet::Connect(ours), new::Packet::Connect(theirs)) => connect_v5(ours, theirs),
        (Packet::Connack(ours), new::Packet::ConnAck(theirs)) => connack(ours, theirs),
        (Packet::Publish(ours), new::Packet::Publish(theirs)) => {
            let flags = (theirs.dup, theirs.qos as u8, theirs.retain);
            same_message(ours, flags, &theirs.topic, theirs.pkid, &theirs.payload)
                && publish_properties(&ours.properties, theirs.properties.as_ref())
        }
        (Packet::Puback(ours), new::Packet::PubAck(theirs)) => {
            let texts = theirs.properties.as_ref().map(|p| (&p.reason_string, &p.user_properties));
            ack(ours, theirs.pkid, theirs.reason as u8, texts)
        }
        (Packet::Pubrec(ours), new::Packet::PubRec(theirs)) => {
            let texts = theirs.properties.as_ref().map(|p| (&p.reason_string, &p.user_properties));
            ack(ours, theirs.pkid, theirs.reason as u8, texts)
        }
        (Packet::Pubrel(ours), new::Packet::PubRel(theirs)) => {
            let texts = theirs.properties.as_ref().map(|p| (&p.reason_string, &p.user_properties));
            ack(ours, theirs.pkid, theirs.reason as u8, texts)
        }
        (Packet::Pubcomp(ours), new::Packet::PubComp(theirs)) => {
            let texts = theirs.properties.as_ref().map(|p| (&p.reason_string, &p.user_properties));
            ack(ours, theirs.pkid, theirs.reason as u8, texts)
        }
        (Packet::Subscribe(ours), new::Packet::Subscribe(theirs)) => subscribe(ours, theirs),
        (Packet::Suback(ours), new::Packet::SubAck(theirs)) => {
            let texts = theirs.properties.as_ref().map(|p| (&p.reason_string, &p.user_properties));
            let codes: Vec<u8> = theirs.return_codes.iter().map(|code| *code as u8).collect();
            suback(ours, theirs.pkid, &codes, texts)
        }
        (Packet::Unsuback(ours), new::Packet::UnsubAck(theirs)) => {
            let texts = theirs.properties.as_ref().map(|p| (&p.reason_string, &p.user_properties));
            let codes: Vec<u8> = theirs.reasons.iter().map(|code| *code as u8).collect();
            suback(ours, theirs.pkid, &codes, texts)
        }
        (Packet::Pingreq, new::Packet::PingReq) | (Packet::Pingresp, new::Packet::PingResp) => true,
        (Packet::Disconnect(ours), new::Packet::Disconnect(theirs)) => disconnect(ours, theirs),
        _ => false,
    }
}

/// Reason string and user properties, which `mqttbytes` leaves out where the block is empty.
type Texts<'a> = Option<(&'a Option<String>, &'a Vec<(String, String)>)>;

fn connect_v4(ours: &Connect<'_>, theirs: &old::Connect) -> bool {
    let wills = match (&ours.will, &theirs.last_will) {
        (Some(ours), Some(theirs)) => {
            will(ours, &theirs.topic, &theirs.message, theirs.qos as u8, theirs.retain)
        }
        (ours, theirs) => ours.is_none() && theirs.is_none(),
    };
    let texts = theirs.login.as_ref().map(|login| (&login.username[..], &login.password[..]));
    wills
        && ours.client_id == theirs.client_id
        && ours.clean_start == theirs.clean_session
        && ours.keep_alive_secs == theirs.keep_alive
        && login(ours, texts)
}

fn connect_v5(ours: &Connect<'_>, theirs: &new::Connect) -> bool {
    let wills = match (&ours.will, &theirs.last_will) {
        (Some(ours), Some(theirs)) => {
            will(ours, &theirs.topic, &theirs.message, theirs.qos as u8, theirs.retain)
                && will_properties(ours, theirs.properties.as_ref())
        }
        (ours, theirs) => ours.is_none() && theirs.is_none(),
    };
    let texts = theirs.login.as_ref().map(|login| (&login.username[..], &login.password[..]));
    wills
        && ours.client_id == theirs.client_id
        && ours.clean_start == theirs.clean_session
        && ours.keep_alive_secs == theirs.keep_alive
        && login(ours, texts)
        && connect_properties(&ours.properties, theirs.properties.as_ref())
}

/// `mqttbytes` cannot tell an absent user name or password from an empty one.
fn login(ours: &Connect<'_>, theirs: Option<(&str, &str)>) -> bool {
    let (user_name, password) = theirs.unwrap_or_default();
    ours.user_name.unwrap_or_default() == user_name
        && ours.password.unwrap_or_default() == password.as_bytes()
}

fn will(ours: &Will<'_>, topic: &str, payload: &[u8], qos: u8, retain: bool) -> bool {
    ours.topic == topic && ours.payload == payload && ours.qos as u8 == qos && ours.retain == retain
}

fn will_properties(ours: &Will<'_>, theirs: Option<&new::WillProperties>) -> bool {
    let Some(theirs) = theirs else {
        return ours.delay_secs == 0 && ours.properties == PublishProperties::default();
    };
    let properties = &ours.properties;
    ours.delay_secs == theirs.delay_interval.unwrap_or(0)
        && properties.payload_format == theirs.payload_format_indicator
        && properties.message_expiry_secs == theirs.message_expiry_interval
        && properties.content_type == theirs.content_type.as_deref()
        && properties.response_topic == theirs.response_topic.as_deref()
        && properties.correlation_data == theirs.correlation_data.as_deref()
        && user(&properties.user_properties, &theirs.user_properties)
}

fn connect_properties(
    ours: &ConnectProperties<'_>,
    theirs: Option<&new::ConnectProperties>,
) -> bool {
    let Some(theirs) = theirs else { return *ours == ConnectProperties::default() };
    ours.session_expiry_secs == theirs.session_expiry_interval
        && ours.receive_maximum == theirs.receive_maximum
        && ours.packet_bytes_max == theirs.max_packet_size
        && ours.topic_alias_maximum == theirs.topic_alias_max
        && u8::from(ours.request_response_information) == theirs.request_response_info.unwrap_or(0)
        && u8::from(ours.request_problem_information) == theirs.request_problem_info.unwrap_or(1)
        && user(&ours.user_properties, &theirs.user_properties)
        && ours.authentication_method == theirs.authentication_method.as_deref()
        && ours.authentication_data == theirs.authentication_data.as_deref()
}

fn connack(ours: &Connack<'_>, theirs: &new::ConnAck) -> bool {
    ours.session_present == theirs.session_present
        && ours.reason.0 == theirs.code as u8
        && match &theirs.properties {
            None => ours.properties == ConnackProperties::default(),
            Some(theirs) => {
                connack_numbers(&ours.properties, theirs) && connack_texts(&ours.properties, theirs)
            }
        }
}

fn connack_numbers(ours: &ConnackProperties<'_>, theirs: &new::ConnAckProperties) -> bool {
    ours.session_expiry_secs == theirs.session_expiry_interval
        && ours.receive_maximum == theirs.receive_max
        && ours.maximum_qos == theirs.max_qos
        && ours.retain_available.map(u8::from) == theirs.retain_available
        && ours.packet_bytes_max == theirs.max_packet_size
        && ours.topic_alias_maximum == theirs.topic_alias_max
        && ours.wildcard_available.map(u8::from) == theirs.wildcard_subscription_available
        && ours.subscription_ids_available.map(u8::from)
            == theirs.subscription_identifiers_available
        && ours.shared_available.map(u8::from) == theirs.shared_subscription_available
        && ours.server_keep_alive_secs == theirs.server_keep_alive
}

fn connack_texts(ours: &ConnackProperties<'_>, theirs: &new::ConnAckProperties) -> bool {
    ours.assigned_client_id == theirs.assigned_client_identifier.as_deref()
        && ours.reason_string == theirs.reason_string.as_deref()
        && ours.response_information == theirs.response_information.as_deref()
        && ours.server_reference == theirs.server_reference.as_deref()
        && ours.authentication_method == theirs.authentication_method.as_deref()
        && ours.authentication_data == theirs.authentication_data.as_deref()
        && user(&ours.user_properties, &theirs.user_properties)
}

fn same_message(
    ours: &Publish<'_>,
    flags: (bool, u8, bool),
    topic: &str,
    packet_id: u16,
    payload: &[u8],
) -> bool {
    (ours.dup, ours.qos as u8, ours.retain) == flags
        && ours.topic == topic
        && ours.packet_id == packet_id
        && ours.payload == payload
}

fn publish_properties(
    ours: &PublishProperties<'_>,
    theirs: Option<&new::PublishProperties>,
) -> bool {
    let Some(theirs) = theirs else { return *ours == PublishProperties::default() };
    ours.payload_format == theirs.payload_format_indicator
        && ours.message_expiry_secs == theirs.message_expiry_interval
        && ours.topic_alias == theirs.topic_alias
        && ours.response_topic == theirs.response_topic.as_deref()
        && ours.correlation_data == theirs.correlation_data.as_deref()
        && ours.content_type == theirs.content_type.as_deref()
        && user(&ours.user_properties, &theirs.user_properties)
        && ours
            .subscription_ids
            .iter()
            .map(|id| id as usize)
            .eq(theirs.subscription_identifiers.iter().copied())
}

fn ack(ours: &Ack<'_>, packet_id: u16, reason: u8, theirs: Texts<'_>) -> bool {
    ours.packet_id == packet_id
        && ours.reason.0 == reason
        && texts(ours.reason_string, &ours.user_properties, theirs)
}

fn suback(ours: &Suback<'_>, packet_id: u16, codes: &[u8], theirs: Texts<'_>) -> bool {
    ours.packet_id == packet_id
        && ours.reasons == codes
        && texts(ours.reason_string, &ours.user_properties, theirs)
}

fn texts(reason: Option<&str>, ours: &UserProperties<'_>, theirs: Texts<'_>) -> bool {
    match theirs {
        None => reason.is_none() && ours.is_empty(),
        Some((text, properties)) => reason == text.as_deref() && user(ours, properties),
    }
}

fn subscribe(ours: &Subscribe<'_>, theirs: &new::Subscribe) -> bool {
    let (id, properties) = match &theirs.properties {
        Some(properties) => (properties.id, &properties.user_properties[..]),
        None => (None, &[][..]),
    };
    ours.packet_id == theirs.pkid
        && ours.subscription_id.map(|id| id as usize) == id
        && user(&ours.user_properties, properties)
        && ours.filters.len() == theirs.filters.len()
        && ours.filters.iter().zip(&theirs.filters).all(|(ours, theirs)| entry(&ours, theirs))
}

fn entry(ours: &SubscribeFilter<'_>, theirs: &new::SubscribeFilter) -> bool {
    let retain_handling = match theirs.retain_forward_rule {
        new::RetainForwardRule::OnEverySubscribe => 0,
        new::RetainForwardRule::OnNewSubscribe => 1,
        new::RetainForwardRule::Never => 2,
    };
    ours.filter == theirs.path
        && QoS::from_u8(theirs.qos as u8) == Some(ours.qos)
        && ours.no_local == theirs.nolocal
        && ours.retain_as_published == theirs.preserve_retain
        && ours.retain_handling == retain_handling
}

fn same_unsubscribe(ours: &Unsubscribe<'_>, theirs: &old::Unsubscribe) -> bool {
    ours.packet_id == theirs.pkid
        && ours.filters.iter().eq(theirs.topics.iter().map(String::as_str))
}

fn disconnect(ours: &Disconnect<'_>, theirs: &new::Disconnect) -> bool {
    let properties = match &theirs.properties {
        None => {
            ours.session_expiry_secs.is_none()
                && ours.server_reference.is_none()
                && texts(ours.reason_string, &ours.user_properties, None)
        }
        Some(theirs) => {
            ours.session_expiry_secs == theirs.session_expiry_interval
                && ours.server_reference == theirs.server_reference.as_deref()
                && ours.reason_string == theirs.reason_string.as_deref()
                && user(&ours.user_properties, &theirs.user_properties)
        }
    };
    properties && ours.reason.0 == theirs.reason_code as u8
}

fn user(ours: &UserProperties<'_>, theirs: &[(String, String)]) -> bool {
    ours.iter().eq(theirs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}
