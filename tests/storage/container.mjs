// Creates a container in Azurite: `node container.mjs http://127.0.0.1:PORT/devstoreaccount1 NAME`. Signs as the service
// asks (Shared Key), with the account and key that every Azurite has.
import { createHmac } from "node:crypto";

const KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const [endpoint, name] = process.argv.slice(2);
const date = new Date().toUTCString();
const url = new URL(`${endpoint}/${name}?restype=container`);
const account = url.pathname.split("/")[1];
const text = [
  "PUT", "", "", "", "", "", "", "", "", "", "", "",
  `x-ms-date:${date}`, "x-ms-version:2021-08-06",
  `/${account}${url.pathname}`, "restype:container",
].join("\n");
const signature = createHmac("sha256", Buffer.from(KEY, "base64")).update(text, "utf8").digest("base64");
const headers = {
  "x-ms-date": date, "x-ms-version": "2021-08-06", "content-length": "0",
  authorization: `SharedKey ${account}:${signature}`,
};
const answer = await fetch(url, { method: "PUT", headers });
if (answer.status !== 201) {
  console.error(answer.status, await answer.text());
  process.exit(1);
}
