// What the hub tells a device, as Microsoft's Node device SDK hears it: twins, direct methods, commands. Features of
// device.mjs; the back end is played by requests to the hub's service API, made by hand.

import { randomUUID } from "node:crypto";

import {
  Failed, body, ca, call, change, command, connectionString, emptyQueue, end, equal, events, id, notCalled, plain, queued, require,
  twinOf, until,
} from "./kit.mjs";

const { Client, Message, ModuleClient } = require("azure-iot-device");
const { Mqtt, MqttWs } = require("azure-iot-device-mqtt");

async function opened(kind = Client, name = id, transport = Mqtt) {
  const client = kind.fromConnectionString(connectionString(name), transport);
  await client.setOptions({ ca });
  // Without listeners an error event would end the script.
  client.on("error", () => {});
  await client.open();
  return client;
}

const report = (twin, patch) =>
  new Promise((resolve, reject) => twin.properties.reported.update(patch, (error) => (error ? reject(error) : resolve())));

/** The patches of desired properties from here on; the SDK hands over the whole twin too, at first and at each get. */
async function desiredOf(client, twin) {
  const patches = [];
  twin.on("properties.desired", (patch) => patches.push(JSON.parse(JSON.stringify(patch))));
  // What is answered was asked after the subscription.
  await client.getTwin();
  patches.length = 0;
  return patches;
}

async function answering(client, name = "echo", status = 200) {
  client.onDeviceMethod(name, (request, response) =>
    response.send(status, { name: request.methodName, payload: request.payload }).catch(() => {}),
  );
  // What is acknowledged was sent after the subscription.
  await client.sendEvent(new Message("listens"));
}

/** Collects commands and completes them. */
function heard(client) {
  const messages = [];
  client.on("message", (message) => {
    messages.push(message);
    client.complete(message).catch(() => {});
  });
  return messages;
}

const text = (message) => message.getData().toString();

async function twinGet() {
  const wanted = { period: 5, deep: { a: [1, { b: 2 }], é: "x y" } };
  const changed = await change(wanted, id, { site: "north" });
  const client = await opened();
  const twin = await client.getTwin();
  const desired = JSON.parse(JSON.stringify(twin.properties.desired));
  await client.close();
  equal({ period: desired.period, deep: desired.deep }, wanted, "desired properties");
  equal(desired.$version, changed.properties.desired.$version, "version");
  equal(typeof twin.properties.reported.$version, "number", "version of the reported");
  equal(twin.tags, undefined, "tags, which are none of the device's business");
}

async function twinReported() {
  const client = await opened();
  const twin = await client.getTwin();
  const before = twin.properties.reported.$version;
  await report(twin, { firmware: "1.0", state: { a: 1, b: 2 } });
  await report(twin, { state: { a: null, c: { d: 3.5 } } });
  const seen = (await twinOf()).properties.reported;
  equal([seen.firmware, seen.state], ["1.0", { b: 2, c: { d: 3.5 } }], "reported properties");
  equal(seen.$version, before + 2, "version after two patches");
  equal(typeof seen.$metadata.state.c.d.$lastUpdated, "string", "metadata");
  await report(twin, { firmware: null, state: null });
  await client.close();
  const left = plain((await twinOf()).properties.reported);
  equal([left.firmware, left.state], [undefined, undefined], "reported properties that were deleted");
}

async function twinDesired() {
  const client = await opened();
  const patches = await desiredOf(client, await client.getTwin());
  const first = await change({ period: 5, deep: { a: 1 } });
  const second = await change({ period: null, deep: { b: [1, 2] } });
  await until(() => patches.length === 2, "two patches");
  await client.close();
  equal(patches.map(plain), [{ period: 5, deep: { a: 1 } }, { period: null, deep: { b: [1, 2] } }], "patches");
  const versions = [first, second].map((twin) => twin.properties.desired.$version);
  equal(patches.map((patch) => patch.$version), versions, "versions");
  equal(versions[1], versions[0] + 1, "one version after the other");
}

async function twinAway() {
  let client = await opened();
  let twin = await client.getTwin();
  await desiredOf(client, twin);
  const before = twin.properties.desired.$version;
  await client.close();
  const mark = randomUUID();
  await change({ mark });
  await change({ second: mark });
  client = await opened();
  twin = await client.getTwin();
  const { $version, mark: first, second } = twin.properties.desired;
  equal([$version, first, second], [before + 2, mark, mark], "version and values");
  const patches = await desiredOf(client, twin);
  await change({ mark: null, second: null });
  await until(() => patches.some((patch) => patch.$version === before + 3), "the patch after the return");
  await client.close();
}

async function twinRefused() {
  const client = await opened();
  const twin = await client.getTwin();
  const large = Object.fromEntries(Array.from({ length: 9 }, (_, n) => [`k${n}`, "x".repeat(4000)]));
  const why = await report(twin, large).then(() => undefined, (error) => error);
  if (!why) throw new Failed("36 KB of reported properties were taken");
  equal((await twinOf()).properties.reported.$version, twin.properties.reported.$version, "version after a refused patch");
  await report(twin, { small: null });
  await client.close();
}

async function methods() {
  const client = await opened();
  await answering(client);
  await answering(client, "teapot", 418);
  for (const payload of [{ a: [1, null, "é"] }, "text", 5]) {
    equal(await call("echo", payload), { status: 200, payload: { name: "echo", payload } }, "answer");
  }
  equal((await call("teapot", {})).status, 418, "status of the device's own");
  await client.close();
}

async function methodTimeout() {
  const client = await opened();
  await answering(client);
  client.onDeviceMethod("silence", () => {});
  equal((await call("echo", 1)).status, 200, "status");
  const started = Date.now();
  await notCalled(504, 504101, "silence", { responseTimeoutInSeconds: 5 });
  const took = Date.now() - started;
  equal(4_500 <= took && took <= 15_000, true, `gave up in time (${took} ms)`);
  equal((await call("echo", 1)).status, 200, "status afterwards");
  await client.close();
}

async function methodUnregistered() {
  await notCalled(404, 404103, "echo");
  const client = await opened();
  await answering(client);
  equal((await call("echo", 1)).status, 200, "status while it listens");
  await client.close();
  await notCalled(404, 404103, "echo");
}

async function methodWaits() {
  const calling = call("echo", 1, id, { connectTimeoutInSeconds: 20 });
  const client = await opened();
  await answering(client);
  equal((await calling).status, 200, "status");
  await client.close();
}

async function c2d() {
  await emptyQueue();
  const client = await opened();
  const messages = heard(client);
  await command('{"open": true}', {
    messageId: "m-1", correlationId: "c/1", contentType: "application/json", contentEncoding: "utf-8",
    properties: { colour: "blue green", u: "x=1&2+%" },
  });
  await command("");
  await until(() => messages.length === 2, "two commands");
  const [first, second] = messages;
  equal([text(first), text(second)], ['{"open": true}', ""], "bodies");
  equal([first.messageId, first.correlationId], ["m-1", "c/1"], "ids");
  equal([first.contentType, first.contentEncoding], ["application/json", "utf-8"], "content");
  const own = first.properties.propertyList.filter(({ key }) => !key.startsWith("$") && !key.startsWith("iothub"));
  equal(Object.fromEntries(own.map(({ key, value }) => [key, value])), { colour: "blue green", u: "x=1&2+%" }, "properties");
  await until(async () => (await queued()) === 0, "an empty queue");
  await client.close();
}

async function c2dAway() {
  await emptyQueue();
  let client = await opened();
  let messages = heard(client);
  await command("while it is there");
  await until(() => messages.length === 1, "the first command");
  await client.close();
  for (let number = 0; number < 10; number += 1) await command(`away ${number}`);
  equal(await queued(), 10, "commands that wait");
  client = await opened();
  messages = heard(client);
  await until(() => messages.length === 10, "ten more commands");
  await until(async () => (await queued()) === 0, "an empty queue");
  await client.close();
  equal(messages.map(text), Array.from({ length: 10 }, (_, number) => `away ${number}`), "commands");
}

async function c2dExpired() {
  await emptyQueue();
  await command("soon too old", { expiryS: 1 });
  await command("still good", { expiryS: 60 });
  await until(async () => (await queued()) === 1, "the first command to expire");
  const client = await opened();
  const messages = heard(client);
  await until(() => messages.length, "a command");
  await client.close();
  equal(messages.map(text), ["still good"], "commands");
}

async function moduleTwin() {
  const who = `${id}/modules/m`;
  const client = await opened(ModuleClient, `${id}/m`);
  const twin = await client.getTwin();
  const patches = await desiredOf(client, twin);
  const mark = randomUUID();
  await change({ mark }, who);
  await until(() => patches.length, "a patch");
  equal(plain(patches[0]), { mark }, "patch");
  await report(twin, { mark });
  await client.close();
  equal((await twinOf(who)).properties.reported.mark, mark, "reported property of the module");
  equal((await twinOf()).properties.reported.mark, undefined, "reported property of the device");
}

async function moduleMethod() {
  const client = await opened(ModuleClient, `${id}/m`);
  client.onMethod("echo", (request, response) =>
    response.send(200, { name: request.methodName, payload: request.payload }).catch(() => {}),
  );
  const answer = await call("echo", { a: 1 }, `${id}/modules/m`, { connectTimeoutInSeconds: 20 });
  await client.close();
  equal(answer, { status: 200, payload: { name: "echo", payload: { a: 1 } } }, "answer");
}

async function websocket() {
  await emptyQueue();
  const since = await end();
  const client = await opened(Client, id, MqttWs);
  const messages = heard(client);
  await client.sendEvent(new Message("through WebSocket"));
  await report(await client.getTwin(), { way: "websocket" });
  await answering(client);
  equal((await call("echo", 1, id, { connectTimeoutInSeconds: 20 })).status, 200, "status");
  await command("x".repeat(40_000));
  await until(() => messages.length, "a command");
  await client.close();
  equal(text(messages[0]).length, 40_000, "bytes of the command");
  equal((await events(since)).map(body), ["through WebSocket", "listens"], "messages");
  equal((await twinOf()).properties.reported.way, "websocket", "reported property");
}

export const downward = {
  "twin-get": twinGet,
  "twin-reported": twinReported,
  "twin-desired": twinDesired,
  "twin-away": twinAway,
  "twin-refused": twinRefused,
  methods,
  "method-timeout": methodTimeout,
  "method-unregistered": methodUnregistered,
  "method-waits": methodWaits,
  c2d,
  "c2d-away": c2dAway,
  "c2d-expired": c2dExpired,
  "module-twin": moduleTwin,
  "module-method": moduleMethod,
  websocket,
};
