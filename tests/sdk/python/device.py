"""Microsoft's Python device SDK, azure-iot-device, against the hub. See hub.py for how it is called."""

import threading
import time

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, X509
from azure.iot.device.exceptions import CredentialError, NoConnectionError

import downward
from hub import Failed, body, equal, main, properties, until

# The SDK renews a token two minutes before it ends; this one is renewed after five seconds.
RENEWED_SOON_S = 125


def client(hub, name=None, **more):
    return IoTHubDeviceClient.create_from_connection_string(
        hub.connection_string(name), server_verification_cert=hub.ca(), **more
    )


def x509(hub, name, **more):
    certificate, key = hub.certificate(name)
    return IoTHubDeviceClient.create_from_x509_certificate(
        X509(cert_file=certificate, key_file=key), hub.host, name, server_verification_cert=hub.ca(), **more
    )


def send(hub):
    since = hub.end()
    message = Message('{"t": 21.5}', content_encoding="utf-8", content_type="application/json")
    message.message_id = "id:1-2%"
    message.correlation_id = "c&1"
    message.user_id = "somebody"
    message.custom_properties["a b"] = "x=y&z"
    message.custom_properties["u"] = "é+1"
    device = client(hub)
    device.send_message(message)
    device.send_message("")
    device.shutdown()
    first, second = hub.events(since)
    equal(body(first), b'{"t": 21.5}', "body")
    equal(first["message-id"], "id:1-2%", "message id")
    equal(first["correlation-id"], "c&1", "correlation id")
    equal(first["user-id"], "somebody", "user id")
    equal(first["content-type"], "application/json", "content type")
    equal(first["content-encoding"], "utf-8", "content encoding")
    equal(properties(first), {"a b": "x=y&z", "u": "é+1"}, "properties")
    equal(first["device-id"], hub.device, "device id")
    equal(body(second), b"", "an empty body")


def send_many(hub):
    since = hub.end()
    device = client(hub)
    device.connect()
    # Several at once, as an application does that does not wait for each PUBACK.
    threads = [
        threading.Thread(target=lambda part=part: [device.send_message(f"{part}/{n}") for n in range(100)])
        for part in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    device.shutdown()
    found = [body(event).decode() for event in hub.events(since)]
    equal(len(found), 1000, "messages stored")
    for part in range(10):
        own = [text for text in found if text.startswith(f"{part}/")]
        equal(own, [f"{part}/{n}" for n in range(100)], f"messages of part {part}")


def sas_renewal(hub):
    since = hub.end()
    changes = []
    device = client(hub, sastoken_ttl=RENEWED_SOON_S)
    device.on_connection_state_change = lambda: changes.append(device.connected)
    device.connect()
    device.send_message("before")
    until(lambda: changes[-2:] == [False, True], "the SDK connects again with a new token")
    device.send_message("after")
    device.shutdown()
    equal([body(event) for event in hub.events(since)], [b"before", b"after"], "messages")


def by_certificate(name):
    def feature(hub):
        device_id = f"{hub.device}-{name}"
        since = hub.end(device_id)
        device = x509(hub, device_id)
        device.send_message("by certificate")
        device.shutdown()
        (event,) = hub.events(since, device_id)
        equal(body(event), b"by certificate", "body")
        if '"x509Certificate"' not in event["auth-method"]:
            raise Failed(f"auth method {event['auth-method']}")

    return feature


def refused(device, why):
    try:
        device.connect()
    except CredentialError:
        return
    finally:
        device.shutdown()
    raise Failed(f"{why}: connected")


def x509_expired(hub):
    refused(x509(hub, f"{hub.device}-expired", connection_retry=False), "an expired certificate")


def gateway_host_name(hub):
    since = hub.end()
    text = hub.connection_string(direct=False) + f";GatewayHostName={hub.host}"
    device = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=hub.ca())
    device.send_message("through a gateway's name")
    device.shutdown()
    equal([body(event) for event in hub.events(since)], [b"through a gateway's name"], "messages")


def module(hub):
    since = hub.end()
    name = f"{hub.device}/m"
    module = IoTHubModuleClient.create_from_connection_string(
        hub.connection_string(name), server_verification_cert=hub.ca()
    )
    device = client(hub)
    device.connect()
    module.send_message("of a module")
    module.send_message_to_output("to an output", "out")
    until(lambda: {hub.device, name} <= set(hub.connected()), "device and module are connected beside each other")
    module.shutdown()
    device.shutdown()
    first, second = hub.events(since)
    equal((first["device-id"], first["module-id"]), (hub.device, "m"), "device and module")
    equal((body(first), body(second), second["output"]), (b"of a module", b"to an output", "out"), "messages")


def reconnect(hub):
    since = hub.end()
    device = client(hub)
    device.send_message("before")
    hub.post("/faults", {"fault": "disconnect", "device": hub.device, "times": 1})
    # Between the break and the SDK's noticing it, it refuses what it is given and says so: an application sends again.
    while True:
        try:
            device.send_message("while the connection breaks")
            break
        except NoConnectionError:
            time.sleep(0.05)
    device.send_message("after")
    device.shutdown()
    wanted = [b"before", b"while the connection breaks", b"after"]
    found = [body(event) for event in hub.events(since)]
    # What the SDK refused it may have sent nevertheless.
    equal([text for at, text in enumerate(found) if text not in found[:at]], wanted, "messages")


def wrong_key(hub):
    text = hub.connection_string()
    key = text.rpartition("SharedAccessKey=")[2]
    device = IoTHubDeviceClient.create_from_connection_string(
        text.replace(key, "d3Jvbmcga2V5"), server_verification_cert=hub.ca(), connection_retry=False
    )
    refused(device, "a wrong key")


def expired_token(hub):
    # The SDK makes no token that has ended: for the hub it is two hours later.
    hub.post("/faults", {"fault": "shift-clock", "by": "2h"})
    try:
        refused(client(hub, connection_retry=False), "a token of an hour, two hours later")
    finally:
        hub.post("/faults", {"fault": "shift-clock", "by": "0s"})


def unknown_device(hub):
    text = hub.connection_string().replace(f"DeviceId={hub.device};", f"DeviceId={hub.device}-unknown;")
    device = IoTHubDeviceClient.create_from_connection_string(
        text, server_verification_cert=hub.ca(), connection_retry=False
    )
    refused(device, "an unknown device")


def message_too_large(hub):
    since = hub.end()
    device = client(hub)
    device.send_message("x" * 255 * 1024)
    try:
        device.send_message("x" * 257 * 1024)
    except ValueError:
        pass  # the SDK counts as the service does
    else:
        raise Failed("257 KB were sent")
    device.shutdown()
    equal([len(body(event)) for event in hub.events(since)], [255 * 1024], "bytes stored")


def second_connection(hub):
    since = hub.end()
    first, second = client(hub, connection_retry=False), client(hub, connection_retry=False)
    first.send_message("first")
    second.connect()
    until(lambda: not first.connected, "the first connection is dropped")
    second.send_message("second")
    second.shutdown()
    first.shutdown()
    equal([body(event) for event in hub.events(since)], [b"first", b"second"], "messages")


def snippets(hub):
    """What `hub connection-strings` prints, pasted."""
    mine = [one for one in hub.strings["snippets"] if one["sdk"] == "Python azure-iot-device"]
    equal([one["way"] for one in mine], ["mqtt", "websocket"], "ways")
    since = hub.end()
    for one in mine:
        device = eval(one["code"], {"IoTHubDeviceClient": IoTHubDeviceClient})
        device.send_message(one["way"])
        device.shutdown()
    equal([body(event) for event in hub.events(since)], [b"mqtt", b"websocket"], "messages")


main(
    {
        "send": send,
        "send-many": send_many,
        "sas-renewal": sas_renewal,
        "x509-ca": by_certificate("ca"),
        "x509-thumbprint": by_certificate("thumbprint"),
        "x509-expired": x509_expired,
        "gateway-host-name": gateway_host_name,
        "module": module,
        "reconnect": reconnect,
        "wrong-key": wrong_key,
        "expired-token": expired_token,
        "unknown-device": unknown_device,
        "message-too-large": message_too_large,
        "second-connection": second_connection,
        "snippets": snippets,
        **downward.FEATURES,
    }
)
