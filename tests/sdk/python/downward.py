"""What the hub tells a device, as Microsoft's Python device SDK hears it: twins, direct methods, commands. Features of
device.py; the back end is played by requests to the hub's service API, made by hand."""

import time
import uuid

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodResponse
from azure.iot.device.exceptions import ClientError

from hub import Failed, Refused, equal, until


def client(hub, **more):
    return IoTHubDeviceClient.create_from_connection_string(
        hub.connection_string(), server_verification_cert=hub.ca(), **more
    )


def module_client(hub):
    return IoTHubModuleClient.create_from_connection_string(
        hub.connection_string(f"{hub.device}/m"), server_verification_cert=hub.ca()
    )


def change(hub, desired, who=None, tags=None):
    """Changes desired properties as a service does; gives the twin."""
    patch = {"properties": {"desired": desired}} | ({"tags": tags} if tags else {})
    return hub.service("PATCH", f"/twins/{who or hub.device}", patch)


def twin_of(hub, who=None):
    return hub.service("GET", f"/twins/{who or hub.device}")


def plain(section):
    """A section of a twin without what the service adds."""
    return {name: value for name, value in section.items() if not name.startswith("$")}


def call(hub, name, payload=None, who=None, **more):
    body = {"methodName": name, "payload": payload, "responseTimeoutInSeconds": 30} | more
    return hub.service("POST", f"/twins/{who or hub.device}/methods", body)


def not_called(hub, status, code, name, **more):
    try:
        answer = call(hub, name, **more)
    except Refused as refused:
        equal(refused.status, status, "status of a method that is not answered")
        if str(code) not in str(refused):
            raise Failed(f"{refused}: no {code}") from None
    else:
        raise Failed(f"{name} was answered {answer}")


def answering(device):
    """Answers `echo`, and nothing else."""

    def hear(request):
        if request.name == "echo":
            answer = {"name": request.name, "payload": request.payload}
            device.send_method_response(MethodResponse.create_from_method_request(request, 200, answer))

    device.on_method_request_received = hear


def twin_get(hub):
    wanted = {"period": 5, "deep": {"a": [1, {"b": 2}], "é": "x y"}}
    twin = change(hub, wanted, tags={"site": "north"})
    device = client(hub)
    heard = device.get_twin()
    device.shutdown()
    equal({name: heard["desired"][name] for name in wanted}, wanted, "desired properties")
    equal(heard["desired"]["$version"], twin["properties"]["desired"]["$version"], "version")
    equal(set(heard), {"desired", "reported"}, "what a device is told")
    if "$version" not in heard["reported"]:
        raise Failed(f"no version of {heard['reported']}")


def twin_reported(hub):
    device = client(hub)
    before = device.get_twin()["reported"]["$version"]
    device.patch_twin_reported_properties({"firmware": "1.0", "state": {"a": 1, "b": 2}})
    device.patch_twin_reported_properties({"state": {"a": None, "c": {"d": 3.5}}})
    reported = device.get_twin()["reported"]
    wanted = {"firmware": "1.0", "state": {"b": 2, "c": {"d": 3.5}}}
    equal({name: reported[name] for name in wanted}, wanted, "reported properties, as the device reads them")
    equal(reported["$version"], before + 2, "version after two patches")
    seen = twin_of(hub)["properties"]["reported"]
    equal({name: seen[name] for name in wanted}, wanted, "reported properties, as a service reads them")
    equal(seen["$version"], before + 2, "version, as a service reads it")
    if "$lastUpdated" not in seen["$metadata"]["state"]["c"]["d"]:
        raise Failed(f"metadata {seen['$metadata']}")
    device.patch_twin_reported_properties({"firmware": None, "state": None})
    device.shutdown()
    left = plain(twin_of(hub)["properties"]["reported"])
    equal([name for name in wanted if name in left], [], "reported properties that were deleted")


def twin_desired(hub):
    patches = []
    device = client(hub)
    device.on_twin_desired_properties_patch_received = patches.append
    # The SDK hands over the whole of it too, at first.
    before = device.get_twin()["desired"]["$version"]
    first = change(hub, {"period": 5, "deep": {"a": 1}})
    second = change(hub, {"period": None, "deep": {"b": [1, 2]}})
    until(lambda: any(patch["$version"] == before + 2 for patch in patches), "two patches")
    device.shutdown()
    patches = [patch for patch in patches if before < patch["$version"]]
    equal([plain(patch) for patch in patches], [{"period": 5, "deep": {"a": 1}}, {"period": None, "deep": {"b": [1, 2]}}], "patches")
    versions = [twin["properties"]["desired"]["$version"] for twin in (first, second)]
    equal([patch["$version"] for patch in patches], versions, "versions")
    equal(versions[1], versions[0] + 1, "one version after the other")


def twin_away(hub):
    """What changes while a device is away it sees when it is back and asks, by version; and from then on again."""
    patches = []
    device = client(hub)
    device.on_twin_desired_properties_patch_received = patches.append
    before = device.get_twin()["desired"]["$version"]
    device.shutdown()
    mark = str(uuid.uuid4())
    change(hub, {"mark": mark})
    change(hub, {"second": mark})
    device = client(hub)
    device.on_twin_desired_properties_patch_received = patches.append
    desired = device.get_twin()["desired"]
    equal((desired["$version"], desired["mark"], desired["second"]), (before + 2, mark, mark), "version and values")
    change(hub, {"mark": None, "second": None})
    until(lambda: any(patch["$version"] == before + 3 for patch in patches), "the patch after the return")
    device.shutdown()


def twin_refused(hub):
    """A patch that is too long is refused, and the connection stays."""
    device = client(hub)
    before = device.get_twin()["reported"]["$version"]
    try:
        device.patch_twin_reported_properties({f"k{n}": "x" * 4000 for n in range(9)})
    except ClientError:
        pass
    else:
        raise Failed("36 KB of reported properties were taken")
    equal(device.get_twin()["reported"]["$version"], before, "version after a refused patch")
    device.shutdown()


def methods(hub):
    device = client(hub)
    answering(device)
    for payload in ({"a": [1, None, "é"]}, "text", 5, None):
        answer = call(hub, "echo", payload)
        equal(answer, {"status": 200, "payload": {"name": "echo", "payload": payload}}, "answer")
    device.on_method_request_received = lambda request: device.send_method_response(
        MethodResponse.create_from_method_request(request, 418, None)
    )
    equal(call(hub, "any")["status"], 418, "status of the device's own")
    device.shutdown()


def method_timeout(hub):
    device = client(hub)
    answering(device)
    equal(call(hub, "echo")["status"], 200, "status")
    started = time.monotonic()
    not_called(hub, 504, 504101, "silence", responseTimeoutInSeconds=5)
    took = time.monotonic() - started
    if not 4.5 <= took <= 15:
        raise Failed(f"it took {took:.1f} s to give up after 5 s")
    equal(call(hub, "echo")["status"], 200, "status afterwards")
    device.shutdown()


def method_unregistered(hub):
    """Nobody listens: the device is away, or connected and does not want methods any more."""
    not_called(hub, 404, 404103, "echo")
    device = client(hub)
    answering(device)
    equal(call(hub, "echo")["status"], 200, "status while it listens")
    device.on_method_request_received = None
    not_called(hub, 404, 404103, "echo")
    device.shutdown()
    not_called(hub, 404, 404103, "echo")


def method_waits(hub):
    """With a connect timeout, a method waits for the device to come."""
    device = client(hub)
    try:
        from threading import Timer

        Timer(1, lambda: answering(device)).start()
        equal(call(hub, "echo", connectTimeoutInSeconds=20)["status"], 200, "status")
    finally:
        device.shutdown()


def c2d(hub):
    hub.empty_queue()
    heard = []
    device = client(hub)
    device.on_message_received = heard.append
    hub.command(
        b'{"open": true}', ack="none", properties={"colour": "blue green", "u": "x=1&2+%"},
        message_id="m-1", correlation_id="c/1", content_type="application/json", content_encoding="utf-8",
    )
    hub.command(b"")
    until(lambda: len(heard) == 2, "two commands")
    device.shutdown()
    first, second = heard
    equal((first.data, second.data), (b'{"open": true}', b""), "bodies")
    equal((first.message_id, first.correlation_id), ("m-1", "c/1"), "ids")
    equal((first.content_type, first.content_encoding), ("application/json", "utf-8"), "content")
    own = {name: value for name, value in first.custom_properties.items() if not name.startswith(("$", "iothub"))}
    equal(own, {"colour": "blue green", "u": "x=1&2+%"}, "properties")
    until(lambda: hub.queued() == 0, "an empty queue")


def c2d_away(hub):
    """In order, once each; and gone once the device has acknowledged them."""
    hub.empty_queue()
    heard = []
    device = client(hub)
    device.on_message_received = heard.append
    hub.command(b"while it is there")
    until(lambda: len(heard) == 1, "the first command")
    device.shutdown()
    for number in range(10):
        hub.command(f"away {number}".encode())
    equal(hub.queued(), 10, "commands that wait")
    device = client(hub)
    device.on_message_received = heard.append
    until(lambda: len(heard) == 11, "ten more commands")
    until(lambda: hub.queued() == 0, "an empty queue")
    device.shutdown()
    wanted = [b"while it is there"] + [f"away {number}".encode() for number in range(10)]
    equal([message.data for message in heard], wanted, "commands")


def c2d_expired(hub):
    hub.empty_queue()
    heard = []
    hub.command(b"soon too old", expiry_s=1)
    hub.command(b"still good", expiry_s=60)
    until(lambda: hub.queued() == 1, "the first command to expire")
    device = client(hub)
    device.on_message_received = heard.append
    until(lambda: heard, "a command")
    device.shutdown()
    equal([message.data for message in heard], [b"still good"], "commands")


def module_twin(hub):
    who = f"{hub.device}/modules/m"
    patches = []
    module = module_client(hub)
    module.on_twin_desired_properties_patch_received = patches.append
    module.get_twin()
    mark = str(uuid.uuid4())
    change(hub, {"mark": mark}, who)
    until(lambda: any(plain(patch) == {"mark": mark} for patch in patches), "a patch")
    module.patch_twin_reported_properties({"mark": mark})
    module.shutdown()
    equal(twin_of(hub, who)["properties"]["reported"]["mark"], mark, "reported property of the module")
    equal(twin_of(hub)["properties"]["reported"].get("mark"), None, "reported property of the device")


def module_method(hub):
    module = module_client(hub)
    answering(module)
    answer = call(hub, "echo", {"a": 1}, f"{hub.device}/modules/m")
    module.shutdown()
    equal(answer, {"status": 200, "payload": {"name": "echo", "payload": {"a": 1}}}, "answer")


def websocket(hub):
    """MQTT within WebSocket, port 443: everything as over 8883."""
    hub.empty_queue()
    since, heard = hub.end(), []
    device = client(hub, websockets=True)
    device.on_message_received = heard.append
    device.send_message("through WebSocket")
    device.patch_twin_reported_properties({"way": "websocket"})
    answering(device)
    equal(call(hub, "echo")["status"], 200, "status")
    hub.command(b"x" * 40_000)
    until(lambda: heard, "a command")
    device.shutdown()
    equal(len(heard[0].data), 40_000, "bytes of the command")
    equal(len(hub.events(since)), 1, "messages")
    equal(twin_of(hub)["properties"]["reported"]["way"], "websocket", "reported property")


FEATURES = {
    "twin-get": twin_get,
    "twin-reported": twin_reported,
    "twin-desired": twin_desired,
    "twin-away": twin_away,
    "twin-refused": twin_refused,
    "methods": methods,
    "method-timeout": method_timeout,
    "method-unregistered": method_unregistered,
    "method-waits": method_waits,
    "c2d": c2d,
    "c2d-away": c2d_away,
    "c2d-expired": c2d_expired,
    "module-twin": module_twin,
    "module-method": module_method,
    "websocket": websocket,
}
