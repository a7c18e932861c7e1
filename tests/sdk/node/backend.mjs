// Microsoft's Node service SDK, azure-iothub, unmodified, against the hub: one feature per run. See kit.mjs for how it is
// called. The SDK dials ports 443 (HTTPS, and AMQP within WebSocket) and 5671 (AMQP) of the `HostName`, and no others.

import { randomUUID } from "node:crypto";

import { Failed, ca, equal, host, id, main, owner, plain, require, until } from "./kit.mjs";

const { AmqpWs, Client, JobClient, Registry } = require("azure-iothub");
const { Message, NoRetry } = require("azure-iot-common");
const { Client: Device, Message: Event, ModuleClient } = require("azure-iot-device");
const { Mqtt } = require("azure-iot-device-mqtt");

const KEYS = { primaryKey: "cHJpbWFyeSBrZXkgcHJpbWFyeSBrZXk=", secondaryKey: "c2Vjb25kYXJ5IGtleSBzZWNvbmRhcnk=" };

const range = (count) => Array.from({ length: count }, (_, number) => number);

/** Expects an error of a kind. */
async function refused(kind, act) {
  const error = await act().then(
    (answer) => new Failed(`${kind} was to be thrown, and ${JSON.stringify(answer?.responseBody)} was answered`),
    (error) => error,
  );
  if (error.constructor.name !== kind && error.name !== kind) throw error;
  return error;
}

/** Identities of this run alone, deleted at its end. */
async function mine(what, act) {
  const registry = Registry.fromConnectionString(owner());
  const prefix = `${id}-${what}-${randomUUID().slice(0, 8)}`;
  const name = (end = "d") => `${prefix}-${end}`;
  const description = (end, more = {}) => ({
    deviceId: name(end), status: "enabled", authentication: { type: "sas", symmetricKey: KEYS }, ...more,
  });
  const make = async (end, more) => (await registry.create(description(end, more))).responseBody;
  const client = async (end, module) => {
    const text = `HostName=${host};DeviceId=${name(end)};SharedAccessKey=${KEYS.primaryKey}`;
    const device = module
      ? ModuleClient.fromConnectionString(`${text};ModuleId=${module}`, Mqtt)
      : Device.fromConnectionString(text, Mqtt);
    await device.setOptions({ ca });
    device.on("error", () => {});
    await device.open();
    return device;
  };
  try {
    await act({ registry, prefix, name, description, make, client });
  } finally {
    const left = (await registry.list()).responseBody.filter((device) => device.deviceId.startsWith(prefix));
    for (const device of left) await registry.delete(device.deviceId);
  }
}

/** The service's client, closed at the end. */
async function backend(act, transport) {
  const client = Client.fromConnectionString(owner(), transport);
  await client.open();
  try {
    return await act(client);
  } finally {
    await client.close();
  }
}

async function echo(device) {
  device.onDeviceMethod("echo", (request, response) =>
    response.send(200, { name: request.methodName, payload: request.payload }).catch(() => {}),
  );
  device.onDeviceMethod("silence", () => {});
  // What is acknowledged was sent after the subscription.
  await device.sendEvent(new Event("listens"));
}

/** Collects commands and completes them. */
function heard(device) {
  const messages = [];
  device.on("message", (message) => {
    messages.push(message);
    device.complete(message).catch(() => {});
  });
  return messages;
}

const text = (message) => message.getData().toString();

// ---- registry -------------------------------------------------------------------------------------------------------

const devices = () =>
  mine("devices", async ({ registry, name, description, make }) => {
    const made = await make("d", { statusReason: "new" });
    equal([made.deviceId, made.status, made.statusReason], [name(), "enabled", "new"], "device");
    equal(made.authentication.symmetricKey, KEYS, "keys");
    equal([typeof made.generationId, typeof made.etag], ["string", "string"], "generation id and etag");
    await refused("DeviceAlreadyExistsError", () => registry.create(description("d")));
    // The service makes keys for those who bring none.
    const bare = (await registry.create({ deviceId: name("bare") })).responseBody;
    equal(Buffer.from(bare.authentication.symmetricKey.primaryKey, "base64").length >= 16, true, "a made key");
    const thumbprints = { primaryThumbprint: "A".repeat(40), secondaryThumbprint: "B".repeat(40) };
    const x509 = await make("x", { authentication: { type: "selfSigned", x509Thumbprint: thumbprints } });
    equal([x509.authentication.type, x509.authentication.x509Thumbprint], ["selfSigned", thumbprints], "by thumbprint");
    const authority = await make("ca", { authentication: { type: "certificateAuthority" }, status: "disabled" });
    equal([authority.authentication.type, authority.status], ["certificateAuthority", "disabled"], "by authority");
    const got = (await registry.get(name())).responseBody;
    equal([got.etag, got.generationId], [made.etag, made.generationId], "the same device again");
    const listed = (await registry.list()).responseBody.map((device) => device.deviceId);
    equal(["d", "bare", "x", "ca"].every((end) => listed.includes(name(end))), true, `devices listed (${listed})`);
    const changed = (await registry.update({ deviceId: name(), status: "disabled", statusReason: "old" })).responseBody;
    equal([changed.status, changed.statusReason], ["disabled", "old"], "updated device");
    await registry.delete(name());
    await refused("DeviceNotFoundError", () => registry.get(name()));
    const again = await make("d");
    equal(again.generationId === made.generationId, false, "the same generation id after all was deleted");
  });

const deviceDisabled = () =>
  mine("disabled", async ({ registry, name, make, client }) => {
    await make("d");
    const device = await client("d");
    device.setRetryPolicy(new NoRetry());
    let gone = false;
    device.on("disconnect", () => (gone = true));
    await device.sendEvent(new Event("x"));
    equal((await registry.get(name())).responseBody.connectionState, "Connected", "connection state");
    await registry.update({ deviceId: name(), status: "disabled" });
    await until(() => gone, "the device to lose its connection");
    await device.close().catch(() => {});
    await registry.update({ deviceId: name(), status: "enabled" });
    const again = await client("d");
    again.setRetryPolicy(new NoRetry());
    gone = false;
    again.on("disconnect", () => (gone = true));
    await again.sendEvent(new Event("x"));
    await registry.delete(name());
    await until(() => gone, "the deleted device to lose its connection");
  });

const modules = () =>
  mine("modules", async ({ registry, name, make }) => {
    await make("d");
    const of = (moduleId, more = {}) => ({ deviceId: name(), moduleId, ...more });
    await registry.addModule(of("m1", { managedBy: "somebody" }));
    await registry.addModule(of("m2"));
    await refused("DeviceAlreadyExistsError", () => registry.addModule(of("m1")));
    const m1 = (await registry.getModule(name(), "m1")).responseBody;
    equal([m1.deviceId, m1.moduleId, m1.managedBy], [name(), "m1", "somebody"], "module");
    const listed = (await registry.getModulesOnDevice(name())).responseBody;
    equal(listed.map((module) => module.moduleId).sort(), ["m1", "m2"], "modules");
    const updated = await registry.updateModule({ ...m1, managedBy: "another" });
    equal((updated.responseBody ?? updated).managedBy, "another", "updated module");
    await registry.removeModule(name(), "m1");
    const error = await registry.getModule(name(), "m1").catch((error) => error);
    equal(error instanceof Error, true, "a module that was removed");
    equal((await registry.getModulesOnDevice(name())).responseBody.map((module) => module.moduleId), ["m2"], "modules left");
  });

const bulk = () =>
  mine("bulk", async ({ registry, prefix, name, description }) => {
    const all = range(100).map((number) => description(number));
    equal((await registry.addDevices(all)).responseBody.isSuccessful, true, "a hundred are made");
    const listed = async () =>
      (await registry.list()).responseBody.filter((device) => device.deviceId.startsWith(prefix));
    equal((await listed()).length, 100, "devices made at once");
    const some = [description(0), description(200)];
    // With status 400, as the service does it; the SDK throws it.
    const again = JSON.parse((await refused("ArgumentError", () => registry.addDevices(some))).responseBody);
    equal([again.isSuccessful, again.errors.map((error) => error.deviceId)], [false, [name(0)]], "one is there already");
    const off = range(100).map((number) => description(number, { status: "disabled" }));
    equal((await registry.updateDevices(off, true)).responseBody.isSuccessful, true, "all are disabled");
    equal((await listed()).filter((device) => device.status === "disabled").length, 100, "disabled devices");
    equal((await registry.removeDevices(all, true)).responseBody.isSuccessful, true, "all are removed");
    equal((await listed()).map((device) => device.deviceId), [name(200)], "devices left");
  });

const statistics = () =>
  mine("statistics", async ({ registry, make }) => {
    const counts = async () => {
      const told = (await registry.getRegistryStatistics()).responseBody;
      return [told.totalDeviceCount, told.enabledDeviceCount, told.disabledDeviceCount];
    };
    const before = await counts();
    await make("d");
    await make("off", { status: "disabled" });
    equal((await counts()).map((count, at) => count - before[at]), [2, 1, 1], "devices more");
  });

async function wrongKey() {
  const wrong = owner().replace(/SharedAccessKey=.*/, "SharedAccessKey=d3Jvbmcga2V5");
  await refused("UnauthorizedError", () => Registry.fromConnectionString(wrong).list());
  const client = Client.fromConnectionString(wrong);
  client.setRetryPolicy(new NoRetry());
  // The SDK wraps what it was told.
  const { amqpError } = await refused("Error", () => client.open());
  equal(amqpError.constructor.name, "UnauthorizedError", "error of a wrong key");
}

// ---- twins ----------------------------------------------------------------------------------------------------------

const twins = () =>
  mine("twins", async ({ registry, name, make }) => {
    await make("d");
    const first = (await registry.getTwin(name())).responseBody;
    equal([first.deviceId, first.tags ?? {}, plain(first.properties.desired)], [name(), {}, {}], "an untouched twin");
    const patch = { tags: { site: "north" }, properties: { desired: { period: 5, deep: { a: 1, b: 2 } } } };
    const second = (await registry.updateTwin(name(), patch, first.etag)).responseBody;
    equal([second.tags, plain(second.properties.desired)], [patch.tags, patch.properties.desired], "twin");
    equal(second.properties.desired.$version, first.properties.desired.$version + 1, "version");
    await refused("InvalidEtagError", () => registry.updateTwin(name(), patch, first.etag));
    // As the SDK's documents show it: on the twin itself.
    const more = { tags: { floor: 3 }, properties: { desired: { deep: { a: null, c: { d: [1, "é"] } } } } };
    const third = (await second.update(more)).responseBody ?? (await registry.getTwin(name())).responseBody;
    equal(third.tags, { site: "north", floor: 3 }, "tags after a patch");
    equal(plain(third.properties.desired), { period: 5, deep: { b: 2, c: { d: [1, "é"] } } }, "desired after a patch");
    await refused("DeviceNotFoundError", () => registry.getTwin(name("unknown")));
    const large = Object.fromEntries(range(9).map((n) => [`k${n}`, "x".repeat(4000)]));
    for (const [what, desired] of [["33 KB", large], ["a name", { "a.b": 1 }]]) {
      const taken = await registry.updateTwin(name(), { properties: { desired } }, "*").then(() => true, () => false);
      equal(taken, false, `desired properties beyond the limits, ${what}, were taken`);
    }
    equal((await registry.getTwin(name())).responseBody.properties.desired.$version, third.properties.desired.$version, "version after what was refused");
  });

const twinDevice = () =>
  mine("reports", async ({ registry, name, make, client }) => {
    await make("d");
    const device = await client("d");
    const twin = await device.getTwin();
    const patches = [];
    twin.on("properties.desired", (patch) => patches.push(JSON.parse(JSON.stringify(patch))));
    await new Promise((resolve, reject) =>
      twin.properties.reported.update({ firmware: "1.0" }, (error) => (error ? reject(error) : resolve())),
    );
    const seen = (await registry.getTwin(name())).responseBody;
    equal(plain(seen.properties.reported), { firmware: "1.0" }, "reported");
    await registry.updateTwin(name(), { properties: { desired: { firmware: "1.1" } } }, seen.etag);
    await until(() => patches.some((patch) => patch.firmware === "1.1"), "a patch");
    await device.close();
  });

const moduleTwins = () =>
  mine("module-twins", async ({ registry, name, make, client }) => {
    await make("d");
    await registry.addModule({ deviceId: name(), moduleId: "m", authentication: { type: "sas", symmetricKey: KEYS } });
    await registry.updateModuleTwin(name(), "m", { tags: { x: 1 }, properties: { desired: { a: 1 } } }, "*");
    const twin = (await registry.getModuleTwin(name(), "m")).responseBody;
    equal([twin.deviceId, twin.moduleId, twin.tags, plain(twin.properties.desired)], [name(), "m", { x: 1 }, { a: 1 }], "twin");
    const module = await client("d", "m");
    equal((await module.getTwin()).properties.desired.a, 1, "desired property, as the module reads it");
    await module.close();
    equal(plain((await registry.getTwin(name())).responseBody.properties.desired), {}, "the device's twin");
  });

const query = () =>
  mine("query", async ({ registry, prefix, name, make }) => {
    for (const number of range(7)) {
      await make(number);
      const site = { name: number % 2 ? "north" : "south", floor: number };
      await registry.updateTwin(name(number), { tags: { run: prefix, site }, properties: { desired: { n: number } } }, "*");
    }
    const ask = async (sql, pageSize) => {
      const found = [];
      for (const query = registry.createQuery(sql, pageSize); query.hasMoreResults; ) {
        found.push(...(await query.nextAsTwin()).result);
      }
      return found.map((twin) => Number(twin.deviceId.split("-").at(-1))).sort();
    };
    const all = `SELECT * FROM devices WHERE tags.run = '${prefix}'`;
    equal(await ask(all), range(7), "all");
    equal(await ask(all, 3), range(7), "all, in pages");
    for (const [condition, wanted] of [
      ["tags.site.name = 'north'", [1, 3, 5]],
      ["tags.site.floor >= 4 AND properties.desired.n != 5", [4, 6]],
      ["tags.site.floor IN [0, 2] OR tags.site.floor = 6", [0, 2, 6]],
      [`deviceId = '${name(3)}'`, [3]],
    ]) {
      equal(await ask(`${all} AND (${condition})`), wanted, condition);
    }
    const counted = registry.createQuery(`SELECT COUNT() AS n FROM devices WHERE tags.run = '${prefix}'`);
    equal((await counted.next()).result, [{ n: 7 }], "count");
    await refused("ArgumentError", () => ask("SELECT * FROM"));
  });

// ---- methods, commands, jobs ----------------------------------------------------------------------------------------

const methods = () =>
  mine("methods", async ({ registry, name, make, client }) => {
    await make("d");
    await backend(async (service) => {
      const call = (methodName, payload, more = {}) =>
        service.invokeDeviceMethod(name(), { methodName, payload, responseTimeoutInSeconds: 20, ...more });
      const away = await call("echo", {}).catch((error) => error);
      equal(away.responseBody?.includes("404103"), true, `nobody listens (${away.responseBody ?? JSON.stringify(away)})`);
      const device = await client("d");
      await echo(device);
      for (const payload of [{ a: [1, "é"] }, "text", 7]) {
        const { result } = await call("echo", payload);
        equal(result, { status: 200, payload: { name: "echo", payload } }, "answer");
      }
      const late = await refused("GatewayTimeoutError", () => call("silence", {}, { responseTimeoutInSeconds: 5 }));
      equal(late.responseBody.includes("504101"), true, `nobody answers (${late.responseBody})`);
      await device.close();
      await registry.addModule({ deviceId: name(), moduleId: "m", authentication: { type: "sas", symmetricKey: KEYS } });
      const module = await client("d", "m");
      module.onMethod("echo", (request, response) => response.send(200, request.payload).catch(() => {}));
      await module.sendEvent(new Event("listens"));
      const { result } = await service.invokeDeviceMethod(name(), "m", { methodName: "echo", payload: 1, responseTimeoutInSeconds: 20 });
      equal(result, { status: 200, payload: 1 }, "answer of a module");
      await module.close();
    });
  });

const methodsMany = () =>
  mine("many", async ({ name, make, client }) => {
    await make("d");
    const device = await client("d");
    await echo(device);
    await backend(async (service) => {
      const answers = await Promise.all(
        range(100).map((payload) =>
          service.invokeDeviceMethod(name(), { methodName: "echo", payload, responseTimeoutInSeconds: 60 }),
        ),
      );
      equal(answers.map(({ result }) => result.payload.payload), range(100), "answers");
    });
    await device.close();
  });

const c2d = (transport) => () =>
  mine("c2d", async ({ name, make, client }) => {
    await make("d");
    const device = await client("d");
    const messages = heard(device);
    await backend(async (service) => {
      const message = new Message('{"open": true}');
      Object.assign(message, { messageId: "m-1", correlationId: randomUUID(), contentType: "application/json", contentEncoding: "utf-8" });
      message.properties.add("colour", "blue green");
      message.properties.add("u", "é=1&2");
      await service.send(name(), message);
      for (const number of range(20)) await service.send(name(), `${number}`);
      await service.send(name(), new Message(Buffer.alloc(60_000, "x")));
      await until(() => messages.length === 22, "22 commands");
      const [first, ...rest] = messages;
      equal(text(first), '{"open": true}', "body");
      equal([first.messageId, first.correlationId], ["m-1", message.correlationId], "ids");
      equal([first.contentType, first.contentEncoding], ["application/json", "utf-8"], "content");
      const own = first.properties.propertyList.filter(({ key }) => !key.startsWith("$") && !key.startsWith("iothub"));
      equal(Object.fromEntries(own.map(({ key, value }) => [key, value])), { colour: "blue green", u: "é=1&2" }, "properties");
      equal(rest.slice(0, 20).map(text), range(20).map(String), "commands");
      equal(text(rest[20]).length, 60_000, "bytes of the longest");
    }, transport);
    await device.close();
  });

const c2dAway = () =>
  mine("away", async ({ registry, name, make, client }) => {
    await make("d");
    await backend(async (service) => {
      const old = new Message("too old soon");
      old.expiryTimeUtc = Date.now() + 1000;
      await service.send(name(), old);
      for (const number of range(5)) await service.send(name(), `${number}`);
    });
    const queued = async () => (await registry.get(name())).responseBody.cloudToDeviceMessageCount;
    await until(async () => (await queued()) === 5, "the first to expire");
    const device = await client("d");
    const messages = heard(device);
    await until(() => messages.length === 5, "five commands");
    await until(async () => (await queued()) === 0, "an empty queue");
    await device.close();
    equal(messages.map(text), range(5).map(String), "commands");
  });

const c2dRefused = () =>
  mine("refused", async ({ registry, name, make }) => {
    await make("d");
    await backend(async (service) => {
      await refused("DeviceNotFoundError", () => service.send(name("unknown"), "x"));
      await refused("MessageTooLargeError", () => service.send(name(), Buffer.alloc(66_000, "x")));
      await refused("MessageTooLargeError", () => service.send(name(), Buffer.alloc(200_000, "x")));
      for (const number of range(50)) await service.send(name(), `${number}`);
      await refused("DeviceMaximumQueueDepthExceededError", () => service.send(name(), "one too many"));
      equal((await registry.get(name())).responseBody.cloudToDeviceMessageCount, 50, "commands that wait");
    });
  });

const c2dFeedback = () =>
  mine("feedback", async ({ prefix, name, make, client }) => {
    await make("d");
    const device = await client("d");
    heard(device);
    const told = [];
    const records = () => told.flat().filter((record) => record.originalMessageId.startsWith(prefix));
    const listen = async (service, settle) => {
      const receiver = await service.getFeedbackReceiver();
      (receiver.result ?? receiver).on("message", async (message) => {
        told.push(JSON.parse(message.getData().toString()));
        await settle(receiver.result ?? receiver, message);
      });
    };
    const send = async (service, end, more) => {
      const message = new Message("x");
      Object.assign(message, { messageId: `${prefix}-${end}`, ...more });
      await service.send(name(), message);
    };
    await backend(async (service) => {
      await listen(service, (receiver, message) => receiver.complete(message));
      await send(service, "done", { ack: "full" });
      await send(service, "unasked", { ack: "negative" });
      await send(service, "silent", {});
      await until(() => records().length === 1, "feedback of what was done");
      const [record] = records();
      equal([record.originalMessageId, record.deviceId, record.statusCode], [`${prefix}-done`, name(), "Success"], "record");
      equal([typeof record.deviceGenerationId, typeof record.enqueuedTimeUtc], ["string", "string"], "record");
      await device.close();
      await send(service, "old", { ack: "negative", expiryTimeUtc: Date.now() + 1000 });
      await until(() => records().length === 2, "feedback of what expired");
      equal([records()[1].originalMessageId, records()[1].statusCode], [`${prefix}-old`, "Expired"], "record");
    });
  });

/** What is given back is told again. What is left alone the SDK completes by itself. */
const feedbackAgain = () =>
  mine("again", async ({ prefix, name, make, client }) => {
    await make("d");
    const device = await client("d");
    heard(device);
    await backend(async (service) => {
      const receiver = await service.getFeedbackReceiver();
      let times = 0;
      (receiver.result ?? receiver).on("message", (message) => {
        const records = JSON.parse(message.getData().toString());
        if (!records.some((record) => record.originalMessageId === prefix)) return;
        times += 1;
        if (times < 3) (receiver.result ?? receiver).abandon(message);
      });
      const message = new Message("x");
      Object.assign(message, { messageId: prefix, ack: "positive" });
      await service.send(name(), message);
      await until(() => times === 3, "feedback for the third time");
    });
    await device.close();
  });

/** There are none, and the receiver is not bothered. */
const fileNotifications = () =>
  backend(async (service) => {
    const receiver = await service.getFileNotificationReceiver();
    let said = 0;
    (receiver.result ?? receiver).on("message", () => (said += 1));
    await service.send(id, "x").catch(() => {});
    equal(said, 0, "notifications");
  });

const jobs = () =>
  mine("jobs", async ({ registry, prefix, name, make, client }) => {
    for (const number of range(3)) {
      await make(number);
      if (number < 2) await registry.updateTwin(name(number), { tags: { run: prefix } }, "*");
    }
    const scheduler = JobClient.fromConnectionString(owner());
    const status = async (job) => {
      const told = await scheduler.getJob(job);
      return told.jobStatus ?? told.result ?? told;
    };
    const ended = (job) =>
      until(async () => {
        const told = await status(job);
        return ["completed", "failed"].includes(told.status) && told;
      }, "the job to end");
    const patch = { etag: "*", tags: { by: "job" }, properties: { desired: { period: 9 } } };
    const where = `tags.run = '${prefix}'`;
    await scheduler.scheduleTwinUpdate(`${prefix}-1`, where, patch, new Date(), 60);
    const first = await ended(`${prefix}-1`);
    equal([first.status, first.deviceJobStatistics.succeededCount], ["completed", 2], "job of twins");
    for (const number of range(3)) {
      const twin = (await registry.getTwin(name(number))).responseBody;
      equal([twin.tags?.by, twin.properties.desired.period], number < 2 ? ["job", 9] : [undefined, undefined], "twin");
    }
    const device = await client(0);
    await echo(device);
    const method = { methodName: "echo", payload: 1, responseTimeoutInSeconds: 5 };
    await scheduler.scheduleDeviceMethod(`${prefix}-2`, `deviceId = '${name(0)}'`, method, new Date(), 60);
    const second = await ended(`${prefix}-2`);
    equal([second.status, second.deviceJobStatistics.succeededCount], ["completed", 1], "job of methods");
    await device.close();
    await scheduler.scheduleTwinUpdate(`${prefix}-3`, where, patch, new Date(Date.now() + 3_600_000), 60);
    await scheduler.cancelJob(`${prefix}-3`);
    equal((await status(`${prefix}-3`)).status, "cancelled", "a job that was cancelled");
    const found = [];
    for (const query = scheduler.createQuery("scheduleUpdateTwin", "completed"); query.hasMoreResults; ) {
      found.push(...(await query.next()).result.map((job) => job.jobId));
    }
    equal(found.includes(`${prefix}-1`), true, `jobs that were asked for (${found})`);
  });

const features = {
  devices,
  "device-disabled": deviceDisabled,
  modules,
  bulk,
  statistics,
  "wrong-key": wrongKey,
  twins,
  "twin-device": twinDevice,
  "module-twins": moduleTwins,
  query,
  methods,
  "methods-many": methodsMany,
  c2d: c2d(),
  "c2d-away": c2dAway,
  "c2d-refused": c2dRefused,
  "c2d-websocket": c2d(AmqpWs),
  "c2d-feedback": c2dFeedback,
  "feedback-again": feedbackAgain,
  "file-notifications": fileNotifications,
  jobs,
};

await main(features, { trust: Object.keys(features) });
