// Eclipse Tahu's Sparkplug client for Node, unmodified, as an edge node with one device behind it.
//
//     edge_node.mjs URL
//
// It is born when it connects and when it is asked to be, and does what its standard input says, a line each:
//
//     data V      publishes V as data of the device, named by aliases alone
//     skip        leaves a number of its sequence out
//     device-death
//
// It prints what it did, a line of JSON each: {"sent": [{device, metric, value, at}, …]}, {"asked": true}.
// Environment: SPARKPLUG_NODE, the folder whose `node_modules` holds the packages of package.json, if not this one.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(
  process.env.SPARKPLUG_NODE ? pathToFileURL(`${process.env.SPARKPLUG_NODE}/x.js`) : import.meta.url,
);
const { newClient } = require("sparkplug-client");

const device = "press-3";
const client = newClient({
  serverUrl: process.argv[2],
  username: "",
  password: "",
  groupId: "plant",
  edgeNode: "edge-1",
  clientId: "edge-1",
});

let uptime = 0;
let last = 0;
const latest = { Temperature: 20.5, Count: -5, Door: false, State: "idle" };
const describe = {
  Temperature: { alias: 2, type: "Float", properties: { engUnit: { type: "String", value: "°C" } } },
  Count: { alias: 3, type: "Int32" },
  Door: { alias: 4, type: "Boolean" },
  State: { alias: 5, type: "String" },
};

/** Milliseconds, each once: a value of the same time would be a repeat. */
function now() {
  last = Math.max(Date.now(), last + 1);
  return last;
}

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

function sent(name, metrics, at) {
  say({ sent: Object.entries(metrics).map(([metric, value]) => ({ device: name, metric, value, at })) });
}

function birth() {
  const at = now();
  uptime += 1;
  client.publishNodeBirth({
    timestamp: at,
    metrics: [
      { name: "Node Control/Rebirth", timestamp: at, type: "Boolean", value: false },
      { name: "Uptime", alias: 1, timestamp: at, type: "UInt64", value: uptime },
    ],
  });
  sent("plant/edge-1", { Uptime: uptime }, at);
  const metrics = Object.entries(latest).map(([name, value]) => ({ name, timestamp: at, value, ...describe[name] }));
  client.publishDeviceBirth(device, { timestamp: at, metrics });
  sent(`plant/edge-1/${device}`, latest, at);
}

function data(value) {
  const at = now();
  Object.assign(latest, { Temperature: value, Count: latest.Count - 1, Door: !latest.Door, State: `run ${value}` });
  const metrics = Object.entries(latest).map(([name, value]) => {
    const { alias, type } = describe[name];
    return { alias, timestamp: at, type, value };
  });
  client.publishDeviceData(device, { timestamp: at, metrics });
  sent(`plant/edge-1/${device}`, latest, at);
}

client.on("birth", birth);
client.on("ncmd", ({ metrics }) => {
  if (metrics.some(({ name, value }) => name === "Node Control/Rebirth" && value)) {
    say({ asked: true });
    birth();
  }
});
client.on("error", (error) => {
  process.stderr.write(`${error}\n`);
  process.exit(1);
});

createInterface({ input: process.stdin }).on("line", (line) => {
  const [verb, value] = line.split(" ");
  if (verb === "data") data(Number(value));
  // Its own counter, moved on without a message: as if one had been lost.
  else if (verb === "skip") client.addSeqNumber({});
  else if (verb === "device-death") client.publishDeviceDeath(device, { timestamp: now() });
  else throw new Error(`what is ${line}?`);
});
