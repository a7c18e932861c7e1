// Microsoft's Node device SDK, azure-iot-device over azure-iot-device-mqtt, unmodified, against the hub: one feature
// per run. See kit.mjs for how it is called.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { downward } from "./downward.mjs";
import { Failed, body, ca, connectionString, end, equal, events, host, id, main, post, require, sleep, strings, until } from "./kit.mjs";

const { Client, Message, ModuleClient } = require("azure-iot-device");
const { Mqtt, MqttWs } = require("azure-iot-device-mqtt");
// The SDK's own dependency, under its own rules.
const { NoRetry: NoRetryPolicy, SharedAccessSignature } = createRequire(require.resolve("azure-iot-device"))(
  "azure-iot-common",
);

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

// What `hub connection-strings` prints, pasted.
async function snippets() {
  const mine = strings.snippets.filter((one) => one.sdk === "Node azure-iot-device-mqtt");
  equal(mine.map((one) => one.way), ["mqtt", "websocket"], "ways");
  const since = await end();
  for (const { way, environment, code } of mine) {
    equal(environment, `NODE_EXTRA_CA_CERTS=${process.env.NODE_EXTRA_CA_CERTS}`, "environment");
    const client = new Function("Client", "Mqtt", "MqttWs", `return ${code}`)(Client, Mqtt, MqttWs);
    await client.sendEvent(new Message(way));
    await client.close();
  }
  equal((await events(since)).map(body), ["mqtt", "websocket"], "messages");
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
  snippets,
  ...downward,
};

await main(features, { trust: ["snippets", "websocket"] });
