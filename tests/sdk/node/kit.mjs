// What the scripts for Microsoft's IoT SDKs need: the hub's connection strings, a look at what arrived, scripted
// misfortune, requests to the service API made by hand, and the way features are named and run.
//
//     SCRIPT --list       the features, one per line
//     SCRIPT FEATURE      exit 0 if it works; else one paragraph on stderr says what does not
//
// Environment: SDK_HUB, the file that `simulator hub connection-strings --json` printed; SDK_HUB_HTTP, the hub's own HTTP
// address; SDK_DEVICE, the id D of a device of this script alone, beside which there are D/m, D-ca, D-thumbprint and
// D-expired (see ../python/hub.py); SDK_NODE, the folder whose `node_modules` holds the packages of package.json, if
// not this one.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { request } from "node:https";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";

export const require = createRequire(
  process.env.SDK_NODE ? pathToFileURL(`${process.env.SDK_NODE}/x.js`) : import.meta.url,
);

const PATIENCE_MS = 30_000;

/** The feature does not work; the text says how. */
export class Failed extends Error {}

/** The hub's service API said no. */
export class Refused extends Error {
  constructor(status, text) {
    super(`${status} ${text}`);
    this.status = status;
  }
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function equal(found, wanted, what) {
  if (!isDeepStrictEqual(found, wanted)) {
    throw new Failed(`${what}: ${JSON.stringify(found)} instead of ${JSON.stringify(wanted)}`);
  }
}

export async function until(condition, what) {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await sleep(50)) {
    const value = await condition();
    if (value) return value;
  }
  throw new Failed(`not within ${PATIENCE_MS} ms: ${what}`);
}

// ---- the hub --------------------------------------------------------------------------------------------------------

// A list of features needs no hub.
export const strings = process.env.SDK_HUB ? JSON.parse(readFileSync(process.env.SDK_HUB, "utf8")) : undefined;
export const id = process.env.SDK_DEVICE;
export const host = strings?.mqtt.host;
export const ca = strings && readFileSync(strings["ca-file"], "utf8");
const http = process.env.SDK_HUB_HTTP?.replace(/\/$/, "");

export const get = async (path) => (await fetch(http + path)).json();

export async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(http + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Failed(`${path}: ${await answer.text()}`);
}

const direct = (text) => text.replace(`HostName=${strings["host-name"]};`, `HostName=${host};`);

/** The connection string of a device, or of a module `device/module`; a direct one says to dial the hub's address. */
export function connectionString(name = id, dial = true) {
  const text = strings[name.includes("/") ? "modules" : "devices"][name];
  return dial ? direct(text) : text;
}

/** The connection string of a policy that may do everything. */
export const owner = () => direct(strings.policies.iothubowner);

/** Where the device's partition ends now. */
export async function end(device = id) {
  const { partition } = await get(`/events?device=${device}&max=1`);
  return (await get("/status")).partitions[partition]["last-enqueued-sequence-number"] + 1;
}

export async function events(since, device = id) {
  for (const found = []; ; ) {
    const page = await get(`/events?device=${device}&from=${since}&max=1000`);
    found.push(...page.events);
    if (page.next === since) return found;
    since = page.next;
  }
}

export const body = (event) => Buffer.from(event["body-base64"], "base64").toString();

// ---- the service API, without an SDK --------------------------------------------------------------------------------

const partsOf = (text) =>
  Object.fromEntries(text.split(";").map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]));

/** A token, by hand. */
function token() {
  const { HostName, SharedAccessKey, SharedAccessKeyName } = partsOf(owner());
  const ends = Math.floor(Date.now() / 1000) + 3600;
  const digest = createHmac("sha256", Buffer.from(SharedAccessKey, "base64")).update(`${HostName}\n${ends}`).digest("base64");
  return `SharedAccessSignature sr=${HostName}&sig=${encodeURIComponent(digest)}&se=${ends}&skn=${SharedAccessKeyName}`;
}

/** Asks the service API; gives what it answers. */
export function service(method, path, content, more = {}) {
  const bytes = content === undefined || Buffer.isBuffer(content) ? content : Buffer.from(JSON.stringify(content));
  const headers = { Authorization: token(), "Content-Type": "application/json", "Content-Length": bytes?.length ?? 0, ...more };
  return new Promise((resolve, reject) => {
    const asking = request(
      { host, port: 443, path: `${path}?api-version=2021-04-12`, method, headers, ca, agent: false },
      (answer) => {
        let text = "";
        answer.setEncoding("utf8");
        answer.on("data", (part) => (text += part));
        answer.on("end", () => {
          if (400 <= answer.statusCode) reject(new Refused(answer.statusCode, text));
          else resolve(text ? JSON.parse(text) : undefined);
        });
      },
    );
    asking.on("error", reject);
    asking.end(bytes);
  });
}

/** Changes desired properties as a service does; gives the twin. */
export const change = (desired, who = id, tags = {}) => service("PATCH", `/twins/${who}`, { tags, properties: { desired } });

export const twinOf = (who = id) => service("GET", `/twins/${who}`);

/** A section of a twin without what the service or the SDK adds. */
export const plain = (section) =>
  Object.fromEntries(Object.entries(section).filter(([name, value]) => !name.startsWith("$") && typeof value !== "function"));

export const call = (methodName, payload, who = id, more = {}) =>
  service("POST", `/twins/${who}/methods`, { methodName, payload, responseTimeoutInSeconds: 30, ...more });

/** Expects that nobody answers a method. */
export async function notCalled(status, code, name, more = {}) {
  const answer = await call(name, {}, id, more).catch((error) => error);
  if (!(answer instanceof Refused) || answer.status !== status || !answer.message.includes(`${code}`)) {
    throw new Failed(`${name}: ${answer?.message ?? JSON.stringify(answer)} instead of ${status} and ${code}`);
  }
}

/** Sends a command to a device. */
export function command(content, { device = id, ack, messageId, correlationId, contentType, contentEncoding, expiryS, properties = {} } = {}) {
  const head = {
    "Content-Type": contentType ?? "application/octet-stream",
    "Content-Encoding": contentEncoding,
    "iothub-to": `/devices/${device}/messages/devicebound`,
    "iothub-ack": ack,
    "iothub-messageid": messageId,
    "iothub-correlationid": correlationId,
    "iothub-expiry": expiryS === undefined ? undefined : new Date(Date.now() + expiryS * 1000).toISOString(),
  };
  for (const [name, value] of Object.entries(properties)) head[`iothub-app-${name}`] = value;
  const said = Object.fromEntries(Object.entries(head).filter(([, value]) => value !== undefined));
  return service("POST", "/messages/devicebound", Buffer.from(content), said);
}

/** How many commands wait for a device. */
export const queued = async (device = id) => (await service("GET", `/devices/${device}`)).cloudToDeviceMessageCount;

export const emptyQueue = (device = id) => service("DELETE", `/devices/${device}/commands`);

// ---- features -------------------------------------------------------------------------------------------------------

/** Runs the feature named on the command line. For those in `trust` the process has to start with the hub's certificate. */
export async function main(features, { trust = [] } = {}) {
  const [asked] = process.argv.slice(2);
  if (asked === "--list") {
    console.log(Object.keys(features).join("\n"));
    return;
  }
  if (process.argv.length !== 3 || !(asked in features)) {
    console.error(`usage: ${process.argv[1]} --list | FEATURE`);
    process.exit(64);
  }
  if (trust.includes(asked) && process.env.NODE_EXTRA_CA_CERTS !== strings["ca-file"]) {
    const { spawnSync } = await import("node:child_process");
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: strings["ca-file"] };
    const done = spawnSync(process.execPath, [process.argv[1], asked], { env, stdio: "inherit" });
    process.exit(done.status ?? 1);
  }
  try {
    await features[asked]();
    process.exit(0);
  } catch (error) {
    console.error(error instanceof Failed ? error.message : (error?.stack ?? error));
    process.exit(1);
  }
}
