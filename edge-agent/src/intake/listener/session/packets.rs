//! What we send, in either version of MQTT.

use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, MaximumPacketSize, MaximumQos, Packet, Property, ReceiveMaximum, SessionExpiryInterval,
    SharedSubscriptionAvailable, SubscriptionIdentifierAvailable, TopicAliasMaximum, WildcardSubscriptionAvailable,
    v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, PubackReasonCode, SubackReasonCode,
    SubackReturnCode, UnsubackReasonCode,
};

use super::{Owed, Refusal, Spoken, TOPIC_ALIASES, Terms};

/// The device may publish. `assigned`: the name of our choosing, for one that has none.
pub(super) fn welcome(spoken: Spoken, terms: Terms, assigned: Option<&str>) -> Result<Packet, MqttError> {
    // No session outlives its connection here, so none is ever present.
    if spoken == Spoken::V3 {
        let code = ConnectReturnCode::Accepted;
        return Ok(v3_1_1::Connack::builder().return_code(code).session_present(false).build()?.into());
    }
    let mut properties: Vec<Property> = vec![
        // Whatever the device asked for.
        SessionExpiryInterval::new(0)?.into(),
        ReceiveMaximum::new(terms.receive_max)?.into(),
        MaximumQos::new(1)?.into(),
        MaximumPacketSize::new(terms.packet_bytes_max)?.into(),
        TopicAliasMaximum::new(TOPIC_ALIASES)?.into(),
        WildcardSubscriptionAvailable::new(0)?.into(),
        SubscriptionIdentifierAvailable::new(0)?.into(),
        SharedSubscriptionAvailable::new(0)?.into(),
    ];
    if let Some(name) = assigned {
        properties.push(AssignedClientIdentifier::new(name)?.into());
    }
    let connack = v5_0::Connack::builder().session_present(false).reason_code(ConnectReasonCode::Success);
    Ok(connack.props(properties).build()?.into())
}

/// The device may not.
pub(super) fn refusal(spoken: Spoken, refusal: Refusal) -> Result<Packet, MqttError> {
    Ok(match spoken {
        Spoken::V3 => v3_1_1::Connack::builder().return_code(refusal.in_v3()).session_present(false).build()?.into(),
        Spoken::V5 => v5_0::Connack::builder().reason_code(refusal.in_v5()).session_present(false).build()?.into(),
    })
}

/// The PUBACK of a publish.
pub(super) fn puback(spoken: Spoken, owed: Owed) -> Result<Packet, MqttError> {
    Ok(match (spoken, owed.barred) {
        (Spoken::V3, _) => v3_1_1::Puback::builder().packet_id(owed.packet_id).build()?.into(),
        (Spoken::V5, false) => v5_0::Puback::builder().packet_id(owed.packet_id).build()?.into(),
        (Spoken::V5, true) => {
            let reason = PubackReasonCode::NotAuthorized;
            v5_0::Puback::builder().packet_id(owed.packet_id).reason_code(reason).build()?.into()
        }
    })
}

/// There is nothing to subscribe to.
pub(super) fn suback(spoken: Spoken, packet_id: u16, filters: usize) -> Result<Packet, MqttError> {
    Ok(match spoken {
        Spoken::V3 => {
            let codes = vec![SubackReturnCode::Failure; filters];
            v3_1_1::Suback::builder().packet_id(packet_id).return_codes(codes).build()?.into()
        }
        Spoken::V5 => {
            let codes = vec![SubackReasonCode::ImplementationSpecificError; filters];
            v5_0::Suback::builder().packet_id(packet_id).reason_codes(codes).build()?.into()
        }
    })
}

/// There was nothing to unsubscribe from.
pub(super) fn unsuback(spoken: Spoken, packet_id: u16, filters: usize) -> Result<Packet, MqttError> {
    Ok(match spoken {
        Spoken::V3 => v3_1_1::Unsuback::builder().packet_id(packet_id).build()?.into(),
        Spoken::V5 => {
            let codes = vec![UnsubackReasonCode::NoSubscriptionExisted; filters];
            v5_0::Unsuback::builder().packet_id(packet_id).reason_codes(codes).build()?.into()
        }
    })
}

/// MQTT 5's last word.
pub(super) fn disconnect(reason: DisconnectReasonCode) -> Result<Packet, MqttError> {
    Ok(v5_0::Disconnect::builder().reason_code(reason).build()?.into())
}
