"""What every script here needs: the hub's connection strings, a look at what arrived, scripted misfortune, and the
way features are named and run.

A script is called with the name of a feature; it exits with 0 if the feature works, and otherwise says why on standard
error. With --list it prints its features, one a line. The environment says where the hub is:

    SDK_HUB       file with the output of `simulator hub connection-strings --json`
    SDK_HUB_HTTP  the hub's own HTTP address, e.g. http://127.0.0.1:9103
    SDK_DEVICE    id D of a device registered for the script, beside which there are
                  D/m            simulator hub register D --module m
                  D-ca           simulator hub register D-ca --auth x509-ca
                  D-thumbprint   simulator hub register D-thumbprint --auth x509-thumbprint
                  D-expired      simulator hub register D-expired --auth x509-ca --days 0
"""

import base64
import hashlib
import hmac
import json
import os
import ssl
import sys
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request

PATIENCE_S = 30


class Failed(Exception):
    """The feature does not work; the text says how."""


class Refused(Exception):
    """The hub's service API said no."""

    def __init__(self, status, text):
        super().__init__(f"{status} {text}")
        self.status = status


def sign(resource, key, ends, policy=None):
    """A token, by hand."""
    resource = urllib.parse.quote(resource, safe="")
    digest = hmac.new(base64.b64decode(key), f"{resource}\n{ends}".encode(), hashlib.sha256).digest()
    token = f"SharedAccessSignature sr={resource}&sig={urllib.parse.quote(base64.b64encode(digest), safe='')}&se={ends}"
    return token + (f"&skn={policy}" if policy else "")


class Hub:
    def __init__(self):
        with open(os.environ["SDK_HUB"], encoding="utf-8") as file:
            self.strings = json.load(file)
        self.http = os.environ["SDK_HUB_HTTP"].rstrip("/")
        self.device = os.environ["SDK_DEVICE"]
        # The name in the server's certificate, and where its port 8883 is.
        self.host = self.strings["mqtt"]["host"]
        self.host_name = self.strings["host-name"]

    def ca(self):
        with open(self.strings["ca-file"], encoding="utf-8") as file:
            return file.read()

    def connection_string(self, name=None, direct=True):
        """Of a device, or of a module `device/module`. A direct one says to dial the hub's address."""
        name = name or self.device
        text = self.strings["modules" if "/" in name else "devices"][name]
        return text.replace(f"HostName={self.host_name};", f"HostName={self.host};") if direct else text

    def certificate(self, name):
        files = self.strings["certificates"][name]
        return files["certificate-file"], files["key-file"]

    def owner(self, direct=True):
        """The connection string of a policy that may do everything."""
        text = self.strings["policies"]["iothubowner"]
        return text.replace(f"HostName={self.host_name};", f"HostName={self.host};") if direct else text

    def service(self, method, path, body=None, headers=None):
        """Asks the service API, without an SDK; gives what it answers."""
        parts = dict(part.split("=", 1) for part in self.owner().split(";"))
        token = sign(parts["HostName"], parts["SharedAccessKey"], int(time.time()) + 3600, parts["SharedAccessKeyName"])
        content = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        head = {"Authorization": token, "Content-Type": "application/json", **(headers or {})}
        url = f"https://{self.host}{path}?api-version=2021-04-12"
        request = urllib.request.Request(url, content, head, method=method)
        trust = ssl.create_default_context(cafile=self.strings["ca-file"])
        try:
            with urllib.request.urlopen(request, timeout=330, context=trust) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode(errors="replace")) from None

    def command(self, body, device=None, properties=None, expiry_s=None, **more):
        """Sends a command to a device: `ack`, `message_id`, `correlation_id`, `content_type`, `content_encoding`."""
        device = device or self.device
        head = {"iothub-to": f"/devices/{device}/messages/devicebound", "Content-Type": "application/octet-stream"}
        names = {
            "ack": "iothub-ack", "message_id": "iothub-messageid", "correlation_id": "iothub-correlationid",
            "content_type": "Content-Type", "content_encoding": "Content-Encoding",
        }
        head |= {names[name]: value for name, value in more.items()}
        head |= {f"iothub-app-{name}": value for name, value in (properties or {}).items()}
        if expiry_s is not None:
            head["iothub-expiry"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + expiry_s))
        self.service("POST", "/messages/devicebound", body, head)

    def queued(self, device=None):
        """How many commands wait for a device."""
        return self.service("GET", f"/devices/{device or self.device}")["cloudToDeviceMessageCount"]

    def empty_queue(self, device=None):
        self.service("DELETE", f"/devices/{device or self.device}/commands")

    def get(self, path):
        with urllib.request.urlopen(self.http + path, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def post(self, path, body):
        request = urllib.request.Request(
            self.http + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def end(self, device=None):
        """Where the device's partition ends now."""
        partition = self.get(f"/events?device={device or self.device}&max=1")["partition"]
        return self.get("/status")["partitions"][partition]["last-enqueued-sequence-number"] + 1

    def events(self, since, device=None):
        """What came of a device from a sequence number on."""
        device, found = device or self.device, []
        while True:
            page = self.get(f"/events?device={device}&from={since}&max=1000")
            found += page["events"]
            if page["next"] == since:
                return found
            since = page["next"]

    def connected(self):
        return self.get("/status")["devices"]["connected"]


def body(event):
    return base64.b64decode(event["body-base64"])


def properties(event):
    return {name: value for name, value in event["properties"]}


def equal(found, wanted, what):
    if found != wanted:
        raise Failed(f"{what}: {found!r} instead of {wanted!r}")


def until(condition, what, patience_s=PATIENCE_S):
    """Waits for a condition and gives its value."""
    end = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        if end < time.monotonic():
            raise Failed(f"not within {patience_s} s: {what}")
        time.sleep(0.05)


def main(features):
    """Runs the feature named on the command line; `features` are functions of a hub."""
    if sys.argv[1:] == ["--list"]:
        print("\n".join(features))
        return
    if len(sys.argv) != 2 or sys.argv[1] not in features:
        sys.exit(f"usage: {sys.argv[0]} --list | FEATURE")
    try:
        features[sys.argv[1]](Hub())
        code = 0
    except Failed as failed:
        print(failed, file=sys.stderr)
        code = 1
    except BaseException:  # whatever the SDK throws is the reason
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of an SDK that is still connecting do not keep the process.
    os._exit(code)
