"""A device without Microsoft's SDK: paho-mqtt with a token made by hand, against the hub. See hub.py for how it is
called.

`node-red` is the recipe that goes around for Node-RED's MQTT node: broker = the hub, port 8883, TLS, MQTT 3.1.1, client
id = the device, user = host/device/?api-version=2021-04-12, password = a token, topic devices/{device}/messages/events/.
"""

import base64
import subprocess
import threading
import time

import paho.mqtt.client as mqtt

from hub import PATIENCE_S, Failed, body, equal, main, properties, sign, until

API = "?api-version=2021-04-12"


def key_of(text):
    return text.rpartition("SharedAccessKey=")[2]


def token(hub, device=None, life_s=3600):
    device = device or hub.device
    key = key_of(hub.connection_string(device))
    return sign(f"{hub.host_name}/devices/{device}", key, int(time.time()) + life_s)


class Client:
    """paho with events to wait for."""

    def __init__(
        self, hub, device=None, password=None, user=None, clean=True, keep_alive=60, will=None, certificate=None,
        protocol=mqtt.MQTTv311,
    ):
        self.hub, self.device = hub, device or hub.device
        self.code, self.present, self.gone = None, None, threading.Event()
        self.acknowledged, self.granted = [], []
        kind = {"clean_session": clean} if protocol != mqtt.MQTTv5 else {}
        self.mqtt = mqtt.Client(client_id=self.device, protocol=protocol, **kind)
        self.mqtt.tls_set(ca_certs=hub.strings["ca-file"], **(certificate or {}))
        self.mqtt.username_pw_set(user or f"{hub.host_name}/{self.device}/{API}", password)
        self.mqtt.on_connect = self.connected
        self.mqtt.on_disconnect = lambda *_: self.gone.set()
        self.mqtt.on_publish = lambda _client, _data, mid: self.acknowledged.append(mid)
        self.mqtt.on_subscribe = lambda _client, _data, _mid, granted, *_: self.granted.extend(granted)
        # Never again by itself: the scripts look at one connection each.
        self.mqtt.reconnect_delay_set(min_delay=3600, max_delay=3600)
        if will:
            self.mqtt.will_set(*will)
        self.keep_alive = keep_alive

    def connected(self, _client, _data, flags, code, *_):
        self.present = flags.get("session present")
        self.code = code if isinstance(code, int) else code.value

    def open(self):
        """Connects; gives CONNACK's code."""
        self.mqtt.connect(self.hub.host, 8883, self.keep_alive)
        self.mqtt.loop_start()
        until(lambda: self.code is not None or self.gone.is_set(), "an answer to CONNECT")
        return self.code

    def expect_open(self):
        equal(self.open(), 0, "CONNACK")
        return self

    def publish(self, topic_end, payload, qos=1, retain=False):
        info = self.mqtt.publish(f"devices/{self.device}/messages/events/{topic_end}", payload, qos, retain)
        return info.mid

    def send(self, topic_end, payload, **more):
        mid = self.publish(topic_end, payload, **more)
        until(lambda: mid in self.acknowledged or self.gone.is_set(), "a PUBACK")
        if mid not in self.acknowledged:
            raise Failed("the connection ended without a PUBACK")

    def expect_closed(self, why):
        if not self.gone.wait(PATIENCE_S):
            raise Failed(f"{why}: not closed")
        self.mqtt.loop_stop()

    def close(self):
        self.mqtt.disconnect()
        self.gone.wait(PATIENCE_S)
        self.mqtt.loop_stop()


def send(hub):
    since = hub.end()
    client = Client(hub, password=token(hub)).expect_open()
    client.send("%24.mid=m-1&%24.ct=application%2Fjson&%24.ce=utf-8&a%20b=x%26y&plus=1%2B1", '{"t": 21.5}')
    client.send("", "")
    client.send("", "at most once", qos=0)
    client.close()
    until(lambda: len(hub.events(since)) == 3, "three messages")
    first, second, third = hub.events(since)
    equal((body(first), body(second), body(third)), (b'{"t": 21.5}', b"", b"at most once"), "bodies")
    equal((first["message-id"], first["content-type"]), ("m-1", "application/json"), "system properties")
    equal(properties(first), {"a b": "x&y", "plus": "1+1"}, "properties")


def node_red(hub):
    since = hub.end()
    client = Client(hub, user=f"{hub.host_name}/{hub.device}/{API}", password=token(hub), clean=True).expect_open()
    client.mqtt.subscribe(f"devices/{hub.device}/messages/devicebound/#", 2)
    until(lambda: client.granted, "a SUBACK")
    equal(client.granted, [1], "granted quality of service")
    client.send("", '{"from": "Node-RED"}')
    client.close()
    equal([body(event) for event in hub.events(since)], [b'{"from": "Node-RED"}'], "messages")


def mosquitto_pub(hub):
    since = hub.end()
    command = [
        "mosquitto_pub", "-h", hub.host, "-p", "8883", "--cafile", hub.strings["ca-file"], "-V", "mqttv311",
        "-i", hub.device, "-u", f"{hub.host_name}/{hub.device}/{API}", "-P", token(hub), "-q", "1",
        "-t", f"devices/{hub.device}/messages/events/from=mosquitto", "-m", "hello",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    equal(done.returncode, 0, f"exit of mosquitto_pub ({done.stderr.strip()})")
    (event,) = hub.events(since)
    equal((body(event), properties(event)), (b"hello", {"from": "mosquitto"}), "message")


def snippets(hub):
    """What `hub connection-strings` prints for a shell, pasted."""
    (mine,) = [one for one in hub.strings["snippets"] if one["code"].startswith("mosquitto_pub ")]
    since = hub.end()
    done = subprocess.run(mine["code"], shell=True, capture_output=True, text=True, timeout=PATIENCE_S)
    equal(done.returncode, 0, f"exit of mosquitto_pub ({done.stderr.strip()})")
    equal([body(event) for event in hub.events(since)], [b'{"n": 1}'], "messages")


def policy_token(hub):
    text = hub.strings["device-policies"]["device"]
    password = sign(f"{hub.host_name}/devices/{hub.device}", key_of(text), int(time.time()) + 600, "device")
    since = hub.end()
    client = Client(hub, password=password).expect_open()
    client.send("", "by the policy")
    client.close()
    (event,) = hub.events(since)
    if '"scope":"hub"' not in event["auth-method"]:
        raise Failed(f"auth method {event['auth-method']}")
    services = sign(
        f"{hub.host_name}/devices/{hub.device}", key_of(hub.strings["services"]["service"].split(";EntityPath")[0]),
        int(time.time()) + 600, "service",
    )
    equal(Client(hub, password=services).open(), 5, "CONNACK for a policy that may not connect devices")


def refusals(hub):
    device = hub.device
    wrong = sign(f"{hub.host_name}/devices/{device}", base64.b64encode(b"wrong"), int(time.time()) + 600)
    for why, code, client in [
        ("a wrong key", 5, Client(hub, password=wrong)),
        ("a token that ended an hour ago", 5, Client(hub, password=token(hub, life_s=-3600))),
        ("no token", 5, Client(hub)),
        ("not a token", 5, Client(hub, password="secret")),
        ("an unknown device", 5, Client(hub, device=f"{device}-unknown", password=token(hub))),
        ("another hub", 5, Client(hub, user=f"other.azure-devices.net/{device}/{API}", password=token(hub))),
        ("another client id", 2, Client(hub, user=f"{hub.host_name}/{device}-ca/{API}", password=token(hub))),
        ("no user name", 4, Client(hub, user=device, password=token(hub))),
        ("MQTT 3.1", 1, Client(hub, password=token(hub), protocol=mqtt.MQTTv31)),
    ]:
        equal(client.open(), code, f"CONNACK for {why}")
        client.expect_closed(why)


def clock_skew(hub):
    client = Client(hub, password=token(hub, life_s=-60)).expect_open()
    client.send("", "from a device whose clock is behind")
    client.close()


def token_expiry(hub):
    client = Client(hub, password=token(hub, life_s=3)).expect_open()
    client.send("", "in time")
    client.expect_closed("a token that ended")


def violations(hub):
    own, large = f"devices/{hub.device}/messages/events/", "x" * 257 * 1024
    since = hub.end()
    for why, act in [
        ("QoS 2", lambda client: client.publish(own, "x", 2)),
        ("257 KB", lambda client: client.publish(own, large, 1)),
        ("257 KB at QoS 0", lambda client: client.publish(own, large, 0)),
        ("properties above 256 KB", lambda client: client.publish(own + "a=bb", "x" * (256 * 1024 - 2), 1)),
        ("a foreign topic", lambda client: client.publish("a/b", "x", 1)),
        ("another device's topic", lambda client: client.publish("devices/other/messages/events/", "x", 1)),
        ("a foreign filter", lambda client: client.subscribe("a/#", 1)),
        ("everything", lambda client: client.subscribe("#", 1)),
        ("six subscriptions", lambda client: [client.subscribe(f"$iothub/methods/POST/{n}/#", 1) for n in range(6)]),
    ]:
        client = Client(hub, password=token(hub)).expect_open()
        act(client.mqtt)
        client.expect_closed(why)
        equal(client.acknowledged if "QoS 0" not in why else [], [], f"PUBACKs after {why}")
    equal(hub.events(since), [], "messages stored")
    client = Client(hub, password=token(hub)).expect_open()
    client.send("", "x" * 256 * 1024)
    client.close()


def retain(hub):
    since = hub.end()
    client = Client(hub, password=token(hub)).expect_open()
    client.send("", "kept?", retain=True)
    client.close()
    equal(properties(hub.events(since)[0]), {"mqtt-retain": "true"}, "properties")


def will(hub):
    since = hub.end()
    topic = f"devices/{hub.device}/messages/events/why=gone"
    client = Client(hub, password=token(hub), will=(topic, "bye", 1, False)).expect_open()
    client.close()
    client = Client(hub, password=token(hub), will=(topic, "bye", 1, False)).expect_open()
    # Without a DISCONNECT.
    client.mqtt.loop_stop()
    client.mqtt._sock.close()
    until(lambda: hub.events(since), "the will")
    equal([body(event) for event in hub.events(since)], [b"bye"], "messages")
    equal(properties(hub.events(since)[0]), {"why": "gone", "iothub-MessageType": "Will"}, "properties")
    foreign = Client(hub, password=token(hub), will=("a/b", "bye", 1, False))
    equal(foreign.open(), 5, "CONNACK for a foreign will")


def persistent_session(hub):
    Client(hub, password=token(hub), clean=True).expect_open().close()
    for clean, present in [(False, 0), (False, 1), (True, 0), (False, 0)]:
        client = Client(hub, password=token(hub), clean=clean).expect_open()
        equal(client.present, present, f"session present, clean session {clean}")
        client.mqtt.subscribe("$iothub/twin/res/#", 0)
        until(lambda client=client: client.granted == [0], "a SUBACK")
        client.close()


def quiet_topics(hub):
    """Twins, methods and cloud-to-device messages: accepted, not answered yet."""
    client = Client(hub, password=token(hub)).expect_open()
    filters = [
        "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#",
        f"devices/{hub.device}/messages/devicebound/#",
    ]
    client.mqtt.subscribe([(filter, 1) for filter in filters])
    until(lambda: len(client.granted) == 4, "a SUBACK")
    for topic in ["$iothub/twin/GET/?$rid=1", "$iothub/twin/PATCH/properties/reported/?$rid=2", "$iothub/methods/res/200/?$rid=3"]:
        mid = client.mqtt.publish(topic, "{}", 1).mid
        until(lambda mid=mid: mid in client.acknowledged, f"a PUBACK for {topic}")
    client.send("", "still connected")
    client.close()


def module(hub):
    name = f"{hub.device}/m"
    key = key_of(hub.connection_string(name))
    password = sign(f"{hub.host_name}/devices/{hub.device}/modules/m", key, int(time.time()) + 600)
    since = hub.end()
    client = Client(hub, device=name, password=password).expect_open()
    mid = client.mqtt.publish(f"devices/{hub.device}/modules/m/messages/events/", "of a module", 1).mid
    until(lambda: mid in client.acknowledged, "a PUBACK")
    client.mqtt.subscribe(f"devices/{hub.device}/modules/m/#", 1)
    until(lambda: client.granted == [1], "a SUBACK")
    client.close()
    equal([event["module-id"] for event in hub.events(since)], ["m"], "modules")


def by_certificate(hub):
    for name in ("ca", "thumbprint"):
        device = f"{hub.device}-{name}"
        certificate, key = hub.certificate(device)
        since = hub.end(device)
        client = Client(hub, device=device, certificate={"certfile": certificate, "keyfile": key}).expect_open()
        client.send("", "by certificate")
        client.close()
        equal(len(hub.events(since, device)), 1, "messages")
    certificate, key = hub.certificate(f"{hub.device}-expired")
    old = Client(hub, device=f"{hub.device}-expired", certificate={"certfile": certificate, "keyfile": key})
    equal(old.open(), 5, "CONNACK for an expired certificate")
    equal(Client(hub, device=f"{hub.device}-ca").open(), 5, "CONNACK without a certificate")


def second_connection(hub):
    first = Client(hub, password=token(hub)).expect_open()
    second = Client(hub, password=token(hub)).expect_open()
    first.expect_closed("a second connection of the device")
    second.send("", "the second stays")
    second.close()


main(
    {
        "send": send,
        "node-red": node_red,
        "mosquitto-pub": mosquitto_pub,
        "snippets": snippets,
        "policy-token": policy_token,
        "refusals": refusals,
        "clock-skew": clock_skew,
        "token-expiry": token_expiry,
        "violations": violations,
        "retain": retain,
        "will": will,
        "persistent-session": persistent_session,
        "quiet-topics": quiet_topics,
        "module": module,
        "x509": by_certificate,
        "second-connection": second_connection,
    }
)
