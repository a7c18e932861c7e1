"""Microsoft's Python device SDK, azure-iot-device, against the provisioning service beside the hub, and then against
the hub it was assigned to. See hub.py for how it is called; of SDK_DEVICE D there are

    D, D-again, D-wrong   simulator hub enroll D …
    D-disabled            simulator hub enroll D-disabled --disabled
    D-x509                simulator hub enroll D-x509 --auth x509
    D-payload             an enrolment with payload = { line = 3 }
    D-group               simulator hub enroll D-group --group
    D-x509-group          simulator hub enroll D-x509-group --group --auth x509 --member D-x509-member
"""

import base64
import hashlib
import hmac
import json
import threading

from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient, X509

from hub import Failed, body, equal, main


def where(hub):
    dps = hub.strings["provisioning"]
    return {"provisioning_host": dps["mqtt"]["host"], "id_scope": dps["id-scope"], "server_verification_cert": hub.ca()}


def key_of(hub, name, kind="individual"):
    return hub.strings["provisioning"][kind][name]["primary-key"]


def by_key(hub, name, key, **more):
    facts = where(hub) | more
    return ProvisioningDeviceClient.create_from_symmetric_key(registration_id=name, symmetric_key=key, **facts)


def own_key(group_key, name):
    digest = hmac.new(base64.b64decode(group_key), name.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def assigned(hub, client, name):
    result = client.register()
    equal(result.status, "assigned", "status")
    state = result.registration_state
    equal((state.device_id, state.assigned_hub), (name, hub.host_name), "device and hub")
    equal(state.sub_status, "initialAssignment", "substatus")
    return result


def sends(hub, name, device):
    since = hub.end(name)
    device.send_message("assigned")
    device.shutdown()
    equal([body(event) for event in hub.events(since, name)], [b"assigned"], f"messages of {name}")


def sends_by_key(hub, name, key, **more):
    device = IoTHubDeviceClient.create_from_symmetric_key(
        symmetric_key=key, hostname=hub.host_name, device_id=name, server_verification_cert=hub.ca(), **more
    )
    sends(hub, name, device)


def symmetric_key(hub):
    key = key_of(hub, hub.device)
    result = assigned(hub, by_key(hub, hub.device, key), hub.device)
    if not (result.operation_id and result.registration_state.created_date_time and result.registration_state.etag):
        raise Failed(f"no operation id, date or etag: {vars(result)}")
    sends_by_key(hub, hub.device, key)


def group_key(hub):
    name = f"{hub.device}-member"
    key = own_key(key_of(hub, f"{hub.device}-group", "groups"), name)
    assigned(hub, by_key(hub, name, key), name)
    sends_by_key(hub, name, key)


def by_certificate(name, **more):
    def feature(hub):
        device_id = f"{hub.device}-{name}"
        files = hub.strings["provisioning"]["certificates"][device_id]
        x509 = X509(cert_file=files["certificate-file"], key_file=files["key-file"])
        client = ProvisioningDeviceClient.create_from_x509_certificate(
            registration_id=device_id, x509=x509, **where(hub), **more
        )
        assigned(hub, client, device_id)
        device = IoTHubDeviceClient.create_from_x509_certificate(
            x509, hub.host_name, device_id, server_verification_cert=hub.ca(), **more
        )
        sends(hub, device_id, device)

    return feature


def websocket(hub):
    name = f"{hub.device}-websocket"
    key = own_key(key_of(hub, f"{hub.device}-group", "groups"), name)
    assigned(hub, by_key(hub, name, key, websockets=True), name)
    sends_by_key(hub, name, key, websockets=True)


def websocket_refused(hub):
    fails(by_key(hub, hub.device, "d3Jvbmcga2V5", websockets=True), "a wrong key", "ServiceError")
    client = by_key(hub, hub.device, key_of(hub, hub.device), id_scope="0ne00000000", websockets=True)
    fails(client, "another id scope", "CredentialError")


def again(hub):
    name = f"{hub.device}-again"
    key = key_of(hub, name)
    first = assigned(hub, by_key(hub, name, key), name)
    second = assigned(hub, by_key(hub, name, key), name)
    created = [result.registration_state.created_date_time for result in (first, second)]
    equal(created[0], created[1], "when it was created")
    equal(first.operation_id == second.operation_id, False, "operations are the same")


def many_at_once(hub):
    group, threads, failed = key_of(hub, f"{hub.device}-group", "groups"), [], []

    def one(name):
        try:
            assigned(hub, by_key(hub, name, own_key(group, name)), name)
        except BaseException as error:
            failed.append(f"{name}: {error!r}")

    for at in range(10):
        threads.append(threading.Thread(target=one, args=(f"{hub.device}-many-{at}",)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    equal(failed, [], "failures")


def payload(hub):
    name = f"{hub.device}-payload"
    client = by_key(hub, name, key_of(hub, name))
    client.provisioning_payload = {"model": "press"}
    result = assigned(hub, client, name)
    equal(json.loads(result.registration_state.response_payload), {"line": 3}, "payload")


def fails(client, what, wanted):
    try:
        result = client.register()
    except Exception as error:
        # That the service says no is an internal error of the SDK's, wrapped in a public one.
        causes = {type(cause).__name__ for cause in (error, error.__cause__)}
        if wanted in causes:
            return
        raise Failed(f"{what}: {error!r}") from error
    raise Failed(f"{what}: {result.status}")


def wrong_key(hub):
    fails(by_key(hub, hub.device, "d3Jvbmcga2V5"), "a wrong key", "ServiceError")


def wrong_scope(hub):
    client = by_key(hub, hub.device, key_of(hub, hub.device), id_scope="0ne00000000")
    fails(client, "another id scope", "CredentialError")


def not_enrolled(hub):
    fails(by_key(hub, f"{hub.device}-stranger", "d3Jvbmcga2V5"), "a stranger", "ServiceError")


def disabled(hub):
    name = f"{hub.device}-disabled"
    fails(by_key(hub, name, key_of(hub, name)), "a disabled enrolment", "ServiceError")


main(
    {
        "symmetric-key": symmetric_key,
        "group-key": group_key,
        "x509": by_certificate("x509"),
        "x509-group": by_certificate("x509-member"),
        "again": again,
        "many-at-once": many_at_once,
        "payload": payload,
        "wrong-key": wrong_key,
        "wrong-scope": wrong_scope,
        "not-enrolled": not_enrolled,
        "disabled": disabled,
        "websocket": websocket,
        "websocket-x509": by_certificate("x509", websockets=True),
        "websocket-refused": websocket_refused,
    }
)
