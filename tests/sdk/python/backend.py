"""Microsoft's Python service SDK, azure-iot-hub, against the hub. See hub.py for how it is called.

The SDK dials ports 443 (HTTPS) and 5671 (AMQP) of the `HostName`, and no others. For HTTPS it trusts what
REQUESTS_CA_BUNDLE names; for AMQP the file of the package certifi alone, so this script says that the hub's is that file.
"""

import os
import threading
import time
import uuid

import certifi

from hub import Failed, Hub, equal, main, until

if "SDK_HUB" in os.environ:
    CA = Hub().strings["ca-file"]
    os.environ["REQUESTS_CA_BUNDLE"] = CA
    certifi.where = lambda: CA

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodResponse
from azure.iot.hub import IoTHubJobManager, IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, QuerySpecification, Twin, TwinProperties
from azure.iot.hub.protocol.models import (
    AuthenticationMechanism, ExportImportDevice, JobRequest, SymmetricKey,
)
from msrest.exceptions import HttpOperationError
from uamqp import TransportType

KEYS = ["cHJpbWFyeSBrZXkgcHJpbWFyeSBrZXk=", "c2Vjb25kYXJ5IGtleSBzZWNvbmRhcnk="]
THUMBPRINTS = ["A" * 40, "B" * 40]


def registry(hub, **more):
    return IoTHubRegistryManager.from_connection_string(hub.owner(), **more)


def refused(status, act, code=None):
    """Expects the service to say no."""
    try:
        answer = act()
    except HttpOperationError as error:
        text = error.response.text
        equal(error.response.status_code, status, f"status of a refusal ({text})")
        if code and str(code) not in text:
            raise Failed(f"{text}: no {code}") from None
        return
    raise Failed(f"{status} {code or ''} was to be said, and {answer!r} was")


class Mine:
    """Identities of this run alone, deleted at its end."""

    def __init__(self, hub, what):
        self.hub, self.manager = hub, registry(hub)
        self.prefix = f"{hub.device}-{what}-{uuid.uuid4().hex[:8]}"

    def id(self, name="d"):
        return f"{self.prefix}-{name}"

    def make(self, name="d"):
        self.manager.create_device_with_sas(self.id(name), *KEYS, "enabled")
        return self.id(name)

    def client(self, name="d", module=None):
        text = f"HostName={self.hub.host};DeviceId={self.id(name)};SharedAccessKey={KEYS[0]}"
        kind, text = (IoTHubModuleClient, text + f";ModuleId={module}") if module else (IoTHubDeviceClient, text)
        return kind.create_from_connection_string(text, server_verification_cert=self.hub.ca())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for device in self.manager.get_devices():
            if device.device_id.startswith(self.prefix):
                self.manager.delete_device(device.device_id)


def echo(device):
    def hear(request):
        answer = {"name": request.name, "payload": request.payload}
        device.send_method_response(MethodResponse.create_from_method_request(request, 200, answer))

    device.on_method_request_received = hear


def plain(section):
    return {name: value for name, value in section.items() if not name.startswith("$")}


# ---- registry -------------------------------------------------------------------------------------------------------


def devices(hub):
    with Mine(hub, "devices") as mine:
        manager, name = mine.manager, mine.id()
        made = manager.create_device_with_sas(name, *KEYS, "enabled", status_reason="new")
        equal((made.device_id, made.status, made.status_reason), (name, "enabled", "new"), "device")
        key = made.authentication.symmetric_key
        equal((made.authentication.type, key.primary_key, key.secondary_key), ("sas", *KEYS), "authentication")
        if not (made.etag and made.generation_id):
            raise Failed(f"no etag or generation id: {made}")
        equal(made.connection_state, "Disconnected", "connection state")
        refused(409, lambda: manager.create_device_with_sas(name, *KEYS, "enabled"))
        x509 = manager.create_device_with_x509(mine.id("x"), *THUMBPRINTS, "enabled")
        thumbprint = x509.authentication.x509_thumbprint
        equal(x509.authentication.type, "selfSigned", "authentication by thumbprint")
        equal([thumbprint.primary_thumbprint, thumbprint.secondary_thumbprint], THUMBPRINTS, "thumbprints")
        authority = manager.create_device_with_certificate_authority(mine.id("ca"), "disabled")
        equal((authority.authentication.type, authority.status), ("certificateAuthority", "disabled"), "by authority")
        got = manager.get_device(name)
        equal((got.etag, got.generation_id), (made.etag, made.generation_id), "the same device again")
        listed = {device.device_id for device in manager.get_devices()}
        equal({name, mine.id("x"), mine.id("ca")} <= listed, True, f"devices listed ({listed})")
        equal(len(manager.get_devices(2)), 2, "devices listed of two")
        changed = manager.update_device_with_sas(name, made.etag, *reversed(KEYS), "disabled", status_reason="old")
        equal((changed.status, changed.status_reason), ("disabled", "old"), "updated device")
        equal(changed.authentication.symmetric_key.primary_key, KEYS[1], "updated key")
        equal(changed.etag == made.etag, False, "the same etag after an update")
        refused(412, lambda: manager.update_device_with_sas(name, made.etag, *KEYS, "enabled"))
        refused(412, lambda: manager.delete_device(name, made.etag))
        manager.delete_device(name, changed.etag)
        refused(404, lambda: manager.get_device(name), "DeviceNotFound")
        refused(404, lambda: manager.delete_device(name))
        again = manager.create_device_with_sas(name, *KEYS, "enabled")
        equal(again.generation_id == made.generation_id, False, "the same generation id after all was deleted")


def device_disabled(hub):
    """A device that is disabled loses its connection; one that is deleted too."""
    with Mine(hub, "disabled") as mine:
        mine.make()
        changes = []
        device = mine.client()
        device.on_connection_state_change = lambda: changes.append(device.connected)
        device.connect()
        until(lambda: mine.manager.get_device(mine.id()).connection_state == "Connected", "the state Connected")
        etag = mine.manager.get_device(mine.id()).etag
        mine.manager.update_device_with_sas(mine.id(), etag, *KEYS, "disabled")
        until(lambda: not device.connected, "the device to lose its connection")
        etag = mine.manager.get_device(mine.id()).etag
        mine.manager.update_device_with_sas(mine.id(), etag, *KEYS, "enabled")
        device.connect()
        mine.manager.delete_device(mine.id())
        until(lambda: not device.connected, "the deleted device to lose its connection")
        device.shutdown()


def modules(hub):
    with Mine(hub, "modules") as mine:
        manager, name = mine.manager, mine.make()
        made = manager.create_module_with_sas(name, "m1", "somebody", *KEYS)
        equal((made.device_id, made.module_id, made.managed_by), (name, "m1", "somebody"), "module")
        manager.create_module_with_certificate_authority(name, "m2", None)
        refused(409, lambda: manager.create_module_with_sas(name, "m1", None, *KEYS))
        equal(sorted(module.module_id for module in manager.get_modules(name)), ["m1", "m2"], "modules")
        changed = manager.update_module_with_sas(name, "m1", "another", made.etag, *reversed(KEYS))
        equal(manager.get_module(name, "m1").etag, changed.etag, "etag")
        equal(changed.authentication.symmetric_key.primary_key, KEYS[1], "key")
        manager.delete_module(name, "m1")
        refused(404, lambda: manager.get_module(name, "m1"), "ModuleNotFound")
        equal([module.module_id for module in manager.get_modules(name)], ["m2"], "modules left")


def bulk(hub):
    with Mine(hub, "bulk") as mine:
        manager = mine.manager

        def one(number, mode):
            keys = AuthenticationMechanism(type="sas", symmetric_key=SymmetricKey(primary_key=KEYS[0], secondary_key=KEYS[1]))
            return ExportImportDevice(id=mine.id(number), status="enabled", import_mode=mode, authentication=keys)

        names = {mine.id(number) for number in range(100)}
        done = manager.bulk_create_or_update_devices([one(number, "create") for number in range(100)])
        equal((done.is_successful, done.errors), (True, []), "result of a hundred")
        listed = {device.device_id for device in manager.get_devices() if device.device_id.startswith(mine.prefix)}
        equal(listed, names, "devices made at once")
        done = manager.bulk_create_or_update_devices([one(0, "create"), one(1, "delete"), one(200, "create")])
        equal(done.is_successful, False, "one of them is there already")
        equal([error.device_id for error in done.errors], [mine.id(0)], "the one")
        done = manager.bulk_create_or_update_devices([one(number, "delete") for number in range(2, 100)])
        equal(done.is_successful, True, "the others are deleted")


def statistics(hub):
    with Mine(hub, "statistics") as mine:
        before = mine.manager.get_device_registry_statistics()
        mine.make()
        mine.manager.create_device_with_sas(mine.id("off"), *KEYS, "disabled")
        after = mine.manager.get_device_registry_statistics()
        counts = lambda told: (told.total_device_count, told.enabled_device_count, told.disabled_device_count)
        equal([a - b for a, b in zip(counts(after), counts(before))], [2, 1, 1], "devices more")
        connected = mine.manager.get_service_statistics().connected_device_count
        device = mine.client()
        device.connect()
        until(
            lambda: mine.manager.get_service_statistics().connected_device_count == connected + 1,
            "one more device is connected",
        )
        device.shutdown()


def wrong_key(hub):
    text = hub.owner()
    key = text.rpartition("SharedAccessKey=")[2]
    manager = IoTHubRegistryManager.from_connection_string(text.replace(key, "d3Jvbmcga2V5"))
    refused(401, manager.get_devices)
    try:
        manager.send_c2d_message(hub.device, "x")
    except Exception:
        return
    raise Failed("a command was sent with a wrong key")


# ---- twins ----------------------------------------------------------------------------------------------------------


def twins(hub):
    with Mine(hub, "twins") as mine:
        manager, name = mine.manager, mine.make()
        first = manager.get_twin(name)
        equal((first.device_id, first.tags, plain(first.properties.desired)), (name, {}, {}), "an untouched twin")
        equal((first.status, first.connection_state), ("enabled", "Disconnected"), "its device")
        patch = Twin(tags={"site": "north"}, properties=TwinProperties(desired={"period": 5, "deep": {"a": 1, "b": 2}}))
        second = manager.update_twin(name, patch, first.etag)
        equal((second.tags, plain(second.properties.desired)), ({"site": "north"}, {"period": 5, "deep": {"a": 1, "b": 2}}), "twin")
        equal(second.properties.desired["$version"], first.properties.desired["$version"] + 1, "version")
        refused(412, lambda: manager.update_twin(name, patch, first.etag))
        patch = Twin(tags={"floor": 3}, properties=TwinProperties(desired={"deep": {"a": None, "c": {"d": [1, "é"]}}}))
        third = manager.update_twin(name, patch)
        equal(third.tags, {"site": "north", "floor": 3}, "tags after a patch")
        equal(plain(third.properties.desired), {"period": 5, "deep": {"b": 2, "c": {"d": [1, "é"]}}}, "desired after a patch")
        whole = Twin(tags={"only": True}, properties=TwinProperties(desired={"new": 1.5}))
        fourth = manager.replace_twin(name, whole, third.etag)
        equal((fourth.tags, plain(fourth.properties.desired)), ({"only": True}, {"new": 1.5}), "a replaced twin")
        equal(len({twin.etag for twin in (first, second, third, fourth)}), 4, "etags")
        refused(404, lambda: manager.get_twin(mine.id("unknown")), "DeviceNotFound")
        for what, desired in [("33 KB", {f"k{n}": "x" * 4000 for n in range(9)}), ("a name", {"a.b": 1}), ("depth", deep(12))]:
            try:
                manager.update_twin(name, Twin(properties=TwinProperties(desired=desired)))
            except HttpOperationError as error:
                if error.response.status_code not in (400, 413):
                    raise
            else:
                raise Failed(f"desired properties beyond the limits were taken: {what}")
        equal(manager.get_twin(name).etag, fourth.etag, "etag after what was refused")


def deep(levels):
    return {"a": deep(levels - 1)} if levels else 1


def twin_device(hub):
    """What a device reports is seen; what is desired reaches it."""
    with Mine(hub, "reports") as mine:
        manager, name, patches = mine.manager, mine.make(), []
        device = mine.client()
        device.on_twin_desired_properties_patch_received = patches.append
        device.patch_twin_reported_properties({"firmware": "1.0"})
        twin = manager.get_twin(name)
        equal(plain(twin.properties.reported), {"firmware": "1.0"}, "reported")
        manager.update_twin(name, Twin(properties=TwinProperties(desired={"firmware": "1.1"})), twin.etag)
        until(lambda: any(plain(patch) == {"firmware": "1.1"} for patch in patches), "a patch")
        device.shutdown()


def module_twins(hub):
    with Mine(hub, "module-twins") as mine:
        manager, name = mine.manager, mine.make()
        manager.create_module_with_sas(name, "m", None, *KEYS)
        module = mine.client(module="m")
        module.patch_twin_reported_properties({"of": "module"})
        patch = Twin(tags={"x": 1}, properties=TwinProperties(desired={"a": 1}))
        manager.update_module_twin(name, "m", patch)
        twin = manager.get_module_twin(name, "m")
        equal((twin.device_id, twin.module_id, twin.tags), (name, "m", {"x": 1}), "twin of a module")
        equal(plain(twin.properties.reported), {"of": "module"}, "reported")
        equal(module.get_twin()["desired"]["a"], 1, "desired")
        module.shutdown()
        manager.replace_module_twin(name, "m", Twin(properties=TwinProperties(desired={"b": 2})), twin.etag)
        equal(plain(manager.get_module_twin(name, "m").properties.desired), {"b": 2}, "a replaced twin")
        equal(plain(manager.get_twin(name).properties.desired), {}, "the device's twin")


def query(hub):
    with Mine(hub, "query") as mine:
        manager = mine.manager
        for number in range(7):
            mine.make(number)
            site = {"name": "north" if number % 2 else "south", "floor": number}
            manager.update_twin(mine.id(number), Twin(tags={"run": mine.prefix, "site": site}, properties=TwinProperties(desired={"n": number})))

        def ask(text, **more):
            found, token = [], None
            while True:
                page = manager.query_iot_hub(QuerySpecification(query=text), token, **more)
                found += page.items
                token = page.continuation_token
                if not token:
                    return found

        mine_only = f"tags.run = '{mine.prefix}'"
        numbers = lambda text, **more: sorted(int(twin.device_id.rpartition("-")[2]) for twin in ask(text, **more))
        equal(numbers(f"SELECT * FROM devices WHERE {mine_only}"), list(range(7)), "all")
        equal(numbers(f"SELECT * FROM devices WHERE {mine_only}", max_item_count=3), list(range(7)), "all, in pages")
        for condition, wanted in [
            ("tags.site.name = 'north'", [1, 3, 5]),
            ("tags.site.floor >= 4 AND properties.desired.n != 5", [4, 6]),
            ("tags.site.floor IN [0, 2] OR tags.site.floor = 6", [0, 2, 6]),
            ("NOT (tags.site.name = 'north' OR tags.site.floor < 3)", [4, 6]),
            (f"deviceId = '{mine.id(3)}'", [3]),
            ("is_defined(tags.nothing)", []),
            ("status = 'enabled' and connectionState = 'Disconnected' and tags.site.floor < 1", [0]),
        ]:
            equal(numbers(f"select * from devices where {mine_only} and ({condition})"), wanted, condition)
        (count,) = ask(f"SELECT COUNT() AS n FROM devices WHERE {mine_only}")
        equal(count.additional_properties.get("n"), 7, "count")
        refused(400, lambda: ask("SELECT * FROM"))


# ---- methods, commands, jobs ----------------------------------------------------------------------------------------


def methods(hub):
    with Mine(hub, "methods") as mine:
        manager, name = mine.manager, mine.make()
        call = lambda payload, **more: manager.invoke_device_method(
            name, CloudToDeviceMethod(method_name="echo", payload=payload, **more)
        )
        refused(404, lambda: call({}, response_timeout_in_seconds=5), 404103)
        device = mine.client()
        echo(device)
        for payload in ({"a": [1, "é"]}, "text", 7):
            answer = call(payload, response_timeout_in_seconds=20, connect_timeout_in_seconds=5)
            equal((answer.status, answer.payload), (200, {"name": "echo", "payload": payload}), "answer")
        device.on_method_request_received = lambda _request: None
        refused(504, lambda: call({}, response_timeout_in_seconds=5), 504101)
        device.shutdown()
        missing = CloudToDeviceMethod(method_name="echo", payload={})
        refused(404, lambda: manager.invoke_device_method(mine.id("unknown"), missing))
        manager.create_module_with_sas(name, "m", None, *KEYS)
        module = mine.client(module="m")
        echo(module)
        request = CloudToDeviceMethod(method_name="echo", payload=1, response_timeout_in_seconds=20, connect_timeout_in_seconds=10)
        answer = manager.invoke_device_module_method(name, "m", request)
        equal((answer.status, answer.payload), (200, {"name": "echo", "payload": 1}), "answer of a module")
        module.shutdown()


def methods_many(hub):
    """A hundred at once on one device."""
    with Mine(hub, "many") as mine:
        name = mine.make()
        device = mine.client()
        echo(device)
        answers, wrong = [], []
        request = lambda number: CloudToDeviceMethod(
            method_name="echo", payload=number, response_timeout_in_seconds=60, connect_timeout_in_seconds=10
        )

        def some(first):
            manager = registry(hub)
            for number in range(first, first + 10):
                try:
                    answers.append(manager.invoke_device_method(name, request(number)).payload["payload"])
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=some, args=(first,)) for first in range(0, 100, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        device.shutdown()
        equal(wrong, [], "errors")
        equal(sorted(answers), list(range(100)), "answers")


def c2d(hub, **way):
    with Mine(hub, "c2d") as mine:
        manager, name, heard = registry(hub, **way), mine.make(), []
        device = mine.client()
        device.on_message_received = heard.append
        device.connect()
        properties = {
            "messageId": "m-1", "correlationId": "c-1", "contentType": "application/json", "contentEncoding": "utf-8",
            "colour": "blue green", "u": "é=1&2",
        }
        manager.send_c2d_message(name, '{"open": true}', properties)
        for number in range(20):
            manager.send_c2d_message(name, f"{number}")
        until(lambda: len(heard) == 21, "21 commands")
        device.shutdown()
        first = heard[0]
        equal(first.data, b'{"open": true}', "body")
        equal((first.message_id, first.correlation_id), ("m-1", "c-1"), "ids")
        equal((first.content_type, first.content_encoding), ("application/json", "utf-8"), "content")
        own = {key: value for key, value in first.custom_properties.items() if not key.startswith(("$", "iothub"))}
        equal(own, {"colour": "blue green", "u": "é=1&2"}, "properties")
        equal([message.data for message in heard[1:]], [f"{number}".encode() for number in range(20)], "commands")
        manager.amqp_svc_client.disconnect_sync()


def c2d_away(hub):
    with Mine(hub, "away") as mine:
        manager, name, heard = mine.manager, mine.make(), []
        soon = int((time.time() + 1) * 1000)
        manager.send_c2d_message(name, "too old soon", {"expiryTimeUtc": soon})
        for number in range(5):
            manager.send_c2d_message(name, f"{number}")
        until(lambda: manager.get_device(name).cloud_to_device_message_count == 5, "the first to expire")
        device = mine.client()
        device.on_message_received = heard.append
        until(lambda: len(heard) == 5, "five commands")
        until(lambda: manager.get_device(name).cloud_to_device_message_count == 0, "an empty queue")
        device.shutdown()
        equal([message.data for message in heard], [f"{number}".encode() for number in range(5)], "commands")


def c2d_refused(hub):
    """No such device, a queue of fifty, 64 KB."""
    with Mine(hub, "refused") as mine:
        name = mine.make()
        for what, device, body in [("no such device", mine.id("unknown"), "x"), ("65 KB", name, "x" * 66_000)]:
            manager = registry(hub)
            try:
                manager.send_c2d_message(device, body)
            except Exception:
                pass
            else:
                raise Failed(f"{what}: sent")
        for number in range(50):
            mine.manager.send_c2d_message(name, f"{number}")
        try:
            mine.manager.send_c2d_message(name, "one too many")
        except Exception:
            pass
        else:
            raise Failed("51 commands were taken")
        equal(mine.manager.get_device(name).cloud_to_device_message_count, 50, "commands that wait")
        purged = mine.manager.protocol.cloud_to_device_messages.purge_cloud_to_device_message_queue(name)
        equal((purged.total_messages_purged, purged.device_id), (50, name), "purged")
        equal(mine.manager.get_device(name).cloud_to_device_message_count, 0, "commands left")


def in_seconds(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def jobs(hub):
    with Mine(hub, "jobs") as mine:
        names = [mine.make(number) for number in range(3)]
        for name in names[:2]:
            mine.manager.update_twin(name, Twin(tags={"run": mine.prefix}))
        manager = IoTHubJobManager.from_connection_string(hub.owner())

        def run(number, request):
            job = f"{mine.prefix}-{number}"
            request.job_id, request.max_execution_time_in_seconds = job, 60
            request.start_time = in_seconds(0)
            manager.create_scheduled_job(job, request)
            done = lambda: (told := manager.get_scheduled_job(job)).status in ("completed", "failed") and told
            return until(done, "the job to end")

        where = f"tags.run = '{mine.prefix}'"
        twin = Twin(etag="*", tags={"by": "job"}, properties=TwinProperties(desired={"period": 9}))
        told = run(1, JobRequest(type="scheduleUpdateTwin", update_twin=twin, query_condition=where))
        counts = told.device_job_statistics
        equal((told.status, counts.device_count, counts.succeeded_count), ("completed", 2, 2), "job of twins")
        for name in names:
            found = mine.manager.get_twin(name)
            wanted = ("job", 9) if name in names[:2] else (None, None)
            equal((found.tags.get("by"), found.properties.desired.get("period")), wanted, f"twin of {name}")
        device = mine.client(0)
        echo(device)
        device.connect()
        method = CloudToDeviceMethod(method_name="echo", payload=1, response_timeout_in_seconds=5, connect_timeout_in_seconds=0)
        condition = f"deviceId = '{names[0]}'"
        told = run(2, JobRequest(type="scheduleDeviceMethod", cloud_to_device_method=method, query_condition=condition))
        device.shutdown()
        equal((told.status, told.device_job_statistics.succeeded_count), ("completed", 1), "job of methods")
        later = JobRequest(
            job_id=f"{mine.prefix}-3", type="scheduleUpdateTwin", update_twin=twin, query_condition=where,
            start_time=in_seconds(3600), max_execution_time_in_seconds=60,
        )
        manager.create_scheduled_job(later.job_id, later)
        equal(manager.cancel_scheduled_job(later.job_id).status, "cancelled", "a job that was cancelled")
        cancelled = manager.query_scheduled_jobs("scheduleUpdateTwin", "cancelled").items
        equal([job["status"] for job in cancelled if job["jobId"] == later.job_id], ["cancelled"], "jobs that were cancelled")


main(
    {
        "devices": devices,
        "device-disabled": device_disabled,
        "modules": modules,
        "bulk": bulk,
        "statistics": statistics,
        "wrong-key": wrong_key,
        "twins": twins,
        "twin-device": twin_device,
        "module-twins": module_twins,
        "query": query,
        "methods": methods,
        "methods-many": methods_many,
        "c2d": c2d,
        "c2d-away": c2d_away,
        "c2d-refused": c2d_refused,
        "c2d-websocket": lambda hub: c2d(hub, transport_type=TransportType.AmqpOverWebsocket),
        "jobs": jobs,
    }
)
