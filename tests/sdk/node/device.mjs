// Microsoft's Node device SDK, azure-iot-device over azure-iot-device-mqtt, unmodified, against the hub: one feature
// per run.
//
//     device.mjs --list       the features, one per line
//     device.mjs FEATURE      exit 0 if it works; else one paragraph on stderr says what does not
//
// Environment: SDK_HUB, the file that `simulator hub connection-strings --json` printed; SDK_HUB_HTTP, the hub's HTTP
// address; SDK_DEVICE, the id D of a device of this script alone, beside which there are D/m, D-ca, D-thumbprint and
// D-expired (see ../python/hub.py); SDK_NODE, the folder whose `node_modules` holds the packages of package.json, if
// not this one.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

const require = createRequire(process.env.SDK_NODE ? pathToFileURL(`${process.env.SDK_NODE}/x.js`) : import.meta.url);
const { Client, Message, ModuleClient } = require("azure-iot-device");
const { Mqtt } = require("azure-iot-device-mqtt");
// The SDK's own dependency, under its own rules.
const { NoRetry: NoRetryPolicy, SharedAccessSignature } = createRequire(require.resolve("azure-iot-device"))(
  "azure-iot-common",
);

const PATIENCE_MS = 30_000;

/** The feature does not work; the text says how. */
class Failed extends Error {}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function equal(found, wanted, what) {
  if (!isDeepStrictEqual(found, wanted)) {
    throw new Failed(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`);
  }
}

async function until(condition, what) {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await sleep(50)) {
    if (await condition()) return;
  }
  throw new Failed(`not within ${PATIENCE_MS} ms: ${what}`);
}

// ---- the hub --------------------------------------------------------------------------------------------------------

// A list of features needs no hub.
const strings = process.env.SDK_HUB ? JSON.parse(readFileSync(process.env.SDK_HUB, "utf8")) : undefined;
const http = process.env.SDK_HUB_HTTP?.replace(/\/$/, "");
const id = process.env.SDK_DEVICE;
const host = strings?.mqtt.host;
const ca = strings && readFileSync(strings["ca-file"], "utf8");

const get = async (path) => (await fetch(http + path)).json();

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(http + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Failed(`${path}: ${await answer.text()}`);
}

/** The connection string of a device, or of a module `device/module`; a direct one says to dial the hub's address. */
function connectionString(name = id, direct = true) {
  const text = strings[name.includes("/") ? "modules" : "devices"][name];
  return direct ? text.replace(`HostName=${strings["host-name"]};`, `HostName=${host};`) : text;
}

/** Where the device's partition ends now. */
async function end(device = id) {
  const { partition } = await get(`/events?device=${device}&max=1`);
  return (await get("/status")).partitions[partition]["last-enqueued-sequence-number"] + 1;
}

async function events(since, device = id) {
  for (const found = []; ; ) {
    const page = await get(`/events?device=${device}&from=${since}&max=1000`);
    found.push(...page.events);
    if (page.next === since) return found;
    since = page.next;
  }
}

const body = (event) => Buffer.from(event["body-base64"], "base64").toString();

// ---- clients --------------------------------------------------------------------------------------------------------

async function prepared(client, options = {}) {
  await client.setOptions({ ca, ...options });
  // Without listeners an error event would end the script.
  client.on("error", () => {});
  return client;
}

const device = (text = connectionString()) => prepared(Client.fromConnectionString(text, Mqtt));

function byCertificateOf(name) {
  const files = strings.certificates[name];
  const cert = readFileSync(files["certificate-file"], "utf8");
  const key = readFileSync(files["key-file"], "utf8");
  return prepared(Client.fromConnectionString(connectionString(name), Mqtt), { cert, key });
}

async function refused(client, why) {
  client.setRetryPolicy(new NoRetryPolicy());
  try {
    await client.open();
  } catch (error) {
    if (error.name === "UnauthorizedError" || error.constructor.name === "UnauthorizedError") return;
    throw new Failed(`${why}: ${error.constructor.name}: ${error.message}`);
  } finally {
    await client.close().catch(() => {});
  }
  throw new Failed(`${why}: connected`);
}

// ---- features -------------------------------------------------------------------------------------------------------

async function send() {
  const since = await end();
  const message = new Message('{"t": 21.5}');
  message.messageId = "id-1";
  message.correlationId = "c&1";
  message.userId = "somebody";
  message.contentType = "application/json";
  message.contentEncoding = "utf-8";
  message.properties.add("a b", "x=y&z");
  message.properties.add("u", "é+1");
  const client = await device();
  await client.open();
  await client.sendEvent(message);
  await client.sendEvent(new Message(""));
  await client.close();
  const [first, second] = await events(since);
  equal(body(first), '{"t": 21.5}', "body");
  equal(first["message-id"], "id-1", "message id");
  equal(first["correlation-id"], "c&1", "correlation id");
  equal(first["user-id"], "somebody", "user id");
  equal(first["content-type"], "application/json", "content type");
  equal(first["content-encoding"], "utf-8", "content encoding");
  equal(Object.fromEntries(first.properties), { "a b": "x=y&z", u: "é+1" }, "properties");
  equal([first["device-id"], body(second)], [id, ""], "device id and an empty body");
}

async function sendMany() {
  const since = await end();
  const client = await device();
  await client.open();
  const texts = Array.from({ length: 1000 }, (_, n) => `${n}`);
  await Promise.all(texts.map((text) => client.sendEvent(new Message(text))));
  await client.close();
  equal((await events(since)).map(body), texts, "messages stored");
}

async function sasRenewal() {
  const since = await end();
  const client = await device();
  let renewed = 0;
  client.on("_sharedAccessSignatureUpdated", () => (renewed += 1));
  // Tokens of 20 seconds, renewed 15 seconds before they end.
  await client.setOptions({ ca, tokenRenewal: { tokenValidTimeInSeconds: 20, tokenRenewalMarginInSeconds: 15 } });
  await client.open();
  await client.sendEvent(new Message("before"));
  // Longer than the first token: without a second one the hub would have hung up.
  await sleep(25_000);
  await client.sendEvent(new Message("after"));
  await client.close();
  equal((await events(since)).map(body), ["before", "after"], "messages");
}

const byCertificate = (name) => async () => {
  const since = await end(`${id}-${name}`);
  const client = await byCertificateOf(`${id}-${name}`);
  await client.open();
  await client.sendEvent(new Message("by certificate"));
  await client.close();
  const found = await events(since, `${id}-${name}`);
  equal(found.map(body), ["by certificate"], "messages");
  equal(JSON.parse(found[0]["auth-method"]).type, "x509Certificate", "auth method");
};

async function gatewayHostName() {
  const since = await end();
  const client = await device(`${connectionString(id, false)};GatewayHostName=${host}`);
  await client.open();
  await client.sendEvent(new Message("through a gateway's name"));
  await client.close();
  equal((await events(since)).map(body), ["through a gateway's name"], "messages");
}

async function module() {
  const since = await end();
  const client = await prepared(ModuleClient.fromConnectionString(connectionString(`${id}/m`), Mqtt));
  await client.open();
  await client.sendEvent(new Message("of a module"));
  await client.sendOutputEvent("out", new Message("to an output"));
  await client.close();
  const [first, second] = await events(since);
  equal([first["device-id"], first["module-id"], body(first)], [id, "m", "of a module"], "message");
  equal([second.output, body(second)], ["out", "to an output"], "message to an output");
}

async function reconnect() {
  const since = await end();
  const client = await device();
  await client.open();
  await client.sendEvent(new Message("before"));
  await post("/faults", { fault: "disconnect", device: id, times: 1 });
  await client.sendEvent(new Message("while the connection breaks"));
  await client.sendEvent(new Message("after"));
  await client.close();
  equal((await events(since)).map(body), ["before", "while the connection breaks", "after"], "messages");
}

async function wrongKey() {
  const text = connectionString().replace(/SharedAccessKey=.*/, "SharedAccessKey=d3Jvbmcga2V5");
  await refused(await device(text), "a wrong key");
}

async function expiredToken() {
  const { SharedAccessKey: key } = Object.fromEntries([...connectionString().matchAll(/(\w+)=([^;]*)/g)].map((m) => [m[1], m[2]]));
  const ended = Math.floor(Date.now() / 1000) - 3600;
  const token = SharedAccessSignature.create(`${host}/devices/${id}`, undefined, key, ended).toString();
  await refused(await prepared(Client.fromSharedAccessSignature(token, Mqtt)), "a token that ended an hour ago");
}

async function unknownDevice() {
  await refused(await device(connectionString().replace(`DeviceId=${id};`, `DeviceId=${id}-unknown;`)), "an unknown device");
}

async function messageTooLarge() {
  const since = await end();
  const client = await device();
  client.setRetryPolicy(new NoRetryPolicy());
  await client.open();
  await client.sendEvent(new Message(Buffer.alloc(256 * 1024, "x")));
  const sent = client.sendEvent(new Message(Buffer.alloc(257 * 1024, "x"))).then(
    () => true,
    () => false,
  );
  equal(await Promise.race([sent, sleep(5_000).then(() => "no answer")]) === true, false, "257 KB acknowledged");
  await client.close().catch(() => {});
  equal((await events(since)).map((event) => event["body-bytes"]), [256 * 1024], "bytes stored");
}

async function secondConnection() {
  const since = await end();
  const [first, second] = [await device(), await device()];
  first.setRetryPolicy(new NoRetryPolicy());
  second.setRetryPolicy(new NoRetryPolicy());
  let dropped = false;
  first.on("disconnect", () => (dropped = true));
  await first.open();
  await first.sendEvent(new Message("first"));
  await second.open();
  await until(() => dropped, "the first connection is dropped");
  await second.sendEvent(new Message("second"));
  await second.close();
  await first.close().catch(() => {});
  equal((await events(since)).map(body), ["first", "second"], "messages");
}

const features = {
  send,
  "send-many": sendMany,
  "sas-renewal": sasRenewal,
  "x509-ca": byCertificate("ca"),
  "x509-thumbprint": byCertificate("thumbprint"),
  "x509-expired": async () => refused(await byCertificateOf(`${id}-expired`), "an expired certificate"),
  "gateway-host-name": gatewayHostName,
  module,
  reconnect,
  "wrong-key": wrongKey,
  "expired-token": expiredToken,
  "unknown-device": unknownDevice,
  "message-too-large": messageTooLarge,
  "second-connection": secondConnection,
};

const [asked] = process.argv.slice(2);
if (asked === "--list") {
  console.log(Object.keys(features).join("\n"));
} else if (process.argv.length !== 3 || !(asked in features)) {
  console.error("usage: device.mjs --list | FEATURE");
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
