// One row in a process of its own, so that what it leaves or breaks is nobody else's: prints its result as a line of JSON.
//   node bench/gpu/run-row.ts NAME DEVICE SHAPE SECONDS PYTHON

import { availableParallelism } from "node:os";
import { setThreadCount } from "#native";
import { usableDevice } from "../../packages/engine/device.ts";
import { rows } from "./rows/index.ts";
import type { ShapeName } from "./shapes.ts";

const [name = "", device = "", shape = "", seconds = "", peersPython = ""] = process.argv.slice(2);
const row = rows[name];
if (row === undefined) throw new RangeError(`no row ${name}`);
setThreadCount(availableParallelism());
const setting = {
  device: usableDevice(device as "cuda"),
  shape: shape as ShapeName,
  seconds: Number(seconds),
  peersPython,
};
process.stdout.write(`${JSON.stringify(await row.measure(setting))}\n`);
