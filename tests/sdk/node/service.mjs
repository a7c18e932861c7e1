// Reads from `simulator hub` with Microsoft's @azure/event-hubs, unmodified: one feature per run.
//
//     service.mjs --list       the features, one per line
//     service.mjs FEATURE      exit 0 if it works; else one paragraph on stderr says what does not
//
// Environment: SDK_HUB, the file that `simulator hub connection-strings --json` printed; SDK_DEVICE, the id of a device
// of this script alone; SDK_HUB_HTTP, the hub's HTTP address; SDK_NODE, the folder whose `node_modules` holds the
// packages of package.json, if not this one. Its events are told from others by a mark in their bodies, so runs
// may follow one another.

import { createHmac, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.env.SDK_NODE ? pathToFileURL(`${process.env.SDK_NODE}/x.js`) : import.meta.url);
const { EventHubConsumerClient, earliestEventPosition, latestEventPosition } = require("@azure/event-hubs");
const mqtt = require("mqtt");
const WebSocket = require("ws");

const PATIENCE_MS = 30_000;
const BAG =
  "%24.mid=m-1&%24.cid=c1&%24.ct=application%2Fjson&%24.ce=utf-8&%24.uid=u1&colour=blue%20green&%C3%A9=x%3Dy%26z";

/** What does not work. */
class Fault extends Error {}

function ensure(holds, why) {
  if (!holds) throw new Fault(typeof why === "string" ? why : JSON.stringify(why));
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function wait(holds, what, patience = PATIENCE_MS) {
  const until = Date.now() + patience;
  while (!holds()) {
    ensure(Date.now() < until, `waited ${patience} ms for ${what} in vain`);
    await sleep(20);
  }
}

// ---- the hub --------------------------------------------------------------------------------------------------------

const partsOf = (text) =>
  Object.fromEntries(text.split(";").map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]));

function signature(resource, key, until, policy) {
  const escaped = encodeURIComponent(resource);
  const digest = createHmac("sha256", key).update(`${escaped}\n${until}`).digest("base64");
  const name = policy ? `&skn=${policy}` : "";
  return `SharedAccessSignature sr=${escaped}&sig=${encodeURIComponent(digest)}&se=${until}${name}`;
}

const inSeconds = (seconds) => Math.floor(Date.now() / 1000) + seconds;

class Hub {
  constructor() {
    this.told = JSON.parse(readFileSync(process.env.SDK_HUB, "utf8"));
    this.device = process.env.SDK_DEVICE;
    this.eventHub = this.told["event-hub"];
    this.ca = readFileSync(this.told["ca-file"]);
    this.parts = partsOf(this.told.services.service ?? Object.values(this.told.services)[0]);
    // Where there is a group of this script's own, scripts beside it do not take its place.
    this.groups = this.told["consumer-groups"] ?? [];
    this.group = this.groups.includes("node") ? "node" : "$Default";
  }

  /** A connection string for the port without TLS. */
  text(key = this.parts.SharedAccessKey) {
    const endpoint = this.told.amqp.url.replace("amqp:", "sb:");
    const policy = this.parts.SharedAccessKeyName;
    return `Endpoint=${endpoint};SharedAccessKeyName=${policy};SharedAccessKey=${key};EntityPath=${this.eventHub};UseDevelopmentEmulator=true`;
  }

  client({ group = this.group, key, store, options = {} } = {}) {
    const all = { retryOptions: { maxRetries: 0, timeoutInMs: 10_000 }, ...options };
    return store
      ? new EventHubConsumerClient(group, this.text(key), store, all)
      : new EventHubConsumerClient(group, this.text(key), all);
  }

  /** A client over TLS; `kind` is the entry that says where to dial. */
  secure(kind, options = {}) {
    const dial = this.told[kind];
    ensure(dial, `the hub has no \`${kind}\`: set \`hub.${kind}-listen\``);
    const text = `Endpoint=sb://${dial.host};SharedAccessKeyName=${this.parts.SharedAccessKeyName};SharedAccessKey=${this.parts.SharedAccessKey};EntityPath=${this.eventHub}`;
    return new EventHubConsumerClient(this.group, text, {
      customEndpointAddress: `sb://${dial.host}:${dial.port}`,
      retryOptions: { maxRetries: 0, timeoutInMs: 10_000 },
      ...options,
    });
  }

  /** What the hub's HTTP face answers. */
  async get(path, options = {}) {
    const answer = await fetch(process.env.SDK_HUB_HTTP.replace(/\/$/, "") + path, options);
    ensure(answer.ok, `${path}: ${answer.status} ${await answer.clone().text()}`);
    return answer.json();
  }

  /** Has something go wrong now. */
  fault(rule) {
    const head = { "content-type": "application/json" };
    return this.get("/faults", { method: "POST", body: JSON.stringify(rule), headers: head });
  }

  /** Publishes at QoS 1 as the device, and returns when all are acknowledged. */
  async publish(bodies, bag = "") {
    const parts = partsOf(this.told.devices[this.device]);
    const resource = `${parts.HostName}/devices/${this.device}`;
    const client = mqtt.connect(`mqtts://${this.told.mqtt.host}:${this.told.mqtt.port}`, {
      ca: this.ca,
      clientId: this.device,
      username: `${parts.HostName}/${this.device}/?api-version=2021-04-12`,
      password: signature(resource, Buffer.from(parts.SharedAccessKey, "base64"), inSeconds(3600)),
      protocolVersion: 4,
      reconnectPeriod: 0,
    });
    await new Promise((resolve, reject) => {
      client.once("connect", resolve);
      client.once("error", reject);
      client.once("close", () => reject(new Fault("the device could not connect")));
    });
    for (const body of bodies) {
      await new Promise((resolve, reject) => {
        const done = (error) => (error ? reject(error) : resolve());
        client.publish(`devices/${this.device}/messages/events/${bag}`, body, { qos: 1 }, done);
      });
    }
    await new Promise((resolve) => client.end(false, {}, resolve));
  }
}

const bodyOf = (event) => (Buffer.isBuffer(event.body) ? event.body.toString() : String(event.body));

/** Some events of this run, in the order published. */
class Mine {
  static async of(hub, count, bag = "") {
    const mine = new Mine();
    mine.mark = randomUUID().replaceAll("-", "");
    mine.partition = String((await hub.get(`/events?device=${hub.device}&max=1`)).partition);
    const client = hub.client();
    const all = await Promise.all((await client.getPartitionIds()).map((id) => client.getPartitionProperties(id)));
    await client.close();
    mine.before = Object.fromEntries(all.map((one) => [one.partitionId, one.lastEnqueuedSequenceNumber]));
    await hub.publish(Array.from({ length: count }, (_, number) => `${mine.mark} ${number}`), bag);
    return mine;
  }

  keep = (event) => bodyOf(event).startsWith(this.mark);
  numbers = (events) => events.filter(this.keep).map((event) => Number(bodyOf(event).split(" ")[1]));
  from = (id = this.partition) => ({ sequenceNumber: this.before[id] });
}

/** A receiver in the background. */
class Running {
  constructor(client, partition, startPosition, options = {}) {
    this.client = client;
    this.got = [];
    this.told = [];
    this.errors = [];
    this.subscription = client.subscribe(
      partition,
      {
        processEvents: async (events, context) => {
          this.got.push(...events);
          this.told.push(...events.map(() => ({ ...context.lastEnqueuedEventProperties })));
        },
        processError: async (error) => {
          this.errors.push(error);
        },
      },
      { startPosition, maxBatchSize: 10, maxWaitTimeInSeconds: 1, skipParsingBodyAsJson: true, ...options },
    );
  }

  async waitFor(count, keep = () => true, patience = PATIENCE_MS) {
    await wait(() => count <= this.got.filter(keep).length || this.errors.length, `${count} events`, patience);
    if (this.errors.length) throw this.errors[0];
  }

  async close() {
    await this.subscription.close();
    await this.client.close();
  }
}

/** Events of a partition: the first `count` that are to be kept, and whatever follows at once. */
async function read(client, partition, count, keep, startPosition, options = {}, patience = PATIENCE_MS) {
  const running = new Running(client, partition, startPosition, options);
  const until = Date.now() + patience;
  while (running.got.filter(keep).length < count && !running.errors.length && Date.now() < until) await sleep(20);
  await sleep(300);
  await running.close();
  if (running.errors.length) throw running.errors[0];
  return running.got.filter(keep);
}

const textOf = (error) => `${error.name} ${error.code ?? ""} ${error.condition ?? ""} ${error.message}`;

/** The work fails, and the error tells why. */
async function refused(work, ...words) {
  let error;
  try {
    await work();
  } catch (caught) {
    error = caught;
  }
  ensure(error, `not refused; expected ${words}`);
  const text = textOf(error).toLowerCase();
  ensure(words.some((word) => text.includes(word.toLowerCase())), `refused, but not for ${words}: ${text}`);
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const range = (from, to) => Array.from({ length: to - from }, (_, at) => from + at);

/** `cases` makes [name, position, number of the first event expected] from the events read first. */
async function starts(hub, cases, count = 20) {
  const mine = await Mine.of(hub, count);
  const events = await read(hub.client(), mine.partition, count, mine.keep, earliestEventPosition);
  ensure(same(mine.numbers(events), range(0, count)), `from the beginning came ${mine.numbers(events)}`);
  for (const [name, position, first] of cases(events)) {
    const numbers = mine.numbers(await read(hub.client(), mine.partition, count - first, mine.keep, position));
    ensure(same(numbers, range(first, count)), `${name}: expected ${first}..${count - 1}, got ${numbers}`);
  }
}

async function reads(hub, make) {
  const client = make();
  const told = await client.getEventHubProperties();
  await client.close();
  ensure(told.name === hub.eventHub, `the name is ${told.name}`);
  const mine = await Mine.of(hub, 50);
  const numbers = mine.numbers(await read(make(), mine.partition, 50, mine.keep, mine.from()));
  ensure(same(numbers, range(0, 50)), `events ${numbers}`);
}

/** Ownership and checkpoints of one process. */
class Memory {
  ownerships = new Map();
  checkpoints = new Map();

  async listOwnership() {
    return [...this.ownerships.values()].map((one) => ({ ...one }));
  }

  async claimOwnership(wanted) {
    const claimed = [];
    for (const one of wanted) {
      const held = this.ownerships.get(one.partitionId);
      if (held && held.etag !== one.etag) continue;
      const taken = { ...one, etag: randomUUID(), lastModifiedTimeInMs: Date.now() };
      this.ownerships.set(one.partitionId, taken);
      claimed.push({ ...taken });
    }
    return claimed;
  }

  async updateCheckpoint(checkpoint) {
    this.checkpoints.set(checkpoint.partitionId, { ...checkpoint });
  }

  async listCheckpoints() {
    return [...this.checkpoints.values()].map((one) => ({ ...one }));
  }
}

/** All partitions, until `count` own events were checkpointed. */
async function process_(hub, store, mine, count) {
  const client = hub.client({ store, options: { loadBalancingOptions: { strategy: "greedy", updateIntervalInMs: 500 } } });
  const numbers = [];
  const errors = [];
  const subscription = client.subscribe(
    {
      processEvents: async (events, context) => {
        for (const event of events) {
          if (count <= numbers.length) return;
          if (mine.keep(event)) numbers.push(...mine.numbers([event]));
          await context.updateCheckpoint(event);
        }
      },
      processError: async (error) => {
        errors.push(error);
      },
    },
    { startPosition: earliestEventPosition, maxBatchSize: 5, maxWaitTimeInSeconds: 1, skipParsingBodyAsJson: true },
  );
  await wait(() => count <= numbers.length || errors.length, `${count} events`);
  await subscription.close();
  await client.close();
  if (errors.length) throw errors[0];
  return numbers;
}

// ---- features -------------------------------------------------------------------------------------------------------

const FEATURES = {
  properties: async (hub) => {
    const mine = await Mine.of(hub, 3);
    const client = hub.client();
    const told = await client.getEventHubProperties();
    ensure(told.name === hub.eventHub, told);
    ensure(same(told.partitionIds, range(0, told.partitionIds.length).map(String)), told);
    ensure(told.createdOn instanceof Date && told.createdOn < new Date(), told);
    const one = await client.getPartitionProperties(mine.partition);
    await client.close();
    ensure(one.partitionId === mine.partition && one.eventHubName === hub.eventHub && !one.isEmpty, one);
    ensure(mine.before[mine.partition] + 3 <= one.lastEnqueuedSequenceNumber, one);
    ensure(one.beginningSequenceNumber <= one.lastEnqueuedSequenceNumber, one);
    ensure(/^[0-9]+$/.test(one.lastEnqueuedOffset), one);
    ensure(Math.abs(Date.now() - one.lastEnqueuedOnUtc.getTime()) < 60_000, one);
  },

  earliest: (hub) => starts(hub, () => [["the beginning", earliestEventPosition, 0]]),

  latest: async (hub) => {
    const old = await Mine.of(hub, 3);
    const running = new Running(hub.client(), old.partition, latestEventPosition);
    // Once one has arrived, the receiver is there, and what follows cannot be missed.
    for (let arrived = false; !arrived; ) {
      const probe = await Mine.of(hub, 1);
      await sleep(200);
      arrived = running.got.some(probe.keep);
    }
    const fresh = await Mine.of(hub, 4);
    await running.waitFor(4, fresh.keep);
    await running.close();
    ensure(!running.got.some(old.keep), "old events came");
    const numbers = fresh.numbers(running.got.filter(fresh.keep));
    ensure(same(numbers, [0, 1, 2, 3]), numbers);
  },

  offset: (hub) =>
    starts(hub, (events) => [
      ["after an offset", { offset: events[7].offset }, 8],
      ["at an offset", { offset: events[7].offset, isInclusive: true }, 7],
    ]),

  "sequence-number": (hub) =>
    starts(hub, (events) => [
      ["after a sequence number", { sequenceNumber: events[7].sequenceNumber }, 8],
      ["at one", { sequenceNumber: events[7].sequenceNumber, isInclusive: true }, 7],
    ]),

  // This SDK filters by times exclusively, whatever is asked.
  "enqueued-time": async (hub) => {
    const first = await Mine.of(hub, 5);
    await sleep(50);
    const second = await Mine.of(hub, 5);
    const both = (event) => first.keep(event) || second.keep(event);
    const events = await read(hub.client(), first.partition, 10, both, first.from());
    const at = events[4].enqueuedTimeUtc;
    ensure(at < events[5].enqueuedTimeUtc, "the two batches have the same time");
    for (const enqueuedOn of [at, at.getTime()]) {
      const got = await read(hub.client(), first.partition, 5, both, { enqueuedOn });
      ensure(got.length === 5 && got.every(second.keep), `expected the second five, got ${got.map(bodyOf)}`);
    }
  },

  "owner-level": async (hub) => {
    const mine = await Mine.of(hub, 3);
    const from = mine.from();
    const attach = async (options) => {
      const running = new Running(hub.client(), mine.partition, from, options);
      await running.waitFor(3);
      return running;
    };
    const without = await attach({});
    const low = await attach({ ownerLevel: 1 });
    await wait(() => without.errors.length, "the receiver without a level to be disconnected");
    await refused(() => read(hub.client(), mine.partition, 1, mine.keep, from), "epoch of '1'");
    const high = await attach({ ownerLevel: 2 });
    await wait(() => low.errors.length, "the owner of level 1 to be disconnected");
    const told = textOf(low.errors[0]);
    ensure(told.includes("ReceiverDisconnectedError") && told.includes("higher epoch"), `the first owner was told ${told}`);
    await refused(() => read(hub.client(), mine.partition, 1, mine.keep, from, { ownerLevel: 1 }), "epoch of '2'");
    ensure(!high.errors.length, `the owner of level 2 was disturbed: ${high.errors}`);
    for (const running of [without, low, high]) await running.close();
    const again = mine.numbers(await read(hub.client(), mine.partition, 3, mine.keep, from));
    ensure(same(again, [0, 1, 2]), `after all left: ${again}`);
  },

  "receiver-limit": async (hub) => {
    const mine = await Mine.of(hub, 1);
    const five = range(0, 5).map(() => new Running(hub.client(), mine.partition, mine.from()));
    for (const running of five) await running.waitFor(1);
    await refused(
      () => read(hub.client(), mine.partition, 1, mine.keep, mine.from()),
      "maximum number of allowed receivers",
    );
    for (const running of five) await running.close();
  },

  "consumer-groups": async (hub) => {
    ensure(hub.groups.includes("$Default"), `$Default is not among ${hub.groups}`);
    const second = hub.groups.find((group) => ![hub.group, "$Default", "python", "python-2"].includes(group));
    ensure(second, 'only one consumer group: set e.g. `hub.consumer-groups = ["second"]`');
    const groups = [hub.group, second];
    const mine = await Mine.of(hub, 3);
    const owners = groups.map(
      (group) => new Running(hub.client({ group }), mine.partition, mine.from(), { ownerLevel: 1 }),
    );
    for (const owner of owners) await owner.waitFor(3);
    await sleep(500);
    ensure(!owners.some((owner) => owner.errors.length), "owners of different groups disturbed one another");
    for (const owner of owners) await owner.close();
    await refused(
      () => read(hub.client({ group: "no-such-group" }), mine.partition, 1, mine.keep, mine.from()),
      "MessagingEntityNotFoundError",
    );
  },

  "checkpoint-store": async (hub) => {
    const mine = await Mine.of(hub, 20);
    const store = new Memory();
    const first = await process_(hub, store, mine, 8);
    ensure(same(first, range(0, 8)), `the first run read ${first}`);
    store.ownerships.clear();
    const second = await process_(hub, store, mine, 12);
    ensure(same(second, range(8, 20)), `after the checkpoint came ${second}`);
  },

  "runtime-metrics": async (hub) => {
    const mine = await Mine.of(hub, 10);
    const asked = new Running(hub.client(), mine.partition, mine.from(), { trackLastEnqueuedEventProperties: true });
    await asked.waitFor(10, mine.keep);
    await asked.close();
    const last = asked.got.at(-1).sequenceNumber;
    for (const told of asked.told) {
      ensure(last <= told.sequenceNumber && told.offset, told);
      ensure(Math.abs(Date.now() - new Date(told.enqueuedOn).getTime()) < 60_000, told);
      ensure(Math.abs(Date.now() - new Date(told.retrievedOn).getTime()) < 60_000, told);
    }
    const silent = new Running(hub.client(), mine.partition, mine.from());
    await silent.waitFor(10, mine.keep);
    await silent.close();
    const told = silent.got.find((event) => event.getRawAmqpMessage().deliveryAnnotations);
    ensure(!told, "told without being asked");
  },

  "large-message": async (hub) => {
    const mark = randomUUID();
    const filler = "0123456789abcdef".repeat(16_384);
    const bodies = [65_000, 65_536, 131_072, 262_000].map((size) => (mark + filler).slice(0, size));
    const before = await Mine.of(hub, 1);
    await hub.publish(bodies);
    const keep = (event) => bodyOf(event).startsWith(mark);
    const got = (await read(hub.client(), before.partition, 4, keep, before.from())).map(bodyOf);
    ensure(same(got, bodies), `came ${got.map((body) => body.length)} bytes`);
  },

  plain: (hub) => reads(hub, () => hub.client()),

  tls: (hub) => reads(hub, () => hub.secure("amqps")),

  websocket: (hub) =>
    reads(hub, () =>
      hub.secure("amqp-websocket", {
        webSocketOptions: { webSocket: WebSocket, webSocketConstructorOptions: { ca: hub.ca } },
      }),
    ),

  "wrong-key": async (hub) => {
    const client = hub.client({ key: "d3Jvbmc=" });
    await refused(() => client.getEventHubProperties(), "UnauthorizedError", "401", "InvalidSignature");
    await client.close();
    await refused(
      () => read(hub.client({ key: "d3Jvbmc=" }), "0", 1, () => true, earliestEventPosition),
      "UnauthorizedError", "401", "InvalidSignature",
    );
  },

  "unknown-partition": async (hub) => {
    const client = hub.client();
    await refused(() => client.getPartitionProperties("4711"), "MessagingEntityNotFoundError", "invalid for an EventHub");
    await client.close();
    await refused(
      () => read(hub.client(), "4711", 1, () => true, earliestEventPosition),
      "MessagingEntityNotFoundError", "ArgumentOutOfRange", "invalid for an EventHub",
    );
  },

  // What `hub connection-strings` prints, pasted.
  snippets: async (hub) => {
    const mine = hub.told.snippets.filter((one) => one.sdk === "Node @azure/event-hubs");
    ensure(same(mine.map((one) => one.way), ["plain", "tls", "websocket"]), mine);
    for (const { way, environment, code } of mine) {
      ensure(way === "plain" || environment === `NODE_EXTRA_CA_CERTS=${process.env.NODE_EXTRA_CA_CERTS}`, environment);
      const client = new Function("EventHubConsumerClient", "WebSocket", `return ${code}`)(EventHubConsumerClient, WebSocket);
      const told = await client.getEventHubProperties();
      ensure(told.name === hub.eventHub, `${way}: ${JSON.stringify(told)}`);
      await client.close();
    }
  },

  // The SDK renews shared-access tokens after 45 minutes; here that wait alone is shortened.
  "token-renewal": async (hub) => {
    let asked = 0;
    const credential = {
      isSasTokenProvider: true,
      getToken: async (audience) => {
        asked += 1;
        const until = inSeconds(10);
        const token = signature(audience, hub.parts.SharedAccessKey, until, hub.parts.SharedAccessKeyName);
        return { token, expiresOnTimestamp: until };
      },
    };
    const real = globalThis.setTimeout;
    globalThis.setTimeout = (work, ms, ...rest) => real(work, ms === 45 * 60 * 1000 ? 6_000 : ms, ...rest);
    const dial = hub.told.amqps;
    ensure(dial, "the hub has no TLS port: set `hub.amqps-listen`");
    const client = new EventHubConsumerClient(hub.group, dial.host, hub.eventHub, credential, {
      customEndpointAddress: `sb://${dial.host}:${dial.port}`,
      retryOptions: { maxRetries: 0, timeoutInMs: 10_000 },
    });
    const mine = await Mine.of(hub, 1);
    const running = new Running(client, mine.partition, mine.from());
    await running.waitFor(1);
    const first = asked;
    await sleep(13_000);
    const late = await Mine.of(hub, 2);
    await running.waitFor(2, late.keep);
    ensure(!running.errors.length, `the link did not live on: ${running.errors}`);
    ensure(first < asked, "the SDK did not renew its token");
    await running.close();
  },

  // The subscription goes on by itself after each error it reports, from its last checkpoint: events may come again.
  recovery: async (hub) => {
    const first = await Mine.of(hub, 2);
    const store = new Memory();
    const client = hub.client({
      store,
      options: {
        retryOptions: { maxRetries: 5, retryDelayInMs: 100, timeoutInMs: 10_000 },
        loadBalancingOptions: { strategy: "greedy", updateIntervalInMs: 300 },
      },
    });
    const numbers = new Map();
    const subscription = client.subscribe(
      {
        processEvents: async (events, context) => {
          for (const event of events) {
            numbers.set(bodyOf(event), event.sequenceNumber);
            await context.updateCheckpoint(event);
          }
        },
        processError: async () => {},
      },
      {
        startPosition: Object.fromEntries(Object.keys(first.before).map((id) => [id, first.from(id)])),
        maxWaitTimeInSeconds: 1,
        skipParsingBodyAsJson: true,
      },
    );
    const came = (mine, count) => [...numbers.keys()].filter((body) => body.startsWith(mine.mark)).length === count;
    await wait(() => came(first, 2), "the first events");
    for (const fault of ["detach-receivers", "move-partition", "expire-service-tokens", "reset-services"]) {
      const partition = ["detach-receivers", "move-partition"].includes(fault) ? { partition: Number(first.partition) } : {};
      await hub.fault({ fault, ...partition });
      const late = await Mine.of(hub, 3);
      await wait(() => came(late, 3), `events after ${fault}`);
    }
    await subscription.close();
    await client.close();
  },

  annotations: async (hub) => {
    const mine = await Mine.of(hub, 1, BAG);
    const [event] = await read(hub.client(), mine.partition, 1, mine.keep, mine.from());
    const system = event.systemProperties;
    ensure(typeof event.sequenceNumber === "number" && /^[0-9]+$/.test(event.offset), "sequence number and offset");
    ensure(Math.abs(Date.now() - event.enqueuedTimeUtc.getTime()) < 60_000, `enqueued at ${event.enqueuedTimeUtc}`);
    for (const [key, value] of Object.entries({
      "iothub-connection-device-id": hub.device,
      "iothub-message-source": "Telemetry",
      contentEncoding: "utf-8",
    })) {
      ensure(system[key] === value, `${key} is ${system[key]}, not ${value}: ${JSON.stringify(system)}`);
    }
    ensure(event.contentType === "application/json" && event.messageId === "m-1" && event.correlationId === "c1", system);
    const method = JSON.parse(system["iothub-connection-auth-method"]);
    ensure(method.scope === "device" && method.type === "sas", method);
    ensure(system["iothub-connection-auth-generation-id"] && system["iothub-enqueuedtime"], system);
    ensure(same(event.properties, { colour: "blue green", é: "x=y&z" }), event.properties);
  },
};

// This SDK takes no certificate for a plain socket: the process has to be started with it.
async function withTrust(feature) {
  const ca = JSON.parse(readFileSync(process.env.SDK_HUB, "utf8"))["ca-file"];
  if (process.env.NODE_EXTRA_CA_CERTS === ca) return FEATURES[feature](new Hub());
  const { spawnSync } = await import("node:child_process");
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: ca };
  const done = spawnSync(process.execPath, [process.argv[1], feature], { env, stdio: "inherit" });
  process.exit(done.status ?? 1);
}

const [argument, ...more] = process.argv.slice(2);
if (argument === "--list" && !more.length) {
  console.log(Object.keys(FEATURES).join("\n"));
} else if (!FEATURES[argument] || more.length) {
  console.error(`usage: service.mjs --list | ${Object.keys(FEATURES).join(" | ")}`);
  process.exit(64);
} else {
  try {
    await withTrust(argument);
    process.exit(0);
  } catch (error) {
    console.error(error instanceof Fault ? error.message : `${textOf(error)} ${process.env.SDK_TRACE ? error.stack : ""}`);
    process.exit(1);
  }
}
