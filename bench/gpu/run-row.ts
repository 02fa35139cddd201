// One row in a process of its own, so that what it leaves or breaks is nobody else's: prints its result as a line of JSON.
//   node bench/gpu/run-row.ts NAME SETTING

import { availableParallelism } from "node:os";
import { setThreadCount } from "#native";
import { usableDevice } from "../../packages/engine/device.ts";
import type { Setting } from "./row.ts";
import { rows } from "./rows/index.ts";

const [name = "", given = ""] = process.argv.slice(2);
const row = rows[name];
if (row === undefined) throw new RangeError(`no row ${name}`);
setThreadCount(availableParallelism());
const setting = JSON.parse(given) as Setting;
usableDevice(setting.device);
process.stdout.write(`${JSON.stringify(await row.measure(setting))}\n`);
