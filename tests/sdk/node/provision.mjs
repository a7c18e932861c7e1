// Microsoft's Node provisioning SDK, azure-iot-provisioning-device over azure-iot-provisioning-device-mqtt, unmodified,
// against the provisioning service beside the hub, and then azure-iot-device against the hub it was assigned to: one
// feature per run.
//
//     provision.mjs --list       the features, one per line
//     provision.mjs FEATURE      exit 0 if it works; else one paragraph on stderr says what does not
//
// Environment: as of device.mjs; the enrolments of SDK_DEVICE are those of ../python/provision.py. The transport takes no
// authority of its own: NODE_EXTRA_CA_CERTS must name the hub's ca.pem.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

const require = createRequire(process.env.SDK_NODE ? pathToFileURL(`${process.env.SDK_NODE}/x.js`) : import.meta.url);
const { Client, Message } = require("azure-iot-device");
const { Mqtt, MqttWs } = require("azure-iot-device-mqtt");
const { ProvisioningDeviceClient } = require("azure-iot-provisioning-device");
const { Mqtt: ProvisioningMqtt, MqttWs: ProvisioningMqttWs } = require("azure-iot-provisioning-device-mqtt");
const { SymmetricKeySecurityClient } = require("azure-iot-security-symmetric-key");
const { X509Security } = require("azure-iot-security-x509");

/** The feature does not work; the text says how. */
class Failed extends Error {}

function equal(found, wanted, what) {
  if (!isDeepStrictEqual(found, wanted)) {
    throw new Failed(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`);
  }
}

// ---- the hub and the service beside it ------------------------------------------------------------------------------

// A list of features needs no hub.
const strings = process.env.SDK_HUB ? JSON.parse(readFileSync(process.env.SDK_HUB, "utf8")) : undefined;
const http = process.env.SDK_HUB_HTTP?.replace(/\/$/, "");
const id = process.env.SDK_DEVICE;
const hubName = strings?.["host-name"];
const ca = strings && readFileSync(strings["ca-file"], "utf8");
const dps = strings?.provisioning;

const get = async (path) => (await fetch(http + path)).json();

async function end(device) {
  const { partition } = await get(`/events?device=${device}&max=1`);
  return (await get("/status")).partitions[partition]["last-enqueued-sequence-number"] + 1;
}

async function events(since, device) {
  return (await get(`/events?device=${device}&from=${since}&max=1000`)).events;
}

const keyOf = (name, kind = "individual") => dps[kind][name]["primary-key"];
const ownKey = (groupKey, name) => createHmac("sha256", Buffer.from(groupKey, "base64")).update(name).digest("base64");

function certificateOf(name) {
  const files = dps.certificates[name];
  return { cert: readFileSync(files["certificate-file"], "utf8"), key: readFileSync(files["key-file"], "utf8") };
}

// ---- clients --------------------------------------------------------------------------------------------------------

/** What is spoken with the service, and then with the hub. */
const MQTT = { provisioning: ProvisioningMqtt, device: Mqtt };
const WEBSOCKET = { provisioning: ProvisioningMqttWs, device: MqttWs };

const registration = (security, { scope = dps["id-scope"], way = MQTT } = {}) =>
  ProvisioningDeviceClient.create(dps.mqtt.host, scope, new way.provisioning(), security);

const byKey = (name, key, more) => registration(new SymmetricKeySecurityClient(name, key), more);

async function assigned(client, name) {
  const state = await client.register();
  equal([state.status, state.assignedHub, state.deviceId], ["assigned", hubName, name], "assignment");
  equal(state.substatus, "initialAssignment", "substatus");
  return state;
}

async function sends(name, text, options = {}, way = MQTT) {
  const since = await end(name);
  const client = Client.fromConnectionString(text, way.device);
  client.on("error", () => {});
  await client.setOptions({ ca, ...options });
  await client.open();
  await client.sendEvent(new Message("assigned"));
  await client.close();
  const found = (await events(since, name)).map((event) => Buffer.from(event["body-base64"], "base64").toString());
  equal(found, ["assigned"], `messages of ${name}`);
}

const sendsByKey = (name, key, way) =>
  sends(name, `HostName=${hubName};DeviceId=${name};SharedAccessKey=${key}`, {}, way);

async function fails(client, what, wanted) {
  let state;
  try {
    state = await client.register();
  } catch (error) {
    const said = `${error.constructor.name}: ${error.message}`;
    if (said.startsWith(wanted)) return;
    throw new Failed(`${what}: ${said}`);
  }
  throw new Failed(`${what}: ${JSON.stringify(state)}`);
}

// ---- features -------------------------------------------------------------------------------------------------------

async function symmetricKey() {
  const key = keyOf(id);
  const state = await assigned(byKey(id, key), id);
  equal([state.registrationId, typeof state.createdDateTimeUtc, typeof state.etag], [id, "string", "string"], "state");
  await sendsByKey(id, key);
}

async function groupKey() {
  const name = `${id}-member`;
  const key = ownKey(keyOf(`${id}-group`, "groups"), name);
  await assigned(byKey(name, key), name);
  await sendsByKey(name, key);
}

const byCertificate = (suffix, way = MQTT) => async () => {
  const name = `${id}-${suffix}`;
  const pair = certificateOf(name);
  await assigned(registration(new X509Security(name, pair), { way }), name);
  await sends(name, `HostName=${hubName};DeviceId=${name};x509=true`, pair, way);
};

async function websocket() {
  const name = `${id}-websocket`;
  const key = ownKey(keyOf(`${id}-group`, "groups"), name);
  await assigned(byKey(name, key, { way: WEBSOCKET }), name);
  await sendsByKey(name, key, WEBSOCKET);
}

async function again() {
  const name = `${id}-again`;
  const first = await assigned(byKey(name, keyOf(name)), name);
  const second = await assigned(byKey(name, keyOf(name)), name);
  equal(first.createdDateTimeUtc, second.createdDateTimeUtc, "when it was created");
}

async function manyAtOnce() {
  const group = keyOf(`${id}-group`, "groups");
  const names = Array.from({ length: 10 }, (_, at) => `${id}-many-${at}`);
  await Promise.all(names.map((name) => assigned(byKey(name, ownKey(group, name)), name)));
}

async function payload() {
  const name = `${id}-payload`;
  const client = byKey(name, keyOf(name));
  client.setProvisioningPayload({ model: "press" });
  equal((await assigned(client, name)).payload, { line: 3 }, "payload");
}

const wrong = "d3Jvbmcga2V5";
// The SDK leaves the refusal of a connection as its MQTT client said it.
const wrongScope = (way) =>
  fails(byKey(id, keyOf(id), { scope: "0ne00000000", way }), "another id scope", "Error: Connection refused: Not authorized");
const features = {
  "symmetric-key": symmetricKey,
  "group-key": groupKey,
  x509: byCertificate("x509"),
  "x509-group": byCertificate("x509-member"),
  again,
  "many-at-once": manyAtOnce,
  payload,
  "wrong-key": () => fails(byKey(id, wrong), "a wrong key", "UnauthorizedError"),
  "wrong-scope": () => wrongScope(MQTT),
  "not-enrolled": () => fails(byKey(`${id}-stranger`, wrong), "a stranger", "UnauthorizedError"),
  // The SDK knows no such status.
  disabled: () => fails(byKey(`${id}-disabled`, keyOf(`${id}-disabled`)), "a disabled enrolment", "SyntaxError: status is disabled"),
  websocket,
  "websocket-x509": byCertificate("x509", WEBSOCKET),
  "websocket-refused": async () => {
    await fails(byKey(id, wrong, { way: WEBSOCKET }), "a wrong key", "UnauthorizedError");
    await wrongScope(WEBSOCKET);
  },
};

const [asked] = process.argv.slice(2);
if (asked === "--list") {
  console.log(Object.keys(features).join("\n"));
} else if (process.argv.length !== 3 || !(asked in features)) {
  console.error("usage: provision.mjs --list | FEATURE");
  process.exit(64);
} else {
  try {
    await features[asked]();
    process.exit(0);
  } catch (error) {
    console.error(error instanceof Failed ? error.message : error.stack);
    process.exit(1);
  }
}
