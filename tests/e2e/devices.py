"""paho as a device of the gateway's listener: MQTT 3.1.1 and 5, TCP and WebSocket, over TLS, with a user.

    devices.py PORT WEBSOCKET_PORT CA_FILE

For paho 1.6, which Azure's SDK asks for.
"""

import sys
import threading

import paho.mqtt.client as mqtt

PATIENCE_S = 30
# SUBACK of MQTT 3.1.1 and 5: refused.
REFUSED = (0x80, 0x83)


def publish(transport, port, ca, version, number):
    """Publishes one reading at QoS 1 and waits for its PUBACK; a subscription is refused. What is published without
    right closes the connection in MQTT 3.1.1, and does not in MQTT 5."""
    client = mqtt.Client(client_id=f"paho-{number}", transport=transport, protocol=version)
    client.username_pw_set("press-3", "secret")
    client.tls_set(ca_certs=ca)
    told = {}
    connected, heard, closed = threading.Event(), threading.Event(), threading.Event()
    client.on_connect = lambda client, userdata, flags, reason, properties=None: (
        told.update(reason=reason, properties=properties),
        connected.set(),
    )
    client.on_subscribe = lambda client, userdata, mid, reasons, properties=None: (
        told.update(subscribed=[getattr(reason, "value", reason) for reason in reasons]),
        heard.set(),
    )
    client.on_disconnect = lambda *_: closed.set()
    client.connect("localhost", port)
    client.loop_start()
    assert connected.wait(PATIENCE_S) and told["reason"] == 0, told
    message = client.publish("telemetry/press-3", '{"n":%d,"temperature":21.5}' % number, qos=1)
    message.wait_for_publish(PATIENCE_S)
    assert message.is_published(), f"{transport} {version}: no PUBACK"
    client.subscribe("#", qos=1)
    assert heard.wait(PATIENCE_S) and told["subscribed"][0] in REFUSED, told
    barred = client.publish("telemetry/press-4", '{"n":1,"temperature":1}', qos=1)
    if version == mqtt.MQTTv5:
        properties = told["properties"]
        assert properties.MaximumQoS == 1 and properties.TopicAliasMaximum == 16, properties
        barred.wait_for_publish(PATIENCE_S)
        assert barred.is_published() and not closed.is_set(), "refused with a PUBACK of its own"
    else:
        assert closed.wait(PATIENCE_S), "closed"
    client.disconnect()
    client.loop_stop()


def main():
    port, websocket_port, ca = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    number = 100
    for version in (mqtt.MQTTv311, mqtt.MQTTv5):
        for transport, at in (("tcp", port), ("websockets", websocket_port)):
            number += 1
            publish(transport, at, ca, version, number)
            print(f"{transport} {version}: acknowledged")


main()
