"""What every script here needs: the hub's connection strings, a look at what arrived, scripted misfortune, and the
way features are named and run.

A script is called with the name of a feature; it exits with 0 if the feature works, and otherwise says why on standard
error. With --list it prints its features, one a line. The environment says where the hub is:

    SDK_HUB       file with the output of `simulator hub connection-strings --json`
    SDK_HUB_HTTP  the hub's HTTP address, e.g. http://127.0.0.1:9103
    SDK_DEVICE    id D of a device registered for the script, beside which there are
                  D/m            simulator hub register D --module m
                  D-ca           simulator hub register D-ca --auth x509-ca
                  D-thumbprint   simulator hub register D-thumbprint --auth x509-thumbprint
                  D-expired      simulator hub register D-expired --auth x509-ca --days 0
"""

import base64
import json
import os
import sys
import time
import traceback
import urllib.request

PATIENCE_S = 30


class Failed(Exception):
    """The feature does not work; the text says how."""


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
