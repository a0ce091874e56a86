// Makes scheduler-js.wasm: `npm install`, then `npm run build`.
import { componentize } from "@bytecodealliance/componentize-js";
import { readFile, writeFile } from "node:fs/promises";

const source = await readFile("scheduler.js", "utf8");
const { component } = await componentize(source, {
  witPath: "../../../wit",
  worldName: "scheduler-policy",
  // Nothing that would import WASI.
  disableFeatures: ["clocks", "fetch-event", "http", "random", "stdio"],
});
await writeFile("scheduler-js.wasm", component);
