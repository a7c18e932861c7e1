"""paho as a device of the gateway's listener: MQTT 3.1.1 and 5, TCP and WebSocket, over TLS, with a user.

    devices.py PORT WEBSOCKET_PORT CA_FILE
"""

import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

PATIENCE_S = 30


def publish(transport, port, ca, version, number):
    """Publishes one reading at QoS 1 and waits for its PUBACK; in MQTT 5 one more, that is refused."""
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=f"paho-{number}", transport=transport, protocol=version
    )
    client.username_pw_set("press-3", "secret")
    client.tls_set(ca_certs=ca)
    told, granted = {}, []
    connected, heard, refused = threading.Event(), threading.Event(), threading.Event()
    client.on_connect = lambda client, userdata, flags, reason, properties: (
        told.update(reason=reason, properties=properties),
        connected.set(),
    )
    client.on_publish = lambda client, userdata, mid, reason, properties: granted.append((mid, str(reason)))
    client.on_subscribe = lambda client, userdata, mid, reasons, properties: (
        told.update(subscribed=[reason.is_failure for reason in reasons]),
        heard.set(),
    )
    client.connect("localhost", port)
    client.loop_start()
    assert connected.wait(PATIENCE_S) and not told["reason"].is_failure, told
    message = client.publish("telemetry/press-3", '{"n":%d,"temperature":21.5}' % number, qos=1)
    message.wait_for_publish(PATIENCE_S)
    assert message.is_published(), f"{transport} {version}: no PUBACK"
    client.subscribe("#", qos=1)
    assert heard.wait(PATIENCE_S) and told["subscribed"] == [True], told
    if version == mqtt.MQTTv5:
        properties = told["properties"]
        assert properties.MaximumQoS == 1 and properties.TopicAliasMaximum == 16, properties
        barred = client.publish("telemetry/press-4", '{"n":1,"temperature":1}', qos=1)
        barred.wait_for_publish(PATIENCE_S)
        assert (barred.mid, "Not authorized") in granted, granted
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
