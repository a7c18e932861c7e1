#!/usr/bin/env python3
"""Reads from `simulator hub` with Microsoft's azure-eventhub, unmodified: one feature per run.

    service.py --list       the features, one per line
    service.py FEATURE      exit 0 if it works; else one paragraph on stderr says what does not

Environment: SDK_HUB, the file that `simulator hub connection-strings --json` printed; SDK_DEVICE, the id of a device
of this script alone; SDK_HUB_HTTP, the hub's HTTP address. Its events are told from others by a mark in their bodies, so runs may follow one another.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
import uuid
from datetime import datetime, timedelta, timezone

import paho.mqtt.client as mqtt
from azure.core.credentials import AccessToken
from azure.eventhub import CheckpointStore, EventHubConsumerClient, TransportType
from azure.eventhub.aio import EventHubConsumerClient as AsyncConsumerClient
from azure.eventhub.exceptions import ConnectError, EventHubError, OwnershipLostError

PATIENCE_S = 30
BAG = "%24.mid=m-1&%24.cid=c1&%24.ct=application%2Fjson&%24.ce=utf-8&%24.uid=u1&colour=blue%20green&%C3%A9=x%3Dy%26z"


class Fault(Exception):
    """What does not work."""


def ensure(holds, why):
    if not holds:
        raise Fault(why)


# ---- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    def __init__(self):
        with open(os.environ["SDK_HUB"], encoding="utf-8") as file:
            self.told = json.load(file)
        self.device = os.environ["SDK_DEVICE"]
        self.event_hub = self.told["event-hub"]
        self.ca_file = self.told["ca-file"]
        text = self.told["services"].get("service") or next(iter(self.told["services"].values()))
        self.parts = dict(part.split("=", 1) for part in text.split(";"))
        # Where there is a group of this script's own, scripts beside it do not take its place.
        self.groups = self.told.get("consumer-groups", [])
        self.group = "python" if "python" in self.groups else "$Default"

    def text(self, plain=True, key=None):
        """A connection string."""
        endpoint = self.told["amqp"]["url"].replace("amqp:", "sb:") if plain else "sb://" + self.told["amqp"]["host"]
        policy, key = self.parts["SharedAccessKeyName"], key or self.parts["SharedAccessKey"]
        end = ";UseDevelopmentEmulator=true" if plain else ""
        return (
            f"Endpoint={endpoint};SharedAccessKeyName={policy};SharedAccessKey={key};EntityPath={self.event_hub}{end}"
        )

    def client(self, group=None, cls=EventHubConsumerClient, key=None, **options):
        options = {"retry_total": 0, **options}
        return cls.from_connection_string(self.text(key=key), consumer_group=group or self.group, **options)

    def secure(self, kind, transport):
        """A client over TLS: `kind` is the entry that says where to dial."""
        dial = self.told.get(kind)
        ensure(dial, f"the hub has no `{kind}`: set `hub.{kind}-listen`")
        return EventHubConsumerClient.from_connection_string(
            self.text(plain=False),
            consumer_group=self.group,
            custom_endpoint_address=f"sb://{dial['host']}:{dial['port']}",
            transport_type=transport,
            connection_verify=self.ca_file,
            retry_total=0,
        )

    def token(self, resource, until_s):
        """A shared-access signature as services make it: the key is the text it is."""
        resource = urllib.parse.quote(resource, safe="")
        digest = hmac.new(
            self.parts["SharedAccessKey"].encode(), f"{resource}\n{until_s}".encode(), hashlib.sha256
        ).digest()
        signature = urllib.parse.quote(base64.b64encode(digest), safe="")
        name = self.parts["SharedAccessKeyName"]
        return f"SharedAccessSignature sr={resource}&sig={signature}&se={until_s}&skn={name}"

    def get(self, path, body=None):
        """What the hub's HTTP face answers."""
        url, head = os.environ["SDK_HUB_HTTP"].rstrip("/") + path, {"content-type": "application/json"}
        request = urllib.request.Request(url, body and json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def fault(self, rule):
        """Has something go wrong now."""
        self.get("/faults", rule)

    def publish(self, bodies, bag=""):
        """Publishes at QoS 1 as the device, and returns when all are acknowledged."""
        parts = dict(part.split("=", 1) for part in self.told["devices"][self.device].split(";"))
        host, key = parts["HostName"], base64.b64decode(parts["SharedAccessKey"])
        resource, until_s = urllib.parse.quote(f"{host}/devices/{self.device}", safe=""), int(time.time()) + 3600
        digest = hmac.new(key, f"{resource}\n{until_s}".encode(), hashlib.sha256).digest()
        signature = urllib.parse.quote(base64.b64encode(digest), safe="")
        client = mqtt.Client(client_id=self.device, clean_session=True)
        client.tls_set_context(ssl.create_default_context(cafile=self.ca_file))
        client.username_pw_set(
            f"{host}/{self.device}/?api-version=2021-04-12",
            f"SharedAccessSignature sr={resource}&sig={signature}&se={until_s}",
        )
        connected = threading.Event()
        client.on_connect = lambda *_: connected.set()
        client.connect(self.told["mqtt"]["host"], self.told["mqtt"]["port"])
        client.loop_start()
        ensure(connected.wait(PATIENCE_S), "the device could not connect")
        for body in bodies:
            done = client.publish(f"devices/{self.device}/messages/events/{bag}", body, qos=1)
            done.wait_for_publish(PATIENCE_S)
            ensure(done.is_published(), "a publish was not acknowledged")
        client.disconnect()
        client.loop_stop()


class Mine:
    """Some events of this run, in the order published."""

    def __init__(self, hub, count, bag="", client=None):
        self.mark = uuid.uuid4().hex
        self.partition = str(hub.get(f"/events?device={hub.device}&max=1")["partition"])
        with client or hub.client() as client:
            ids = client.get_partition_ids()
            self.before = {one: client.get_partition_properties(one)["last_enqueued_sequence_number"] for one in ids}
        hub.publish([self.body(number) for number in range(count)], bag)

    def body(self, number):
        return f"{self.mark} {number}"

    def keep(self, event):
        return event.body_as_str().startswith(self.mark)

    def numbers(self, events):
        return [int(event.body_as_str().split()[1]) for event in events]


def collect(client, partition, count, keep, patience_s=PATIENCE_S, end_s=0.5, **options):
    """Events of a partition: the first `count` that are to be kept, and whatever follows at once."""
    got, errors, full = [], [], threading.Event()

    def on_event(_, event):
        if event is not None and keep(event):
            got.append(event)
            if count <= len(got):
                full.set()

    def on_error(_, error):
        errors.append(error)
        full.set()

    def receive():
        try:
            client.receive(on_event, partition_id=partition, on_error=on_error, max_wait_time=0.2, **options)
        except Exception as error:  # whatever the SDK raises
            on_error(None, error)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    full.wait(patience_s)
    time.sleep(end_s)
    client.close()
    thread.join(PATIENCE_S)
    if errors:
        raise errors[0]
    return got


class Running:
    """A receiver in the background."""

    def __init__(self, client, partition, **options):
        self.client, self.got, self.errors, self.ended = client, [], [], threading.Event()

        def on_event(_, event):
            if event is not None:
                self.got.append(event)

        def on_error(_, error):
            self.errors.append(error)
            self.ended.set()

        def receive():
            try:
                client.receive(on_event, partition_id=partition, on_error=on_error, max_wait_time=0.2, **options)
            except Exception as error:
                on_error(None, error)

        self.thread = threading.Thread(target=receive, daemon=True)
        self.thread.start()

    def wait_for(self, count):
        wait(lambda: count <= len(self.got) or self.errors, "events")
        if self.errors:
            raise self.errors[0]

    def close(self):
        self.client.close()
        self.thread.join(PATIENCE_S)


def wait(holds, what, patience_s=PATIENCE_S):
    until = time.monotonic() + patience_s
    while not holds():
        ensure(time.monotonic() < until, f"waited {patience_s} s for {what} in vain")
        time.sleep(0.02)


def refused(work, *words):
    """The work fails, and the error tells why."""
    try:
        work()
    except Exception as error:
        text = f"{type(error).__name__}: {error} {getattr(error, 'error', '')} {getattr(error, 'details', '')}".lower()
        ensure(any(word.lower() in text for word in words), f"refused, but not for {words}: {text}")
        return error
    raise Fault(f"not refused; expected {words}")


def starts(hub, cases, count=20):
    """Each case is (name, options from the events read first, number of the first event expected)."""
    mine = Mine(hub, count)
    with hub.client() as client:
        events = collect(client, mine.partition, count, mine.keep, starting_position="-1")
    ensure(mine.numbers(events) == list(range(count)), f"from the beginning came {mine.numbers(events)}")
    for name, options, first in cases(events):
        with hub.client() as client:
            numbers = mine.numbers(collect(client, mine.partition, count - first, mine.keep, **options))
        ensure(numbers == list(range(first, count)), f"{name}: expected {first}..{count - 1}, got {numbers}")


# ---- features --------------------------------------------------------------------------------------------------------


def properties(hub):
    with hub.client() as client:
        told = client.get_eventhub_properties()
        ensure(told["eventhub_name"] == hub.event_hub, f"name {told}")
        ensure(told["partition_ids"] == [str(n) for n in range(len(told["partition_ids"]))], f"partition ids {told}")
        ensure(isinstance(told["created_at"], datetime), f"created_at {told}")
    mine = Mine(hub, 3)
    with hub.client() as client:
        one = client.get_partition_properties(mine.partition)
    last = mine.before[mine.partition] + 3
    ensure(one["id"] == mine.partition and one["eventhub_name"] == hub.event_hub, f"names {one}")
    ensure(last <= one["last_enqueued_sequence_number"], f"expected at least {last}: {one}")
    ensure(0 <= one["beginning_sequence_number"] <= last, f"beginning {one}")
    ensure(0 < int(one["last_enqueued_offset"]) and not one["is_empty"], f"offset and emptiness {one}")
    age = datetime.now(timezone.utc) - one["last_enqueued_time_utc"].replace(tzinfo=timezone.utc)
    ensure(abs(age) < timedelta(minutes=1), f"last_enqueued_time_utc is {age} ago")


def earliest(hub):
    starts(hub, lambda _: [("the beginning", {"starting_position": "-1"}, 0)])


def latest(hub):
    mine = Mine(hub, 3)
    running = Running(hub.client(), mine.partition, starting_position="@latest")
    # Once one has arrived, the receiver is there, and what follows cannot be missed.
    probes = []
    def probed():
        probes.append(Mine(hub, 1))
        return running.errors or any(probe.keep(event) for event in running.got for probe in probes)
    wait(probed, "a first event")
    more = Mine(hub, 4)
    wait(lambda: running.errors or len(list(filter(more.keep, running.got))) == 4, "four more")
    running.wait_for(0)
    running.close()
    bodies = [event.body_as_str() for event in running.got]
    ensure(not any(body.startswith(mine.mark) for body in bodies), f"old events came: {bodies}")
    ensure(more.numbers(filter(more.keep, running.got)) == [0, 1, 2, 3], f"expected four new ones: {bodies}")


def offset(hub):
    starts(hub, lambda events: [
        ("after an offset", {"starting_position": events[7].offset}, 8),
        ("at an offset", {"starting_position": events[7].offset, "starting_position_inclusive": True}, 7),
    ])


def sequence_number(hub):
    starts(hub, lambda events: [
        ("after a sequence number", {"starting_position": events[7].sequence_number}, 8),
        ("at one", {"starting_position": events[7].sequence_number, "starting_position_inclusive": True}, 7),
    ])


def enqueued_time(hub):
    first = Mine(hub, 5)
    time.sleep(0.05)
    second = Mine(hub, 5)
    with hub.client() as client:
        both = lambda event: first.keep(event) or second.keep(event)
        events = collect(client, first.partition, 10, both, starting_position="-1")
    ensure(len(events) == 10, f"{len(events)} of 10 events")
    at = events[5].enqueued_time
    ensure(events[4].enqueued_time < at, "the two batches have the same time")
    same = sum(event.enqueued_time == at for event in events)
    for inclusive, count in ((True, 5), (False, 5 - same)):
        with hub.client() as client:
            options = {"starting_position": at, "starting_position_inclusive": inclusive}
            got = collect(client, first.partition, max(count, 1), both, patience_s=5, **options)
        # The SDK writes whole milliseconds, as the service stores them.
        ensure(len(got) == count, f"inclusive={inclusive}: expected {count} events, got {len(got)}")


def owner_level(hub):
    mine = Mine(hub, 3)
    options = {"starting_position": "-1"}
    without = Running(hub.client(), mine.partition, **options)
    without.wait_for(3)
    low = Running(hub.client(), mine.partition, owner_level=1, **options)
    low.wait_for(3)
    wait(lambda: without.ended.is_set(), "the receiver without a level to be disconnected")
    refused(lambda: collect(hub.client(), mine.partition, 1, mine.keep, **options), "epoch of '1'")
    high = Running(hub.client(), mine.partition, owner_level=2, **options)
    high.wait_for(3)
    wait(lambda: low.ended.is_set(), "the owner of level 1 to be disconnected")
    text = f"{type(low.errors[0]).__name__} {low.errors[0]}"
    ensure("higher epoch" in text or "stolen" in text.lower(), f"the first owner was told {text}")
    ensure(isinstance(low.errors[0], (ConnectError, OwnershipLostError, EventHubError)), f"it was given a {text}")
    refused(
        lambda: collect(hub.client(), mine.partition, 1, mine.keep, owner_level=1, **options), "epoch of '2'"
    )
    ensure(not high.errors, f"the owner of level 2 was disturbed: {high.errors}")
    for running in (without, low, high):
        running.close()
    # The place is free again.
    got = collect(hub.client(), mine.partition, 3, mine.keep, **options)
    ensure(mine.numbers(got) == [0, 1, 2], f"after all left: {got}")


def receiver_limit(hub):
    mine = Mine(hub, 1)
    five = [Running(hub.client(), mine.partition, starting_position="-1") for _ in range(5)]
    for running in five:
        running.wait_for(1)
    refused(
        lambda: collect(hub.client(), mine.partition, 1, mine.keep, starting_position="-1"),
        "maximum number of allowed receivers",
    )
    for running in five:
        running.close()


def consumer_groups(hub):
    ensure("$Default" in hub.groups, f"$Default is not among {hub.groups}")
    second = next((group for group in hub.groups if group not in (hub.group, "$Default", "node", "node-2")), None)
    ensure(second, "only one consumer group: set e.g. `hub.consumer-groups = [\"second\"]`")
    groups = [hub.group, second]
    mine = Mine(hub, 3)
    owners = [Running(hub.client(group), mine.partition, owner_level=1, starting_position="-1") for group in groups]
    for owner in owners:
        owner.wait_for(3)
    ensure(not any(owner.errors for owner in owners), "owners of different groups disturbed one another")
    for owner in owners:
        owner.close()
    refused(
        lambda: collect(hub.client("no-such-group"), mine.partition, 1, mine.keep, starting_position="-1"),
        "not-found", "could not be found",
    )


class Memory(CheckpointStore):
    """Ownership and checkpoints of one process."""

    def __init__(self):
        self.lock, self.ownerships, self.checkpoints = threading.Lock(), {}, {}

    def list_ownership(self, fully_qualified_namespace, eventhub_name, consumer_group, **_):
        with self.lock:
            return [dict(one) for one in self.ownerships.values()]

    def claim_ownership(self, ownership_list, **_):
        claimed = []
        with self.lock:
            for wanted in ownership_list:
                key = wanted["partition_id"]
                held = self.ownerships.get(key)
                if held and held.get("etag") != wanted.get("etag"):
                    continue
                taken = {**wanted, "etag": uuid.uuid4().hex, "last_modified_time": time.time()}
                self.ownerships[key] = taken
                claimed.append(dict(taken))
        return claimed

    def update_checkpoint(self, checkpoint, **_):
        with self.lock:
            self.checkpoints[checkpoint["partition_id"]] = dict(checkpoint)

    def list_checkpoints(self, fully_qualified_namespace, eventhub_name, consumer_group, **_):
        with self.lock:
            return [dict(one) for one in self.checkpoints.values()]


def process(hub, store, mine, count):
    """All partitions, until `count` own events were checkpointed."""
    client, numbers, errors, full = hub.client(checkpoint_store=store), [], [], threading.Event()

    def on_batch(context, events):
        for event in events:
            if full.is_set():
                return
            if mine.keep(event):
                numbers.extend(mine.numbers([event]))
            context.update_checkpoint(event)
            if count <= len(numbers):
                full.set()

    def on_error(_, error):
        errors.append(error)

    receive = lambda: client.receive_batch(
        on_batch, on_error=on_error, starting_position=mine.before, max_batch_size=5, max_wait_time=0.5
    )
    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    full.wait(PATIENCE_S)
    client.close()
    thread.join(PATIENCE_S)
    if errors:
        raise errors[0]
    return numbers


def checkpoint_store(hub):
    mine, store = Mine(hub, 20), Memory()
    numbers = process(hub, store, mine, 8)
    ensure(numbers == list(range(8)), f"the first run read {numbers}")
    store.ownerships.clear()
    numbers = process(hub, store, mine, 12)
    ensure(numbers == list(range(8, 20)), f"after the checkpoint came {numbers}")


def runtime_metrics(hub):
    mine = Mine(hub, 10)
    seen = []

    def receive(**options):
        client, full = hub.client(), threading.Event()
        seen.clear()

        def on_event(context, event):
            if event is not None and mine.keep(event):
                seen.append((event.sequence_number, context.last_enqueued_event_properties))
                if len(seen) == 10:
                    full.set()

        work = lambda: client.receive(
            on_event, partition_id=mine.partition, starting_position=mine.before[mine.partition], **options
        )
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        full.wait(PATIENCE_S)
        client.close()
        thread.join(PATIENCE_S)
        ensure(len(seen) == 10, f"{len(seen)} of 10 events")

    receive(track_last_enqueued_event_properties=True)
    last = seen[-1][0]
    for number, told in seen:
        ensure(told, f"event {number} tells nothing about the end")
        ensure(last <= told["sequence_number"], f"event {number}: {told}")
        ensure(told["offset"] and told["enqueued_time"] and told["retrieval_time"], f"event {number}: {told}")
    receive()
    ensure(not any(told and told.get("sequence_number") for _, told in seen), f"told without being asked: {seen[0]}")


def large_message(hub):
    before, mark = Mine(hub, 1), uuid.uuid4().hex
    bodies = [(mark + "0123456789abcdef" * 16384)[:size] for size in (65_000, 65_536, 131_072, 262_000)]
    hub.publish(bodies)
    keep = lambda event: event.body_as_str().startswith(mark)
    got = collect(hub.client(), before.partition, 4, keep, starting_position=before.before[before.partition])
    ensure([event.body_as_str() for event in got] == bodies, f"{[len(event.body_as_str()) for event in got]} bytes came")


def reads(hub, make):
    with make() as client:
        ensure(client.get_eventhub_properties()["eventhub_name"] == hub.event_hub, "the name is another")
    mine = Mine(hub, 50)
    numbers = mine.numbers(collect(make(), mine.partition, 50, mine.keep, starting_position="-1"))
    ensure(numbers == list(range(50)), f"events {numbers}")


def plain(hub):
    reads(hub, hub.client)


def tls(hub):
    reads(hub, lambda: hub.secure("amqps", TransportType.Amqp))


def websocket(hub):
    reads(hub, lambda: hub.secure("amqp-websocket", TransportType.AmqpOverWebsocket))


def wrong_key(hub):
    with hub.client(key="d3Jvbmc=") as client:
        refused(client.get_eventhub_properties, "401", "unauthorized", "authenticat", "InvalidSignature")
    refused(
        lambda: collect(hub.client(key="d3Jvbmc="), "0", 1, lambda _: True, starting_position="-1"),
        "401", "unauthorized", "authenticat", "InvalidSignature",
    )


def unknown_partition(hub):
    with hub.client() as client:
        refused(lambda: client.get_partition_properties("4711"), "404", "not-found", "invalid for an EventHub")
    # The SDK asks `$management` for the partitions and does not even try.
    receive = lambda: collect(hub.client(), "4711", 1, lambda _: True, starting_position="-1")
    refused(receive, "wrong partition id", "not-found", "invalid")


class ShortLived:
    """A credential whose tokens last some seconds; the SDK renews them on the open link."""

    token_type = b"servicebus.windows.net:sastoken"

    def __init__(self, hub, life_s):
        self.hub, self.life_s, self.asked = hub, life_s, 0

    def get_token(self, *scopes, **_):
        self.asked += 1
        until_s = int(time.time()) + self.life_s
        return AccessToken(self.hub.token(scopes[0], until_s), until_s)


def token_renewal(hub):
    credential = ShortLived(hub, 10)
    dial = hub.told["amqps"]
    ensure(dial, "the hub has no TLS port: set `hub.amqps-listen`")
    client = EventHubConsumerClient(
        dial["host"], hub.event_hub, hub.group, credential,
        custom_endpoint_address=f"sb://{dial['host']}:{dial['port']}", transport_type=TransportType.Amqp,
        connection_verify=hub.ca_file, retry_total=0,
    )
    mine = Mine(hub, 1)
    running = Running(client, mine.partition, starting_position=mine.before[mine.partition])
    running.wait_for(1)
    first = credential.asked
    time.sleep(13)
    late = Mine(hub, 2)
    wait(lambda: running.errors or len(list(filter(late.keep, running.got))) == 2, "events after the first token's end")
    ensure(not running.errors, f"the link did not live on: {running.errors}")
    ensure(first < credential.asked, "the SDK did not renew its token")
    running.close()


def recovery(hub):
    first = Mine(hub, 2)
    options = {"retry_total": 5, "retry_backoff_factor": 0.1}
    running = Running(hub.client(**options), first.partition, starting_position=first.before[first.partition])
    running.wait_for(2)
    mine = [first]
    for fault in ("detach-receivers", "move-partition", "expire-service-tokens", "reset-services"):
        hub.fault({"fault": fault, "partition": int(first.partition)} if fault in WITH_PARTITION else {"fault": fault})
        mine.append(Mine(hub, 3))
        late = mine[-1]
        wait(lambda: len(list(filter(late.keep, running.got))) == 3 or running.errors, f"events after {fault}")
        ensure(not running.errors, f"after {fault}: {running.errors}")
    numbers = [event.sequence_number for event in running.got]
    running.close()
    ensure(numbers == sorted(set(numbers)), f"events came twice or out of order: {numbers}")


WITH_PARTITION = ("detach-receivers", "move-partition")


def async_client(hub):
    mine = Mine(hub, 20)

    async def read():
        client = hub.client(cls=AsyncConsumerClient)
        got, full = [], asyncio.Event()

        async def on_event(_, event):
            if event is not None and mine.keep(event):
                got.append(event)
                if len(got) == 20:
                    full.set()

        async with client:
            told = await client.get_eventhub_properties()
            ensure(told["eventhub_name"] == hub.event_hub, f"properties {told}")
            await client.get_partition_properties(mine.partition)
            task = asyncio.ensure_future(
                client.receive(on_event, partition_id=mine.partition, starting_position="-1")
            )
            await asyncio.wait_for(full.wait(), PATIENCE_S)
        # It would sleep until the SDK balances its load the next time.
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return mine.numbers(got)

    numbers = asyncio.run(read())
    ensure(numbers == list(range(20)), f"events {numbers}")


def annotations(hub):
    mine = Mine(hub, 1, BAG)
    [event] = collect(hub.client(), mine.partition, 1, mine.keep, starting_position=mine.before[mine.partition])
    system = {(key.decode() if isinstance(key, bytes) else key): value for key, value in event.system_properties.items()}
    text = lambda key: system[key].decode() if isinstance(system.get(key), bytes) else system.get(key)
    ensure(isinstance(system.get("x-opt-sequence-number"), int), f"sequence number: {system}")
    ensure(event.offset.isdigit(), f"offset {event.offset!r}")
    age = datetime.now(timezone.utc) - event.enqueued_time
    ensure(abs(age) < timedelta(minutes=1), f"enqueued {age} ago")
    for key, value in {
        "iothub-connection-device-id": hub.device,
        "iothub-message-source": "Telemetry",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "message-id": "m-1",
        "correlation-id": "c1",
        "user-id": "u1",
    }.items():
        ensure(text(key) == value, f"{key} is {text(key)!r}, not {value!r}: {system}")
    method = json.loads(text("iothub-connection-auth-method"))
    ensure(method["scope"] == "device" and method["type"] == "sas", f"auth method {method}")
    ensure(text("iothub-connection-auth-generation-id"), f"no generation: {system}")
    ensure(isinstance(system.get("iothub-enqueuedtime"), int), f"iothub-enqueuedtime: {system}")
    told = {
        (key.decode() if isinstance(key, bytes) else key): (value.decode() if isinstance(value, bytes) else value)
        for key, value in event.properties.items()
    }
    ensure(told == {"colour": "blue green", "é": "x=y&z"}, f"properties {told}")
    ensure(event.partition_key is None, f"partition key {event.partition_key!r}")


def snippets(hub):
    """What `hub connection-strings` prints, pasted."""
    mine = [one for one in hub.told["snippets"] if one["sdk"] == "Python azure-eventhub"]
    ensure({one["way"] for one in mine} == {"plain", "tls", "websocket"}, f"ways: {mine}")
    for one in mine:
        names = {"EventHubConsumerClient": EventHubConsumerClient, "TransportType": TransportType}
        client = eval(one["code"], names)
        with client:
            told = client.get_eventhub_properties()
        ensure(told["eventhub_name"] == hub.event_hub, f"{one['way']}: {told}")


FEATURES = {
    work.__name__.replace("_", "-"): work
    for work in (
        properties, earliest, latest, offset, sequence_number, enqueued_time, owner_level, receiver_limit,
        consumer_groups, checkpoint_store, runtime_metrics, large_message, plain, tls, websocket, wrong_key,
        unknown_partition, token_renewal, recovery, async_client, annotations, snippets,
    )
}


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FEATURES))
        return 0
    if len(sys.argv) != 2 or sys.argv[1] not in FEATURES:
        print(f"usage: service.py --list | {' | '.join(FEATURES)}", file=sys.stderr)
        return 64
    try:
        FEATURES[sys.argv[1]](Hub())
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 1
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        print(f"{type(error).__name__}: {error} (at {where.filename}:{where.lineno})", file=sys.stderr)
        if os.environ.get("SDK_TRACE"):
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    # Threads of the SDK that hang must not keep the process.
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
